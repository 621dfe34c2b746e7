package terraform

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// services are those of the provider that are sent to the endpoint: what
// LocalStack has, and what lessons of the seeds use besides, so that the answer
// for these is LocalStack's and not that of a network that is not there.
var services = []string{
	"acm", "apigateway", "autoscaling", "cloudformation", "cloudwatch", "dynamodb", "ec2", "ecr", "ecs", "eks", "elbv2", "events",
	"firehose", "iam", "kinesis", "kms", "lambda", "logs", "opensearch", "rds", "redshift", "resourcegroups",
	"resourcegroupstaggingapi", "route53", "route53resolver", "s3", "s3control", "scheduler", "secretsmanager", "ses", "sfn", "sns",
	"sqs", "ssm", "sts", "swf", "transcribe",
}

// render makes the file of a configuration. name is its folder's.
func render(c *configuration, name string, o Options) ([]byte, api.TerraformDir) {
	var b bytes.Buffer
	fmt.Fprintf(&b, `%s, which replaces it: do not edit. It has the state of
# this folder, and what its AWS provider makes, in the sandbox. Without it, both
# are where the other files say.

`, mark)
	result := renderBackend(&b, c.backend, name, o)
	providers := c.providers
	if len(providers) == 0 && (c.usesAWS || c.empty) {
		for _, local := range c.local {
			providers = append(providers, provider{name: local})
		}
	}
	for _, p := range c.local {
		// Resources without a provider argument have the one without an alias,
		// which is there even if it has no block.
		if c.usesAWS && !has(providers, p) {
			providers = append([]provider{{name: p}}, providers...)
		}
	}
	for _, p := range providers {
		renderProvider(&b, p, o)
		result.Providers = append(result.Providers, p.String())
	}
	return align(b.Bytes()), result
}

func has(providers []provider, name string) bool {
	for _, p := range providers {
		if p.String() == name {
			return true
		}
	}
	return false
}

// renderBackend writes the backend, which replaces the configuration's as a
// whole: what is to stay of that is repeated.
func renderBackend(b *bytes.Buffer, have *backend, name string, o Options) api.TerraformDir {
	attributes := map[string]string{}
	if have != nil {
		attributes = have.attributes
	}
	key := attributes["key"]
	if key == "" {
		key = quote(name + "/terraform.tfstate")
	}
	lockfile := o.UseLockfile || attributes["use_lockfile"] != "" && attributes["use_lockfile"] != "false" && attributes["dynamodb_table"] == ""
	result := api.TerraformDir{State: "s3://" + o.Bucket + "/" + strings.Trim(key, `"`), Replaced: strings.Trim(attributes["bucket"], `"`)}
	fmt.Fprintf(b, "terraform {\n  backend \"s3\" {\n    bucket = %s\n    key = %s\n    region = %s\n", quote(o.Bucket), key, quote(o.Region))
	for _, name := range []string{"encrypt", "workspace_key_prefix"} {
		if v := attributes[name]; v != "" {
			fmt.Fprintf(b, "    %s = %s\n", name, v)
		}
	}
	if lockfile {
		result.Lock = "lock file"
		b.WriteString("    use_lockfile = true\n")
	} else {
		result.Lock = "table " + o.Table
		fmt.Fprintf(b, "    dynamodb_table = %s\n", quote(o.Table))
	}
	fmt.Fprintf(b, `
    access_key = "test"
    secret_key = "test"
    use_path_style = true
    skip_credentials_validation = true
    skip_metadata_api_check = true
    skip_region_validation = true
    skip_requesting_account_id = true
    endpoints = {
`)
	for _, s := range []string{"dynamodb", "iam", "s3", "sts"} {
		fmt.Fprintf(b, "      %s = %s\n", s, quote(o.Endpoint))
	}
	b.WriteString("    }\n  }\n}\n")
	return result
}

// renderProvider writes what is merged into a provider's block: an argument
// replaces that of the same name, null takes it away.
func renderProvider(b *bytes.Buffer, p provider, o Options) {
	fmt.Fprintf(b, "\nprovider %s {\n", quote(p.name))
	if p.alias != "" {
		fmt.Fprintf(b, "  alias = %s\n", quote(p.alias))
	}
	if !p.attributes["region"] {
		fmt.Fprintf(b, "  region = %s\n", quote(o.Region))
	}
	b.WriteString(`  access_key = "test"
  secret_key = "test"
  s3_use_path_style = true
  skip_credentials_validation = true
  skip_metadata_api_check = true
  skip_requesting_account_id = true
`)
	for _, name := range foreign {
		if p.attributes[name] {
			fmt.Fprintf(b, "  %s = null\n", name)
		}
	}
	b.WriteString("\n  endpoints {\n")
	for _, s := range services {
		fmt.Fprintf(b, "    %s = %s\n", s, quote(o.Endpoint))
	}
	b.WriteString("  }\n}\n")
}

// align puts the equals signs of lines that follow each other into one column,
// as `tofu fmt` does.
func align(text []byte) []byte {
	lines := strings.Split(string(text), "\n")
	for i := 0; i < len(lines); {
		j, width := i, 0
		for ; j < len(lines) && assignment(lines[j]); j++ {
			name, _, _ := strings.Cut(lines[j], " = ")
			width = max(width, len(name))
		}
		for ; i < j; i++ {
			name, value, _ := strings.Cut(lines[i], " = ")
			lines[i] = fmt.Sprintf("%-*s = %s", width, name, value)
		}
		i = max(i, j+1)
	}
	return []byte(strings.Join(lines, "\n"))
}

// assignment reports whether a line is an argument of one line.
func assignment(line string) bool {
	return strings.Contains(line, " = ") && !strings.HasSuffix(line, "{") && !strings.HasPrefix(strings.TrimSpace(line), "#")
}
