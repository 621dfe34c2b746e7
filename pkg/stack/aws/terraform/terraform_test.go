package terraform

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/hcl/v2/hclparse"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

var sandbox = Options{Endpoint: "http://127.0.0.1:4566", Region: "us-east-1", Bucket: "sandbox-terraform-state", Table: "sandbox-terraform-locks"}

// folder makes a folder of files: "-- NAME --" begins each.
func folder(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dev")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, part := range strings.Split(text, "-- ")[1:] {
		name, content, _ := strings.Cut(part, " --\n")
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// written is what InitDir has written, with one blank between words, so that
// alignment does not matter.
func written(t *testing.T, r api.TerraformDir) string {
	t.Helper()
	b, err := os.ReadFile(r.File)
	if err != nil {
		t.Fatal(err)
	}
	if _, diags := hclparse.NewParser().ParseHCL(b, FileName); diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, b)
	}
	return strings.Join(strings.Fields(string(b)), " ")
}

// The backend of the seeds.
const seeds = `-- backend.tf --
terraform {
  backend "s3" {
    bucket         = "myapp-terraform-state"
    key            = "dev/terraform.tfstate"
    region         = "us-east-1"
    dynamodb_table = "myapp-terraform-locks"
    encrypt        = true
  }
}
-- main.tf --
module "vpc" {
  source = "../../modules/vpc"
}
`

func TestInitDir(t *testing.T) {
	lockfile := sandbox
	lockfile.UseLockfile = true
	for name, c := range map[string]struct {
		files     string
		options   Options
		state     string
		lock      string
		providers []string
		has, not  []string
	}{
		"the seeds": {
			files: seeds, options: sandbox,
			state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"aws"},
			has: []string{`encrypt = true`, `dynamodb_table = "sandbox-terraform-locks"`, `region = "us-east-1"`, `ec2 = "http://127.0.0.1:4566"`, "use_path_style = true"},
			not: []string{"myapp", "use_lockfile"},
		},
		"a lock file": {
			files: seeds, options: lockfile,
			state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "lock file", providers: []string{"aws"},
			has: []string{"use_lockfile = true"}, not: []string{"dynamodb_table"},
		},
		"a configuration with a lock file": {
			files: `-- a.tf --
terraform {
  backend "s3" {
    bucket       = "b"
    key          = "${"x"}/k"
    use_lockfile = true
    assume_role = { role_arn = "arn:aws:iam::1:role/r" }
  }
}
`,
			options: sandbox, state: `s3://sandbox-terraform-state/${"x"}/k`, lock: "lock file", not: []string{"assume_role", "provider"},
			has: []string{`key = "${"x"}/k"`},
		},
		"no backend": {
			files:   "-- main.tf --\nresource \"aws_vpc\" \"main\" {\n}\n",
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"aws"},
		},
		"nothing of AWS's": {
			files:   "-- main.tf --\nprovider \"kubernetes\" {}\nresource \"kubernetes_namespace\" \"x\" {}\n",
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", not: []string{"provider"},
		},
		"an empty folder": {
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"aws"},
		},
		"aliases, and what leads elsewhere": {
			files: `-- main.tf --
provider "aws" {
  region  = var.region
  profile = "work"
  default_tags {
    tags = { Team = "x" }
  }
}
provider "aws" {
  alias               = "west"
  allowed_account_ids = ["123456789012"]
}
`,
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"aws", "aws.west"},
			has: []string{"profile = null", `alias = "west" region = "us-east-1"`, "allowed_account_ids = null", `provider "aws" { access_key`},
			not: []string{"default_tags"},
		},
		"another local name": {
			files: `-- main.tf --
terraform {
  required_providers {
    amazon = { source = "registry.opentofu.org/hashicorp/aws", version = "~> 5.0" }
    aws    = { source = "example/other" }
  }
}
provider "amazon" { region = "eu-central-1" }
provider "aws" {}
`,
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"amazon"},
			has: []string{`provider "amazon" {`}, not: []string{`provider "aws"`},
		},
		"only an alias has a block": {
			files:   "-- main.tf --\nprovider \"aws\" { alias = \"west\" }\nresource \"aws_vpc\" \"x\" {}\n",
			options: sandbox, state: "s3://sandbox-terraform-state/dev/terraform.tfstate", lock: "table sandbox-terraform-locks", providers: []string{"aws", "aws.west"},
		},
		"JSON": {
			files: `-- main.tf.json --
{"terraform": {"backend": {"s3": {"bucket": "b", "key": "json/state", "region": "x", "dynamodb_table": "t"}}},
 "provider": {"aws": [{"region": "x"}, {"alias": "west"}]}}
`,
			options: sandbox, state: "s3://sandbox-terraform-state/json/state", lock: "table sandbox-terraform-locks", providers: []string{"aws", "aws.west"},
		},
		"a file for OpenTofu": {
			files:   "-- main.tofu --\nterraform {\n  backend \"s3\" {\n    key = \"tofu\"\n  }\n}\n",
			options: sandbox, state: "s3://sandbox-terraform-state/tofu", lock: "table sandbox-terraform-locks",
		},
	} {
		dir := folder(t, c.files)
		r, err := InitDir(dir, c.options)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !r.Changed || r.State != c.state || r.Lock != c.lock || !slices.Equal(r.Providers, c.providers) {
			t.Errorf("%s: %+v", name, r)
		}
		text := written(t, r)
		for _, want := range c.has {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in %s", name, want, text)
			}
		}
		for _, no := range c.not {
			if strings.Contains(strings.TrimPrefix(text, text[:strings.Index(text, "terraform {")]), no) {
				t.Errorf("%s: %q in %s", name, no, text)
			}
		}
		if again, err := InitDir(dir, c.options); err != nil || again.Changed {
			t.Errorf("%s again: %+v, %v", name, again, err)
		}
	}
}

func TestInitDirRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		files string
		class func(error) bool
		says  []string
	}{
		"another's file":   {"-- sandbox_override.tf --\n# mine\n", errdefs.IsAlreadyExists, []string{FileName, "rename it"}},
		"no HCL":           {"-- main.tf --\nresource \"aws_vpc\" {\n", errdefs.IsInvalidArgument, []string{"main.tf:1: "}},
		"no JSON":          {"-- main.tf.json --\n{\"resource\": \n", errdefs.IsInvalidArgument, []string{"main.tf.json:"}},
		"a missing label":  {"-- main.tf --\n\nprovider {\n}\n", errdefs.IsInvalidArgument, []string{"main.tf:2: "}},
		"another backend":  {"-- a.tf --\nterraform {\n  backend \"gcs\" {}\n}\n", errdefs.IsFailedPrecondition, []string{"a.tf:2: ", "gcs", "remove that block"}},
		"HCP Terraform":    {"-- a.tf --\nterraform {\n  cloud {}\n}\n", errdefs.IsFailedPrecondition, []string{"a.tf:2: ", "cloud"}},
		"an unknown alias": {"-- a.tf --\nprovider \"aws\" {\n  alias = var.x\n}\n", errdefs.IsInvalidArgument, []string{"a.tf:2: "}},
	} {
		dir := folder(t, c.files)
		_, err := InitDir(dir, sandbox)
		if !c.class(err) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		text := err.Error()
		var hint interface{ Hint() string }
		if errors.As(err, &hint) {
			text += "; " + hint.Hint()
		}
		for _, want := range c.says {
			if !strings.Contains(text, want) {
				t.Errorf("%s: no %q in %s", name, want, text)
			}
		}
		if b, err := os.ReadFile(filepath.Join(dir, FileName)); err == nil && string(b) != "# mine\n" {
			t.Errorf("%s: written all the same", name)
		}
	}
	if _, err := InitDir(filepath.Join(t.TempDir(), "none"), sandbox); !errdefs.IsNotFound(err) {
		t.Errorf("no folder: %v", err)
	}
}
