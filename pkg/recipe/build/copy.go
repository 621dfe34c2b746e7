package build

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// copyWork is COPY or ADD.
type copyWork struct {
	from     origin
	patterns []string
	dest     string
	opts     filecopy.Options
	link     bool
	digest   digest.Digest // of what is copied, when the key was made
}

// copy plans a COPY.
func (d *dispatcher) copy(st *step, cmd *instructions.CopyCommand) (err error) {
	w := &copyWork{patterns: cmd.SourcePaths, link: cmd.Link, opts: filecopy.Options{
		Chown: cmd.Chown, Chmod: cmd.Chmod, Parents: cmd.Parents, Exclude: cmd.ExcludePatterns,
	}}
	switch {
	case cmd.From != "":
		w.from, err = d.p.source(cmd.From, d.number)
	case len(cmd.SourcePaths) > 0:
		w.from, err = d.p.outside("")
	}
	if err != nil {
		return err
	}
	text := "COPY"
	if cmd.From != "" {
		text += " --from=" + cmd.From
	}
	if cmd.Parents {
		text += " --parents"
	}
	d.files(st, w, cmd.SourcesAndDest, text)
	return nil
}

// add plans an ADD.
func (d *dispatcher) add(st *step, cmd *instructions.AddCommand) (err error) {
	w := &copyWork{patterns: cmd.SourcePaths, link: cmd.Link, opts: filecopy.Options{
		Chown: cmd.Chown, Chmod: cmd.Chmod, Exclude: cmd.ExcludePatterns,
		Extract: cmd.Unpack == nil || *cmd.Unpack,
	}}
	for _, src := range cmd.SourcePaths { // variables have their values by now
		if isRemote(src) {
			return fmt.Errorf("ADD of %s: remote sources are not supported: %w", src, errdefs.ErrNotImplemented)
		}
	}
	if len(cmd.SourcePaths) > 0 {
		if w.from, err = d.p.outside(""); err != nil {
			return err
		}
	}
	d.files(st, w, cmd.SourcesAndDest, "ADD")
	return nil
}

// files is what COPY and ADD have in common.
func (d *dispatcher) files(st *step, w *copyWork, s instructions.SourcesAndDest, text string) {
	w.dest = d.absolute(s.DestPath)
	w.opts.Dir = strings.HasSuffix(w.dest, "/") || len(s.SourcePaths)+len(s.SourceContents) > 1
	w.opts.KeepOwner = w.from.folder == nil || w.from.folder.rootfs
	w.opts.Epoch = d.p.o.Epoch
	if w.opts.Chown != "" {
		text += " --chown=" + w.opts.Chown
	}
	if w.opts.Chmod != "" {
		text += " --chmod=" + w.opts.Chmod
	}
	for _, src := range s.SourcePaths {
		text += " " + src
	}
	for _, f := range s.SourceContents {
		w.opts.Files = append(w.opts.Files, filecopy.File{Name: f.Path, Content: []byte(f.Data)})
		text += " <<" + f.Path
	}
	st.history = stepHistory("%s %s", text, s.DestPath)
	st.work = w
}

// whole plans the copy of all of a context, of which a stage is FROM.
func (d *dispatcher) whole(from origin, text string, line int) {
	st := &step{stage: d.s, number: 1, line: line, instruction: text}
	w := &copyWork{from: from, patterns: []string{"."}, dest: "/", opts: filecopy.Options{
		Dir: true, KeepOwner: from.folder.rootfs, Epoch: d.p.o.Epoch,
	}}
	st.work = w
	st.history = stepHistory("COPY --from=%s / /", from.folder.name)
	st.history.Comment = historyComment
	if !d.p.o.Epoch.IsZero() {
		epoch := d.p.o.Epoch.UTC()
		st.history.Created = &epoch
	}
	d.s.steps = append(d.s.steps, st)
}

func (w *copyWork) sources() []origin { return []origin{w.from} }

// apart: the layer of a --link does not depend on those below.
func (w *copyWork) apart() bool { return w.link }

func (w *copyWork) input(ctx context.Context) (any, error) {
	var err error
	w.digest, err = w.content(ctx)
	revision := 0
	if w.opts.Chmod != "" {
		revision = 1 // since it is for directories that are made, too
	}
	return struct {
		Content  digest.Digest
		Patterns []string
		Dest     string
		Options  filecopy.Options
		Link     bool
		Revision int `json:",omitempty"`
	}{w.digest, w.patterns, w.dest, w.opts, w.link, revision}, err
}

// content identifies what is copied.
func (w *copyWork) content(ctx context.Context) (digest.Digest, error) {
	if w.from.folder == nil {
		return w.from.key(), nil
	}
	return w.from.folder.tree.Digest(ctx, w.patterns, w.opts)
}

func (w *copyWork) run(x *execution, r *run) (err error) {
	from, err := x.open(r, w.from, false)
	if err != nil {
		return err
	}
	to := r.upper
	if w.link {
		err = os.Mkdir(to, 0o755)
	} else {
		to, err = x.view(r, r.lower, r.upper)
	}
	if err != nil {
		return err
	}
	if err := filecopy.Copy(r.ctx, from, w.patterns, to, w.dest, w.opts); err != nil {
		return err
	}
	if w.from.folder == nil {
		return nil
	}
	// Were a file changed meanwhile, its layer would be found by the wrong key.
	after, err := w.content(r.ctx)
	if err == nil && after != w.digest {
		err = fmt.Errorf("files of the build context %s were changed while they were copied: build again: %w", w.from.folder.tree.Root, errdefs.ErrAborted)
	}
	return err
}
