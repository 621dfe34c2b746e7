package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) imageLint() *cli.Command {
	return &cli.Command{
		Name: "lint", Usage: "look for mistakes in recipes",
		ArgsUsage: "[FOLDER...]",
		Description: `
A FOLDER is a recipe, or has recipes in its folders; without one, it is the
current folder. Prints a line for each problem: FILE:LINE: what is wrong (what to
do). The exit code is 3 when there are problems that are more than warnings.
No daemon is needed.

EXAMPLES
  sandbox image lint ./images/my-recipe
  sandbox image lint images
  sandbox image lint --json images | jq -r '.[].file'`,
		Flags: []cli.Flag{jsonFlag()},
		Action: p.action(0, -1, func(ctx context.Context, c *cli.Context) error {
			dirs := c.Args().Slice()
			if len(dirs) == 0 {
				dirs = []string{"."}
			}
			problems, err := p.host.Lint(ctx, dirs)
			if err != nil {
				return err
			}
			return p.printProblems(problems, c.Bool("json"))
		}),
	}
}

func (p *program) printProblems(problems []api.RecipeProblem, asJSON bool) error {
	out, style := p.Term.Stdout(), p.Term.OutStyle()
	if asJSON {
		if problems == nil {
			problems = []api.RecipeProblem{}
		}
		if err := ui.JSON(out, problems); err != nil {
			return err
		}
	}
	errors := 0
	cwd := thisProcess().cwd
	for _, problem := range problems {
		if !problem.Warning {
			errors++
		}
		if asJSON {
			continue
		}
		line := fmt.Sprintf("%s:%d: ", ui.Plain(relative(cwd, problem.File)), problem.Line)
		if problem.Warning {
			line += style.Yellow("warning: ")
		}
		line += ui.Plain(problem.Message)
		if problem.Hint != "" {
			line += style.Dim(" (" + ui.Plain(problem.Hint) + ")")
		}
		fmt.Fprintln(out, line)
	}
	if errors > 0 {
		return exit(exitCheckFailed)
	}
	return nil
}

// relative is how a path is written from here, if that is shorter.
func relative(cwd, path string) string {
	if rel, err := filepath.Rel(cwd, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}

func (p *program) imageNew() *cli.Command {
	return &cli.Command{
		Name: "new", Usage: "make a recipe to start from",
		ArgsUsage: "NAME",
		Description: `
The recipe can be built as it is, and its test passes. No daemon is needed.

EXAMPLES
  sandbox image new my-app
  sandbox image new my-app --dir images
  sandbox image build ./my-app`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "make it in `FOLDER` (images, if there is one, or else the current folder)"},
		},
		Action: p.action(1, 1, func(ctx context.Context, c *cli.Context) error {
			dir := c.String("dir")
			if dir == "" {
				dir = "."
				if info, err := os.Stat("images"); err == nil && info.IsDir() {
					dir = "images"
				}
			}
			folder, err := p.host.NewRecipe(ctx, dir, c.Args().First())
			if err != nil {
				return err
			}
			if folder = relative(thisProcess().cwd, folder); !filepath.IsAbs(folder) {
				folder = "./" + folder // as build wants it
			}
			fmt.Fprintln(p.Term.Stdout(), folder)
			fmt.Fprintf(p.Term.Stderr(), "next: sandbox image lint %s, then sandbox image build %s\n", folder, folder)
			return nil
		}),
	}
}

func (p *program) imageSBOM() *cli.Command {
	return &cli.Command{
		Name: "sbom", Usage: "list the packages in an image, or their licences",
		ArgsUsage: "IMAGE",
		Description: `
The list (SPDX) is made of the package databases in the image and of what programs
say of themselves. Images that are built from recipes have it attached; of others it
is made the first time.

EXAMPLES
  sandbox image sbom prometheus
  sandbox image sbom --licences prometheus
  sandbox image sbom --json prometheus > prometheus.spdx.json`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "licences", Aliases: []string{"licenses"}, Usage: "print each licence with the packages under it", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print the SPDX document, or with --licences those, as JSON", DisableDefaultText: true},
		},
		Action: p.action(1, 1, func(ctx context.Context, c *cli.Context) error {
			sbom, err := p.client().ImageSBOM(ctx, c.Args().First())
			if err != nil {
				return err
			}
			out := p.Term.Stdout()
			switch {
			case c.Bool("licences") && c.Bool("json"):
				return ui.JSON(out, sbom.Licences)
			case c.Bool("json"):
				return ui.JSON(out, sbom.Document)
			case c.Bool("licences"):
				t := ui.Table{Header: []string{"LICENCE", "PACKAGES", ""}, Right: []int{1}}
				for _, l := range sbom.Licences {
					t.Add(ui.Plain(l.Licence), fmt.Sprint(len(l.Packages)), ui.Truncate(ui.Plain(strings.Join(l.Packages, ", ")), maxLabel))
				}
				return t.Write(out, p.Term.OutStyle())
			}
			return p.printPackages(sbom)
		}),
	}
}

// printPackages lists the packages of an SPDX document.
func (p *program) printPackages(sbom api.ImageSBOM) error {
	var doc struct {
		Packages []struct {
			Name      string `json:"name"`
			Version   string `json:"versionInfo"`
			Declared  string `json:"licenseDeclared"`
			Concluded string `json:"licenseConcluded"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(sbom.Document, &doc); err != nil {
		return fmt.Errorf("the SBOM is no SPDX document: %w", err)
	}
	t := ui.Table{Header: []string{"PACKAGE", "VERSION", "LICENCE"}}
	for _, item := range doc.Packages {
		licence := item.Declared
		if licence == "" || licence == "NOASSERTION" {
			licence = item.Concluded
		}
		if licence == "NOASSERTION" {
			licence = ""
		}
		t.Add(ui.Plain(item.Name), ui.Plain(item.Version), ui.Truncate(ui.Plain(licence), maxLabel))
	}
	return t.Write(p.Term.Stdout(), p.Term.OutStyle())
}
