package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

// The image that has the tools, and where.
const (
	toolsImage  = "tools"
	toolsFolder = "/usr/local/bin"
)

func (p *program) toolsCommand() *cli.Command {
	return &cli.Command{
		Name: "tools", Category: groupStack,
		Usage: "list, install or remove kubectl, helm, tofu and others",
		Description: `
For who lacks them: kubectl, helm, tofu, conftest, sops, act, promtool and amtool,
of versions that fit the stack, out of an image that is pulled, or built from its
recipe when they are first asked for.

EXAMPLES
  sandbox tools ls
  sudo sandbox tools install
  sandbox tools install kubectl tofu --to ~/bin
  sudo sandbox tools uninstall`,
		Subcommands: []*cli.Command{
			{
				Name: "ls", Usage: "list the tools, and where this machine has them", Flags: []cli.Flag{jsonFlag()},
				Description: "\nEXAMPLES\n  sandbox tools ls\n  sandbox tools ls --json",
				Action:      p.action(0, 0, p.toolsList),
			},
			{
				Name: "install", Usage: "copy tools out of their image", ArgsUsage: "[TOOL...]",
				Description: `
All of them, or some. A file that is there already and is another one stays,
unless --force.

EXAMPLES
  sudo sandbox tools install
  sandbox tools install kubectl tofu --to ~/bin`,
				Flags: []cli.Flag{
					toFlag(),
					&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "replace other files of these names", DisableDefaultText: true},
				},
				Action: p.action(0, -1, p.toolsInstall),
			},
			{
				Name: "uninstall", Usage: "remove the tools that were installed", ArgsUsage: "[TOOL...]",
				Description: `
Only files that are the same as in the image are removed.

EXAMPLES
  sudo sandbox tools uninstall`,
				Flags:  []cli.Flag{toFlag()},
				Action: p.action(0, -1, p.toolsUninstall),
			},
		},
	}
}

func toFlag() cli.Flag {
	return &cli.StringFlag{Name: "to", Usage: "the `FOLDER` that has them (/usr/local/bin; without root, ~/.local/bin)"}
}

// toolsFolderOf is where this user's tools go.
func toolsFolderOf(c *cli.Context, root bool) (string, error) {
	if dir := c.String("to"); dir != "" {
		return filepath.Abs(dir)
	}
	if root {
		return "/usr/local/bin", nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".local", "bin"), err
}

// tools brings in the image, and lists those that are asked for.
func (p *program) tools(ctx context.Context, names []string, show shown) ([]api.ImageEntry, error) {
	_, err := p.pull(ctx, api.ImagePull{Name: toolsImage, Resolve: true, ConfigDir: dockerConfig()}, show)
	if err != nil {
		return nil, err
	}
	all, err := p.client().ImageFiles(ctx, toolsImage, toolsFolder)
	if err != nil || len(names) == 0 {
		return all, err
	}
	var known []string
	for _, t := range all {
		known = append(known, t.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, usagef("no tool %q: there are %s", name, strings.Join(known, ", "))
		}
	}
	return slices.DeleteFunc(all, func(t api.ImageEntry) bool { return !slices.Contains(names, t.Name) }), nil
}

func (p *program) toolsList(ctx context.Context, c *cli.Context) error {
	tools, err := p.tools(ctx, nil, shown{quiet: c.Bool("json")})
	if err != nil {
		return err
	}
	type row struct {
		Name string `json:"name"`
		Size int64  `json:"size"`
		Path string `json:"path,omitempty"`
	}
	rows := []row{}
	table := ui.Table{Header: []string{"TOOL", "SIZE", "HERE"}}
	for _, t := range tools {
		at, err := exec.LookPath(t.Name)
		if err != nil {
			at = ""
		}
		rows = append(rows, row{t.Name, t.Size, at})
		table.Add(t.Name, ui.Bytes(t.Size), ui.Plain(orDash(at)))
	}
	if c.Bool("json") {
		return ui.JSON(p.Term.Stdout(), rows)
	}
	return table.Write(p.Term.Stdout(), p.Term.OutStyle())
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func (p *program) toolsInstall(ctx context.Context, c *cli.Context) error {
	dir, err := toolsFolderOf(c, p.host.IsRoot())
	if err != nil {
		return err
	}
	tools, err := p.tools(ctx, c.Args().Slice(), shown{})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // programs are for all to run
		return err
	}
	var failed error
	for _, t := range tools {
		done, err := p.install(ctx, t, filepath.Join(dir, t.Name), c.Bool("force"))
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = joinErrors(failed, err)
			continue
		}
		fmt.Fprintf(p.Term.Stdout(), "%s: %s\n", filepath.Join(dir, t.Name), done)
	}
	if failed == nil && !slices.Contains(filepath.SplitList(os.Getenv("PATH")), dir) {
		fmt.Fprintf(p.Term.Stderr(), "%s is not in your PATH: export PATH=%s:$PATH\n", dir, dir)
	}
	return failed
}

// install copies one tool, whole or not at all.
func (p *program) install(ctx context.Context, t api.ImageEntry, to string, force bool) (done string, err error) {
	tmp, err := os.CreateTemp(filepath.Dir(to), "."+t.Name+".*")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	err = p.client().ImageFile(ctx, tmp, toolsImage, toolsFolder+"/"+t.Name)
	if err := errors.Join(err, tmp.Chmod(0o755), tmp.Sync(), tmp.Close()); err != nil {
		return "", err
	}
	same, err := sameContent(tmp.Name(), to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		done = "installed"
	case err != nil:
		return "", err
	case same:
		return "already there", nil
	case !force:
		return "", &exitError{code: exitFailure, err: fmt.Errorf("%s is there, and is another one", to), hint: "--force replaces it; --to FOLDER puts the tool elsewhere"}
	default:
		done = "replaced"
	}
	return done, os.Rename(tmp.Name(), to)
}

func (p *program) toolsUninstall(ctx context.Context, c *cli.Context) error {
	dir, err := toolsFolderOf(c, p.host.IsRoot())
	if err != nil {
		return err
	}
	tools, err := p.tools(ctx, c.Args().Slice(), shown{})
	if err != nil {
		return err
	}
	for _, t := range tools {
		at := filepath.Join(dir, t.Name)
		if st, err := os.Lstat(at); err != nil || !st.Mode().IsRegular() || st.Size() != t.Size {
			continue
		}
		var ours bytes.Buffer
		if err := p.client().ImageFile(ctx, &ours, toolsImage, toolsFolder+"/"+t.Name); err != nil {
			return err
		}
		if have, err := os.ReadFile(at); err != nil || !bytes.Equal(have, ours.Bytes()) {
			continue
		}
		if err := os.Remove(at); err != nil {
			return err
		}
		fmt.Fprintf(p.Term.Stdout(), "%s: removed\n", at)
	}
	return nil
}

func sameContent(a, b string) (bool, error) {
	one, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	other, err := os.ReadFile(b)
	return bytes.Equal(one, other), err
}
