package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) imagePull(name, usage, group string) *cli.Command {
	return &cli.Command{
		Name: name, Category: group, Usage: usage,
		ArgsUsage: "IMAGE...",
		Description: `
Names are read as docker reads them, and a digest pins an image. The name of a
recipe stands for the image that the recipe stands in for. Credentials are those
of "docker login". A pull that is interrupted goes on where it was.

EXAMPLES
  sandbox pull alpine:3.20
  sandbox image pull prometheus
  sandbox image pull ghcr.io/team/app@sha256:9b7f…
  sandbox image pull --insecure registry.lan:5000/app`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "platform", Usage: "for this `OS/ARCHITECTURE` (this machine's)"},
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "show no progress", DisableDefaultText: true},
			&cli.BoolFlag{Name: "insecure", Usage: "allow plain HTTP", DisableDefaultText: true},
			recipesFlag(),
			jsonFlag(),
		},
		Action: p.action(1, -1, p.pullImages),
	}
}

// recipesFlag names a folder of recipes, such as a checkout's images/.
func recipesFlag() cli.Flag {
	return &cli.StringFlag{Name: "recipes", Usage: "use the recipes in `FOLDER`, not those that sandbox comes with", EnvVars: []string{"SANDBOX_RECIPES"}}
}

// absolute is a path that the daemon can use; empty stays so.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}

func (p *program) pullImages(ctx context.Context, c *cli.Context) error {
	recipes, err := absolute(c.String("recipes"))
	if err != nil {
		return err
	}
	var failed error
	for _, name := range c.Args().Slice() {
		opts := api.ImagePull{Name: name, Platform: c.String("platform"), Insecure: c.Bool("insecure"), ConfigDir: dockerConfig(), Recipes: recipes}
		show := shown{json: c.Bool("json"), quiet: c.Bool("quiet")}
		got, err := p.pull(ctx, opts, show)
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			failed = joinErrors(failed, err)
			continue
		}
		if !show.json {
			fmt.Fprintln(p.Term.Stdout(), ui.Plain(got.Image.Name))
		}
	}
	return failed
}

// dockerConfig is the folder of this user's docker configuration.
func dockerConfig() string {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		if abs, err := filepath.Abs(dir); err == nil {
			return abs
		}
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".docker")
}

// shown is how long work is told of.
type shown struct {
	json, quiet, plain bool
}

// pull brings one image in, and says from where.
func (p *program) pull(ctx context.Context, opts api.ImagePull, show shown) (api.Pulled, error) {
	begun := time.Now()
	board := p.newBoard(show)
	got, err := watch(ctx, p, board, func(onFrame func(api.Frame)) (api.Pulled, error) {
		return p.client().PullImage(ctx, opts, onFrame)
	})
	if err != nil || show.quiet || show.json {
		return got, err
	}
	note := "is up to date"
	if got.Fresh {
		note = "is here"
	}
	fmt.Fprintf(p.Term.Stderr(), "%s %s: from %s, %s, %s, in %s\n", ui.Plain(got.Image.Name), note, ui.Plain(got.From),
		imageID(got.Image.ID, false), ui.Bytes(got.Image.Size), ui.Duration(time.Since(begun)))
	return got, nil
}

// watch does a call that streams frames, and shows them as they come.
func watch[T any](ctx context.Context, p *program, board *board, call func(onFrame func(api.Frame)) (T, error)) (T, error) {
	frames := make(chan api.Frame)
	type result struct {
		value T
		err   error
	}
	ended := make(chan result, 1)
	go func() {
		value, err := call(func(f api.Frame) { frames <- f })
		ended <- result{value, err}
	}()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	defer board.close()
	interrupted := ctx.Done()
	for {
		select {
		case <-interrupted:
			interrupted = nil
			signal.Reset(os.Interrupt, syscall.SIGTERM) // once more, and we are gone
			fmt.Fprintln(p.Term.Stderr(), "interrupted: stopping what is under way …")
		case f := <-frames:
			board.frame(f)
		case <-tick.C:
			board.redraw()
		case r := <-ended:
			if r.err == nil && board.show.json {
				return r.value, ui.JSONLine(p.Term.Stdout(), struct {
					Result T `json:"result"`
				}{r.value})
			}
			return r.value, r.err
		}
	}
}

// blobStep is a blob of a pull, as a line of progress.
func blobStep(p api.ImageProgress) ui.Step {
	step := ui.Step{Name: shorten(strings.TrimPrefix(p.Item, "sha256:")), State: ui.StepActive, Done: p.Done, Total: p.Total, Note: p.Note}
	if len(step.Name) > shortIDLen && isID(strings.TrimPrefix(p.Item, "sha256:"), 0) {
		step.Name = shortID(p.Item, false)
	}
	switch p.Status {
	case "done":
		step.State, step.Note = ui.StepDone, ui.Bytes(p.Total)
	case "present":
		step.State, step.Note = ui.StepSkipped, "already there"
	case "waiting":
		step.Note = "waiting for another pull"
	}
	return step
}
