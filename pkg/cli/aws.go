package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

// AWS is an AWS, and what the user's own tools must know to use it.
type AWS interface {
	Access() api.AWSAccess
	List(ctx context.Context) ([]api.AWSItem, error)
	// WriteProfile has a profile in the files of AWS's command line, and
	// RemoveProfile has it there no more; both return the files that they have
	// changed.
	WriteProfile(ctx context.Context, name string) (changed []string, err error)
	RemoveProfile(ctx context.Context, name string) (changed []string, err error)
	// InitTerraform points a folder of Terraform's at it.
	InitTerraform(ctx context.Context, dir string, lockfile bool) (api.TerraformDir, error)
}

// awsStage is the stage whose first item tells the endpoint.
const awsStage = "aws"

// statusTimeout bounds how long a daemon is asked where things are.
const statusTimeout = 2 * time.Second

func (p *program) awsCommand() *cli.Command {
	return &cli.Command{
		Name: "aws", Category: groupStack, Usage: "use the sandbox's AWS",
		Description: `
EXAMPLES
  sandbox aws env >aws.env && . ./aws.env
  sandbox aws profile && aws --profile sandbox s3 ls
  sandbox aws ls`,
		Subcommands: []*cli.Command{p.awsEnv(), p.awsProfile(), p.awsList()},
	}
}

// endpointFlag names another AWS than that of the stage.
func endpointFlag() cli.Flag {
	return &cli.StringFlag{Name: "endpoint", Usage: "use the AWS at this `URL` (that of the stage aws)", EnvVars: []string{"SANDBOX_AWS_ENDPOINT"}}
}

// aws is the AWS that the flags ask for. Where the stage's port was moved, the
// daemon knows where to.
func (p *program) aws(ctx context.Context, c *cli.Context) AWS {
	endpoint := c.String("endpoint")
	if endpoint == "" {
		ctx, cancel := context.WithTimeout(ctx, statusTimeout)
		defer cancel()
		if status, err := p.client().Status(ctx); err == nil {
			endpoint = endpointIn(status)
		}
	}
	return p.host.AWS(endpoint)
}

func endpointIn(status api.StackStatus) string {
	for _, s := range status.Stages {
		if s.Name == awsStage && len(s.Items) > 0 && strings.Contains(s.Items[0].Where, "://") {
			return s.Items[0].Where
		}
	}
	return ""
}

func (p *program) awsEnv() *cli.Command {
	return &cli.Command{
		Name: "env", Usage: "print the variables by which AWS's tools find it",
		Description: `
EXAMPLES
  sandbox aws env >aws.env && . ./aws.env
  sandbox aws env --json | jq -r .AWS_ENDPOINT_URL`,
		Flags: []cli.Flag{endpointFlag(), jsonFlag()},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			a := p.aws(ctx, c).Access()
			env := [][2]string{
				{"AWS_ENDPOINT_URL", a.Endpoint},
				{"AWS_ACCESS_KEY_ID", a.AccessKey},
				{"AWS_SECRET_ACCESS_KEY", a.SecretKey},
				{"AWS_REGION", a.Region},
				{"AWS_DEFAULT_REGION", a.Region},
				// Nobody is to be asked at the address of EC2's metadata.
				{"AWS_EC2_METADATA_DISABLED", "true"},
			}
			if c.Bool("json") {
				values := map[string]string{}
				for _, e := range env {
					values[e[0]] = e[1]
				}
				return ui.JSON(p.Term.Stdout(), values)
			}
			for _, e := range env {
				fmt.Fprintf(p.Term.Stdout(), "export %s=%s\n", e[0], shellQuote(e[1]))
			}
			// A profile or a token of another AWS would be sent along.
			fmt.Fprintln(p.Term.Stdout(), "unset AWS_PROFILE AWS_SESSION_TOKEN")
			return nil
		}),
	}
}

// shellQuote writes a word so that a shell takes it as it is.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%+,", r)
	}
	if s != "" && strings.TrimFunc(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func (p *program) awsProfile() *cli.Command {
	return &cli.Command{
		Name: "profile", Usage: "write a profile for AWS's tools into ~/.aws",
		Description: `
Other profiles stay as they are, and so does one of that name that sandbox has
not written.

EXAMPLES
  sandbox aws profile && aws --profile sandbox s3 ls
  sandbox aws profile --remove`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "call the profile `NAME`", Value: "sandbox"},
			&cli.BoolFlag{Name: "remove", Usage: "remove the profile", DisableDefaultText: true},
			endpointFlag(), jsonFlag(),
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			name, aws := c.String("name"), p.aws(ctx, c)
			change, verb := aws.WriteProfile, "written"
			if c.Bool("remove") {
				change, verb = aws.RemoveProfile, "removed from"
			}
			changed, err := change(ctx, name)
			if err != nil {
				return err
			}
			if c.Bool("json") {
				if changed == nil {
					changed = []string{}
				}
				return ui.JSON(p.Term.Stdout(), map[string]any{"profile": name, "changed": changed})
			}
			if len(changed) == 0 {
				fmt.Fprintf(p.Term.Stdout(), "profile %s: nothing to do\n", name)
				return nil
			}
			if verb == "written" {
				verb += " to"
			}
			fmt.Fprintf(p.Term.Stdout(), "profile %s: %s %s\n", name, verb, strings.Join(changed, " and "))
			return nil
		}),
	}
}

func (p *program) awsList() *cli.Command {
	return &cli.Command{
		Name: "ls", Usage: "list what is there: buckets, tables, secrets, VPCs, …",
		Description: `
EXAMPLES
  sandbox aws ls
  sandbox aws ls --json | jq -r '.[] | select(.kind == "VPC").name'`,
		Flags: []cli.Flag{endpointFlag(), jsonFlag()},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			items, err := p.aws(ctx, c).List(ctx)
			if len(items) == 0 && err != nil {
				return err
			}
			if c.Bool("json") {
				if items == nil {
					items = []api.AWSItem{}
				}
				return joinErrors(err, ui.JSON(p.Term.Stdout(), items))
			}
			t := ui.Table{Header: []string{"KIND", "NAME", "NOTE"}}
			for _, it := range items {
				t.Add(ui.Plain(it.Kind), ui.Plain(it.Name), ui.Plain(it.Note))
			}
			return joinErrors(err, t.Write(p.Term.Stdout(), p.Term.OutStyle()))
		}),
	}
}

func (p *program) terraformCommand() *cli.Command {
	return &cli.Command{
		Name: "tf", Category: groupStack, Usage: "use Terraform or OpenTofu with the sandbox's AWS",
		Description: `
EXAMPLES
  sandbox tf init-dir environments/dev && tofu -chdir=environments/dev init`,
		Subcommands: []*cli.Command{p.terraformInitDir()},
	}
}

func (p *program) terraformInitDir() *cli.Command {
	return &cli.Command{
		Name: "init-dir", Usage: "have a folder of Terraform's keep its state in, and build in, the sandbox's AWS",
		ArgsUsage: "FOLDER",
		Description: `
Writes sandbox_override.tf, which stands for what the other files say about the
backend and the AWS provider: those stay as they are. The state is in the
bucket of the stage aws, under the key that the configuration names. It is
locked by DynamoDB, or by a file beside it, as the configuration has it.

Without that file, the folder is as it was.

EXAMPLES
  sandbox tf init-dir .
  sandbox tf init-dir --use-lockfile environments/dev`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "use-lockfile", Usage: "lock the state by a file beside it", DisableDefaultText: true},
			endpointFlag(), jsonFlag(),
		},
		Action: p.action(1, 1, func(ctx context.Context, c *cli.Context) error {
			r, err := p.aws(ctx, c).InitTerraform(ctx, c.Args().First(), c.Bool("use-lockfile"))
			if err != nil {
				return err
			}
			if c.Bool("json") {
				return ui.JSON(p.Term.Stdout(), r)
			}
			out := p.Term.Stdout()
			what := "written"
			if !r.Changed {
				what = "already there"
			}
			fmt.Fprintf(out, "%s: %s\n", ui.Plain(relative(thisProcess().cwd, r.File)), what)
			fmt.Fprintf(out, "state: %s, locked by %s\n", ui.Plain(r.State), r.Lock)
			if len(r.Providers) > 0 {
				fmt.Fprintf(out, "providers: %s\n", ui.Plain(strings.Join(r.Providers, ", ")))
			}
			fmt.Fprintln(out, "next: tofu init -reconfigure")
			return nil
		}),
	}
}
