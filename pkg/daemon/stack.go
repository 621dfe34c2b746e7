package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// statusTimeout bounds how long the stages may take to look at themselves.
const statusTimeout = 10 * time.Second

// imagesTimeout bounds how long builds and pulls may take to end for a purge.
const imagesTimeout = 30 * time.Second

func (d *Daemon) getVersion(w http.ResponseWriter, r *http.Request) error {
	return respond(w, http.StatusOK, d.Version)
}

func (d *Daemon) getStatus(w http.ResponseWriter, r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), statusTimeout)
	defer cancel()
	status := api.StackStatus{
		Daemon: d.Version,
		PID:    os.Getpid(),
		Since:  d.since,
		Stages: d.Stack.Status(ctx),
		Change: d.changes.Running(),
	}
	if d.Services != nil {
		status.Services = d.Services()
	}
	report(&status, d.changes.List())
	return respond(w, http.StatusOK, status)
}

func (d *Daemon) postUp(w http.ResponseWriter, r *http.Request) error {
	var opts api.UpOptions
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	complete := opts
	var err error
	if complete.Settings, err = d.settings.Complete(opts.Settings); err != nil {
		return err
	}
	if err := d.Stack.Check(r.Context(), complete); err != nil {
		return err
	}
	if opts.Archive != "" && !filepath.IsAbs(opts.Archive) {
		return fmt.Errorf("archive %q is not an absolute path: %w", opts.Archive, errdefs.ErrInvalidArgument)
	}
	return d.begin(w, api.ChangeUp, opts)
}

// planUp makes the plan of an `up` with these choices, and those of former ones.
func (d *Daemon) planUp(opts api.UpOptions) (*stack.Plan, error) {
	chosen := opts.Settings
	var err error
	if opts.Settings, err = d.settings.Complete(chosen); err != nil {
		return nil, err
	}
	plan, err := d.Stack.Up(opts)
	if err != nil {
		return nil, err
	}
	plan.Succeeded(func(stage string) error { return d.settings.Remember(chosen, d.Stack.Choices(stage)) })
	plan.Images = &stack.Sources{Offline: opts.Offline}
	if opts.Archive != "" {
		plan.AddFirst("archive", stack.Step{Name: filepath.Base(opts.Archive), Do: func(ctx context.Context, p stack.Progress) error {
			return d.importArchive(ctx, opts.Archive, plan.Images, p)
		}})
	}
	return plan, nil
}

// importArchive keeps what an archive has of images and the store has not.
func (d *Daemon) importArchive(ctx context.Context, path string, sources *stack.Sources, p stack.Progress) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	images, err := d.Images.ImportMissing(ctx, f, func(done int64) { p.Bytes(done, info.Size()) })
	if errdefs.IsInvalidArgument(err) {
		return stack.WithHint(fmt.Errorf("archive %s: %w", path, err), "sandbox image export NAME... -o FILE writes one")
	}
	if err != nil {
		return fmt.Errorf("archive %s: %w", path, err)
	}
	names := make([]string, len(images))
	for i, img := range images {
		names[i] = strings.TrimSuffix(img.Name, ":latest")
		sources.Archived(img.Name, filepath.Base(path))
	}
	if len(images) == 0 {
		p.Note("nothing of it was missing")
	} else {
		p.Note("missing were %s", strings.Join(names, ", "))
	}
	return nil
}

func (d *Daemon) postDown(w http.ResponseWriter, r *http.Request) error {
	var opts api.DownOptions
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	if opts.Purge {
		if err := d.changes.Free(api.ChangeDown); err != nil {
			return err // and nothing is ended
		}
		// Builds and pulls would go on making what the purge takes away.
		ctx, cancel := context.WithTimeout(r.Context(), imagesTimeout)
		defer cancel()
		if err := d.gate.close(ctx); err != nil {
			d.gate.open()
			return err
		}
	}
	if err := d.begin(w, api.ChangeDown, opts); err != nil {
		d.gate.open()
		return err
	}
	return nil
}

func (d *Daemon) postVerify(w http.ResponseWriter, r *http.Request) error {
	var opts api.VerifyOptions
	if err := decodeBody(w, r, &opts); err != nil {
		return err
	}
	return d.begin(w, api.ChangeVerify, opts)
}

func (d *Daemon) begin(w http.ResponseWriter, kind string, opts any) error {
	ref, err := d.changes.Begin(kind, opts)
	if err != nil {
		return err
	}
	w.Header().Set("Location", api.Prefix+"/changes/"+ref.ID)
	return respond(w, http.StatusAccepted, ref)
}

func (d *Daemon) getChanges(w http.ResponseWriter, r *http.Request) error {
	return respond(w, http.StatusOK, d.changes.List())
}

func (d *Daemon) getChange(w http.ResponseWriter, r *http.Request) error {
	follow, err := queryBool(r, "follow")
	if err != nil {
		return err
	}
	id := r.PathValue("id")
	if !follow {
		c, err := d.changes.Get(id)
		if err != nil {
			return err
		}
		return respond(w, http.StatusOK, c)
	}
	out := newLines(w)
	return d.changes.Follow(r.Context(), id, func(c api.Change) error {
		return errors.Join(out.put(c), out.flush())
	})
}

func (d *Daemon) postAbort(w http.ResponseWriter, r *http.Request) error {
	alone, err := queryBool(r, "alone")
	if err != nil {
		return err
	}
	c, err := d.changes.Abort(r.Context(), r.PathValue("id"), alone)
	if err != nil {
		return err
	}
	return respond(w, http.StatusOK, c)
}
