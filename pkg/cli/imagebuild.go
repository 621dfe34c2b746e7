package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

// slowest is how many recipes the end of a build names.
const slowest = 5

func (p *program) imageBuild(name, usage, group string) *cli.Command {
	return &cli.Command{
		Name: name, Category: group, Usage: usage,
		ArgsUsage: "NAME...|FOLDER",
		Description: `
A NAME is a recipe that sandbox comes with; what it needs is built before, and it
is tested at the end. A FOLDER, written with a slash or a dot, is a recipe if it
has a recipe.yaml, and else a Dockerfile with its context, as for docker build.
Layers whose inputs are unchanged are taken from the cache.

EXAMPLES
  sandbox image build prometheus
  sandbox image build --all
  sandbox build -t app:v1 --build-arg VERSION=1 .
  sandbox build --explain ./app
  sandbox image build ./images/my-recipe --no-cache --progress plain`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Usage: "build every recipe", DisableDefaultText: true},
			&cli.BoolFlag{Name: "no-cache", Usage: "make every layer anew", DisableDefaultText: true},
			&cli.BoolFlag{Name: "no-smoke", Usage: "do not run the recipes' tests", DisableDefaultText: true},
			&cli.BoolFlag{Name: "explain", Usage: "print every kernel operation as it is made, and why", DisableDefaultText: true},
			&cli.StringSliceFlag{Name: "tag", Aliases: []string{"t"}, Usage: "call the image `NAME[:TAG]`"},
			&cli.StringFlag{Name: "file", Aliases: []string{"f"}, Usage: "take `FILE` as the Dockerfile, or - for stdin (FOLDER/Dockerfile)"},
			&cli.StringSliceFlag{Name: "build-arg", Usage: "set an ARG: `NAME[=VALUE]`"},
			&cli.StringSliceFlag{Name: "build-context", Usage: "a further source of files: `NAME=FOLDER` or NAME=docker-image://IMAGE"},
			&cli.StringFlag{Name: "target", Usage: "build up to this `STAGE`"},
			&cli.StringSliceFlag{Name: "secret", Usage: "a file for RUN --mount=type=secret: `id=ID,src=FILE`"},
			recipesFlag(),
			&cli.StringFlag{Name: "progress", Usage: "auto, or plain: every line of output as it comes, as `MODE` (auto)"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print one JSON value a line, as things happen", DisableDefaultText: true},
		},
		Action: p.action(0, -1, p.buildImages),
	}
}

func (p *program) buildImages(ctx context.Context, c *cli.Context) error {
	opts, err := p.buildOptions(c, thisProcess())
	if err != nil {
		return err
	}
	show := shown{json: c.Bool("json"), quiet: c.Bool("quiet")}
	switch mode := c.String("progress"); mode {
	case "", "auto":
	case "plain":
		show.plain = true
	default:
		return usagef("invalid value %q for --progress: auto or plain; for example: --progress plain", mode)
	}
	board := p.newBoard(show)
	report, err := watch(ctx, p, board, func(onFrame func(api.Frame)) (api.BuildReport, error) {
		return p.client().BuildImages(ctx, opts, onFrame)
	})
	if err != nil {
		if ctx.Err() != nil {
			return err
		}
		return p.suggestRecipe(ctx, opts, board.shorten("", err))
	}
	return p.built(report, board, opts.All)
}

// isFolder tells a folder from a recipe's name by how it is written.
func isFolder(arg string) bool {
	return arg == "." || arg == ".." || strings.ContainsRune(arg, filepath.Separator)
}

func (p *program) buildOptions(c *cli.Context, o outside) (api.ImageBuild, error) {
	opts := api.ImageBuild{
		All: c.Bool("all"), NoCache: c.Bool("no-cache"), NoSmoke: c.Bool("no-smoke"), Explain: c.Bool("explain"),
		Target: c.String("target"), Tags: c.StringSlice("tag"), ConfigDir: dockerConfig(),
	}
	var err error
	if opts.Recipes, err = absolute(c.String("recipes")); err != nil {
		return opts, err
	}
	for _, arg := range c.Args().Slice() {
		if !isFolder(arg) {
			opts.Names = append(opts.Names, arg)
			continue
		}
		if opts.Dir != "" {
			return opts, usagef("one folder at a time, but %q was given as well", arg)
		}
		if opts.Dir, err = filepath.Abs(arg); err != nil {
			return opts, err
		}
	}
	switch {
	case opts.All && (opts.Dir != "" || opts.Names != nil):
		return opts, usagef("--all builds every recipe: there is nothing to name beside it")
	case opts.Dir != "" && opts.Names != nil:
		return opts, usagef("recipes by name and a folder are two builds")
	case opts.Dir == "" && opts.Names == nil && !opts.All && c.String("file") == "":
		return opts, usagef("say what to build: recipes by name, --all, or a folder; for example: %s .", c.Command.HelpName)
	case len(opts.Tags) > 0 && (opts.All || len(opts.Names) > 1):
		return opts, usagef("--tag names one image, and several are to be built")
	}
	if opts.Dir == "" && opts.Names == nil && !opts.All {
		opts.Dir = o.cwd // with -f alone
	}
	if opts.Args, err = buildArgs(c.StringSlice("build-arg"), o); err != nil {
		return opts, err
	}
	if opts.Contexts, err = buildContexts(c.StringSlice("build-context")); err != nil {
		return opts, err
	}
	if opts.Secrets, err = buildSecrets(c.StringSlice("secret")); err != nil {
		return opts, err
	}
	return opts, p.dockerfile(c.String("file"), &opts)
}

// dockerfile reads the Dockerfile of -f as the user who asks.
func (p *program) dockerfile(file string, opts *api.ImageBuild) (err error) {
	switch {
	case file == "":
		return nil
	case opts.Dir == "":
		return usagef("--file is for a folder; for example: sandbox build -f Dockerfile.dev .")
	case file == "-":
		opts.Dockerfile, err = io.ReadAll(p.Term.Stdin())
	default:
		if opts.Dockerfile, err = os.ReadFile(file); err == nil {
			opts.DockerfileName, err = filepath.Abs(file)
		}
	}
	if err == nil && len(opts.Dockerfile) == 0 {
		err = fmt.Errorf("the Dockerfile %s is empty", file)
	}
	return err
}

func buildArgs(list []string, o outside) (map[string]string, error) {
	args := map[string]string{}
	for _, v := range list {
		assignment, ok, err := parseEnv(v, o)
		if err != nil {
			return nil, usagef("invalid value %q for --build-arg: %v; for example: --build-arg VERSION=1", v, err)
		}
		if name, value, _ := strings.Cut(assignment, "="); ok {
			args[name] = value
		}
	}
	return args, nil
}

func buildContexts(list []string) (map[string]string, error) {
	contexts := map[string]string{}
	for _, v := range list {
		name, from, ok := strings.Cut(v, "=")
		if !ok || name == "" || from == "" {
			return nil, usagef("invalid value %q for --build-context: not NAME=FOLDER; for example: --build-context assets=./assets", v)
		}
		if image, ok := strings.CutPrefix(from, "docker-image://"); ok {
			contexts[name] = "image:" + image
			continue
		}
		if strings.Contains(from, "://") {
			return nil, usagef("invalid value %q for --build-context: only folders and docker-image:// can be read", v)
		}
		dir, err := filepath.Abs(from)
		if err != nil {
			return nil, err
		}
		contexts[name] = dir
	}
	return contexts, nil
}

func buildSecrets(list []string) (map[string]string, error) {
	secrets := map[string]string{}
	for _, v := range list {
		var id, src string
		for pair := range strings.SplitSeq(v, ",") {
			key, value, _ := strings.Cut(pair, "=")
			switch key {
			case "id":
				id = value
			case "src", "source":
				src = value
			case "type":
				if value != "file" {
					return nil, usagef("invalid value %q for --secret: only files can be secrets", v)
				}
			default:
				return nil, usagef("invalid value %q for --secret: there is no %q; for example: --secret id=token,src=token.txt", v, key)
			}
		}
		if src == "" {
			src = id // as docker has it
		}
		if id == "" {
			return nil, usagef("invalid value %q for --secret: it has no id; for example: --secret id=token,src=token.txt", v)
		}
		// Opened here: the daemon, being root, could read what the user cannot.
		f, err := os.Open(src)
		if err != nil {
			return nil, fmt.Errorf("secret %s: %w", id, err)
		}
		f.Close()
		if secrets[id], err = filepath.Abs(src); err != nil {
			return nil, err
		}
	}
	return secrets, nil
}

// shorten takes out of the error of a recipe's build what the board has shown
// already. A Dockerfile alone is no recipe.
func (b *board) shorten(recipe string, err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || !b.spoken[recipe] {
		return err
	}
	short := *e
	short.Message = firstLine(e.Message)
	return &short
}

// suggestRecipe adds the recipe that was meant, perhaps.
func (p *program) suggestRecipe(ctx context.Context, opts api.ImageBuild, err error) error {
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Class != api.ClassNotFound || len(opts.Names) == 0 {
		return err
	}
	recipes, lerr := p.client().Recipes(ctx, opts.Recipes)
	if lerr != nil {
		return err
	}
	var names []string
	for _, r := range recipes {
		names = append(names, r.Name)
	}
	for _, name := range opts.Names {
		if near := nearest(name, names); !slices.Contains(names, name) && near != "" {
			return &exitError{code: exitFailure, err: err, hint: "did you mean " + near + "?"}
		}
	}
	return err
}

// built prints what a build has made, and returns its errors.
func (p *program) built(report api.BuildReport, b *board, all bool) error {
	var failed error
	for _, res := range report.Images {
		if res.Error != nil {
			failed = joinErrors(failed, b.shorten(res.Recipe, res.Error))
		}
	}
	if b.show.json {
		return failed
	}
	if len(report.Images) == 1 && !all {
		if res := report.Images[0]; res.Image != nil {
			fmt.Fprintln(p.Term.Stdout(), ui.Plain(res.Image.Name))
			if !b.show.quiet {
				fmt.Fprintf(p.Term.Stderr(), "built %s, %s, in %s%s\n", imageID(res.Image.ID, false), ui.Bytes(res.Image.Size),
					ui.Duration(report.Took), cachedNote(b.cached))
			}
		} else if res.Note != "" {
			fmt.Fprintf(p.Term.Stderr(), "%s is %s\n", ui.Plain(res.Recipe), ui.Plain(res.Note))
		}
		return failed
	}
	style := p.Term.OutStyle()
	if err := builtTable(report.Images, style).Write(p.Term.Stdout(), style); err != nil {
		return err
	}
	if !b.show.quiet {
		fmt.Fprintln(p.Term.Stderr(), builtSummary(report))
	}
	return failed
}

func cachedNote(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %s from the cache", counted(n, "step"))
}

func builtTable(results []api.BuildResult, style ui.Style) *ui.Table {
	t := &ui.Table{Header: []string{"RECIPE", "IMAGE ID", "SIZE", "TOOK", "TESTED", "NOTE"}, Right: []int{2, 3, 4}}
	for _, res := range results {
		id, size, tested, note := "", "", "", style.Dim(ui.Plain(res.Note))
		if res.Image != nil {
			id, size = imageID(res.Image.ID, false), ui.Bytes(res.Image.Size)
		}
		if res.Smoked > 0 {
			tested = ui.Duration(res.Smoked)
		}
		if res.Error != nil {
			note = style.Red("failed")
		}
		t.Add(ui.Plain(res.Recipe), id, size, ui.Duration(res.Took), tested, note)
	}
	return t
}

// builtSummary says how long it took, and what took longest.
func builtSummary(report api.BuildReport) string {
	sorted := slices.Clone(report.Images)
	slices.SortStableFunc(sorted, func(a, b api.BuildResult) int { return int(b.Took - a.Took) })
	var names []string
	for _, res := range sorted[:min(slowest, len(sorted))] {
		if res.Took > 0 {
			names = append(names, fmt.Sprintf("%s %s", ui.Plain(res.Recipe), ui.Duration(res.Took)))
		}
	}
	made := 0
	for _, res := range report.Images {
		if res.Image != nil {
			made++
		}
	}
	s := fmt.Sprintf("%s in %s", counted(made, "image"), ui.Duration(report.Took))
	if len(names) > 0 {
		s += "; the slowest: " + strings.Join(names, ", ")
	}
	return s
}
