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
	"sync/atomic"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) imageImport() *cli.Command {
	return &cli.Command{
		Name: "import", Usage: "read images from an archive, or from another engine",
		ArgsUsage: "FILE|-, or with --from IMAGE...",
		Description: `
Archives are those of "docker save", "podman save", "ctr image export", skopeo and
sandbox: OCI or docker, plain or compressed. --from takes images from an engine on
this machine: docker, with the settings of the docker command, or docker:HOST;
containerd, or containerd:NAMESPACE (which needs root).

EXAMPLES
  sandbox image import app.tar
  docker save app | sandbox image import -
  sandbox image import --from docker app:v1 postgres:17
  sandbox image import --from containerd:k8s.io registry.k8s.io/pause:3.10`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "call the archive's only image `NAME`"},
			&cli.StringFlag{Name: "from", Usage: "take images from `ENGINE`: docker[:HOST] or containerd[:NAMESPACE]"},
			jsonFlag(),
		},
		Action: p.action(1, -1, p.importImages),
	}
}

func (p *program) importImages(ctx context.Context, c *cli.Context) error {
	archive := input{what: c.Args().First()}
	if engine := c.String("from"); engine != "" {
		if err := checkEngine("from", engine); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		archive.what = engine
		r, w := io.Pipe()
		archive.r = r
		defer r.Close() // or the sender would wait for ever
		go func() { w.CloseWithError(p.host.SaveImages(ctx, engine, c.Args().Slice(), w)) }()
	} else {
		if c.NArg() > 1 {
			return usagef("one archive at a time; images of another engine are taken with --from; for example: %s --from docker app", c.Command.HelpName)
		}
		f, err := p.openArchive(c.Args().First(), &archive)
		if err != nil {
			return err
		}
		defer f.Close()
	}
	images, err := transfer(ctx, p, &archive, !c.Bool("json"), func() ([]api.Image, error) {
		return p.client().ImportImages(ctx, &archive, c.String("name"))
	})
	switch {
	case err != nil:
		return err
	case c.Bool("json"):
		return ui.JSON(p.Term.Stdout(), images)
	}
	for _, img := range images {
		name := img.Name
		if name == "" {
			name = img.ID
		}
		fmt.Fprintln(p.Term.Stdout(), ui.Plain(name))
	}
	return nil
}

// checkEngine looks at an engine's name before anything is asked of it.
func checkEngine(flag, engine string) error {
	switch kind, where, given := strings.Cut(engine, ":"); {
	case kind != "docker" && kind != "containerd":
		return usagef("invalid value %q for --%s: there is no such engine; for example: --%s docker, --%s containerd:k8s.io", engine, flag, flag, flag)
	case given && where == "":
		return usagef("invalid value %q for --%s: nothing comes after the colon", engine, flag)
	}
	return nil
}

// openArchive opens a file as the user who asks: the daemon, being root, could
// open others.
func (p *program) openArchive(name string, archive *input) (io.Closer, error) {
	if name == "-" {
		if in, _ := p.Term.Interactive(); in {
			return nil, usagef("an archive is expected on stdin; for example: docker save app | sandbox image import -")
		}
		archive.what, archive.r = "stdin", p.Term.Stdin()
		return io.NopCloser(nil), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = fmt.Errorf("%s is a folder, not an archive", name)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	if info.Mode().IsRegular() {
		archive.total = info.Size()
	}
	archive.r = f
	return f, nil
}

// counter is a stream with its bytes counted.
type counter interface {
	count() (what string, done, total int64)
}

// input is a stream that is sent.
type input struct {
	what  string
	r     io.Reader
	total int64 // bytes; 0 if unknown
	done  atomic.Int64
}

func (i *input) Read(b []byte) (int, error) {
	n, err := i.r.Read(b)
	i.done.Add(int64(n))
	return n, err
}

func (i *input) count() (string, int64, int64) { return i.what, i.done.Load(), i.total }

// output is a stream that is received.
type output struct {
	what  string
	w     io.Writer
	total int64
	done  atomic.Int64
}

func (o *output) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	o.done.Add(int64(n))
	return n, err
}

func (o *output) count() (string, int64, int64) { return o.what, o.done.Load(), o.total }

// transfer shows how a stream proceeds while do works on it.
func transfer[T any](ctx context.Context, p *program, stream counter, show bool, do func() (T, error)) (T, error) {
	type result struct {
		value T
		err   error
	}
	ended := make(chan result, 1)
	go func() {
		value, err := do()
		ended <- result{value, err}
	}()
	begun := time.Now()
	progress := ui.NewProgress(p.Term)
	defer progress.Close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		what, done, total := stream.count()
		step := ui.Step{Name: ui.Plain(what), State: ui.StepActive, Done: done, Total: total, Active: begun}
		select {
		case r := <-ended:
			if _, done, _ = stream.count(); r.err == nil && show {
				step.State, step.Took, step.Note = ui.StepDone, time.Since(begun), ui.Bytes(done)
				progress.Update([]ui.Step{step})
			}
			if r.err != nil && ctx.Err() != nil {
				r.err = ctx.Err()
			}
			return r.value, r.err
		case <-tick.C:
			if show {
				progress.Update([]ui.Step{step})
			}
		}
	}
}

func (p *program) imageExport() *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write images to an archive, or give them to another engine",
		ArgsUsage: "IMAGE... | --stack",
		Description: `
An OCI archive can be read by every current tool; Docker before version 25 needs
the format docker. --to gives the images to an engine on this machine: docker,
with the settings of the docker command, or docker:HOST; containerd, or
containerd:NAMESPACE (which needs root). --stack stands for the images that "up"
and "verify" have brought in, for "up --archive" on another machine.

EXAMPLES
  sandbox image export app -o app.tar
  sandbox image export --stack -o stack.tar
  sandbox image export app prometheus --format docker -o both.tar
  sandbox image export app -o - | ssh host docker load
  sandbox image export app --to containerd:k8s.io`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write to `FILE`, or - for stdout"},
			&cli.StringFlag{Name: "format", Usage: "oci or docker, as `FORMAT` of the archive (oci)"},
			&cli.BoolFlag{Name: "stack", Usage: "the images of the stack, as far as they are here", DisableDefaultText: true},
			&cli.StringFlag{Name: "to", Usage: "give the images to `ENGINE`: docker[:HOST] or containerd[:NAMESPACE]"},
		},
		Action: p.action(0, -1, p.exportImages),
	}
}

func (p *program) exportImages(ctx context.Context, c *cli.Context) error {
	refs, format, file, engine := c.Args().Slice(), c.String("format"), c.String("output"), c.String("to")
	switch {
	case c.Bool("stack") && len(refs) > 0:
		return usagef("--stack needs no names; for example: %s --stack -o stack.tar", c.Command.HelpName)
	case len(refs) == 0 && !c.Bool("stack"):
		return usagef("which images? For example: %s app -o app.tar", c.Command.HelpName)
	case format != "" && format != "oci" && format != "docker":
		return usagef("invalid value %q for --format: oci or docker; for example: --format docker", format)
	case engine != "" && (file != "" || format != ""):
		return usagef("--to needs neither --output nor --format")
	case engine != "":
		if err := checkEngine("to", engine); err != nil {
			return err
		}
	case file == "":
		which := append(refs, "--stack")[0]
		return usagef("say where to: --output FILE, --output - for stdout, or --to docker; for example: %s %s -o %s.tar",
			c.Command.HelpName, which, strings.TrimLeft(filepath.Base(strings.Split(which, ":")[0]), "-"))
	}
	if c.Bool("stack") {
		var err error
		if refs, err = p.stackImages(ctx); err != nil {
			return err
		}
	}
	if engine != "" {
		return p.exportTo(ctx, engine, refs)
	}
	if file == "-" {
		if _, out := p.Term.Interactive(); out {
			return usagef("an archive is not for the terminal: give a file with --output, or a pipe")
		}
		out := &output{what: "stdout", w: p.Term.Stdout()}
		_, err := transfer(ctx, p, out, true, func() (struct{}, error) {
			return struct{}{}, p.client().ExportImages(ctx, out, refs, format)
		})
		return err
	}
	return p.exportFile(ctx, file, refs, format)
}

// stackImages are the images of the store that a stage uses, by the recipes'
// word. It tells of those that are not there.
func (p *program) stackImages(ctx context.Context) ([]string, error) {
	recipes, err := p.client().Recipes(ctx, "")
	if err != nil {
		return nil, err
	}
	images, err := p.client().Images(ctx)
	if err != nil {
		return nil, err
	}
	var here, missing []string
	for _, r := range recipes {
		switch {
		case r.Stage == "":
		case slices.ContainsFunc(images, func(img api.Image) bool { return img.Name == r.Name+":latest" }):
			here = append(here, r.Name)
		default:
			missing = append(missing, r.Name)
		}
	}
	if len(here) == 0 {
		return nil, &exitError{code: exitFailure, err: errors.New("no image of the stack is in the store"), hint: "sudo sandbox up brings them in"}
	}
	if len(missing) > 0 {
		fmt.Fprintln(p.Term.Stderr(), "not here, and so not in it: "+strings.Join(missing, ", "))
	}
	return here, nil
}

// exportFile writes beside the file and renames, so that what is called so is
// whole. What is no regular file, such as a FIFO, is written to as it is.
func (p *program) exportFile(ctx context.Context, file string, refs []string, format string) (err error) {
	path, mode := filepath.Join(filepath.Dir(file), fmt.Sprintf(".%s.%d", filepath.Base(file), os.Getpid())), os.FileMode(0o666)
	flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
	if info, serr := os.Stat(file); serr == nil {
		if mode = info.Mode().Perm(); !info.Mode().IsRegular() {
			path, flags = file, os.O_WRONLY
		}
	}
	f, err := os.OpenFile(path, flags, mode)
	if err != nil {
		return err
	}
	defer func() {
		if err == nil || path == file {
			return
		}
		if rerr := os.Remove(path); rerr != nil {
			err = errors.Join(err, rerr)
		}
	}()
	out := &output{what: file, w: f}
	_, err = transfer(ctx, p, out, true, func() (struct{}, error) {
		return struct{}{}, p.client().ExportImages(ctx, out, refs, format)
	})
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil || path == file {
		return err
	}
	return os.Rename(path, file)
}

// exportTo streams images into another engine, in the format that all its
// versions read.
func (p *program) exportTo(ctx context.Context, engine string, refs []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	in := &input{what: engine, r: r}
	exported := make(chan error, 1)
	go func() {
		err := p.client().ExportImages(ctx, w, refs, "docker")
		w.CloseWithError(err)
		exported <- err
	}()
	loaded, err := transfer(ctx, p, in, true, func() ([]string, error) { return p.host.LoadImages(ctx, engine, in) })
	r.Close()
	// Of two errors the archive's is the reason, unless it is that nobody
	// wanted the rest of it.
	if e := <-exported; err != nil && e != nil && !errors.Is(e, io.ErrClosedPipe) && ctx.Err() == nil {
		err = e
	}
	for _, name := range loaded {
		fmt.Fprintln(p.Term.Stdout(), ui.Plain(name))
	}
	return err
}
