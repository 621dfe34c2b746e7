package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
	content "github.com/sandboxlabs/sandbox/sandbox/verify"
)

const (
	workspace = "sandbox-verify"
	cliConfig = "tofurc"
	// tofuTimeout bounds each command; an apply of twenty resources takes 20 s.
	tofuTimeout = 3 * time.Minute
	// providerTimeout bounds the download of a provider, 150 MB.
	providerTimeout = 10 * time.Minute
)

// tofu is OpenTofu, or Terraform, in a folder with a configuration.
type tofu struct {
	program string
	folder  string // with the configuration
	env     []string
	bucket  string
}

// tofu puts a configuration into a folder of the walk's own, pointed at the stage
// aws.
func (w *Walk) tofu(ctx context.Context, name string) (*tofu, error) {
	program, err := w.Tofu(ctx)
	if errdefs.IsNotFound(err) {
		return nil, &stack.Skip{Reason: "not possible here: " + err.Error()}
	}
	if err != nil {
		return nil, err
	}
	options, err := w.Terraform()
	if err != nil {
		return nil, err
	}
	t := &tofu{program: program, folder: filepath.Join(w.Folder, name), bucket: options.Bucket}
	if err := os.RemoveAll(t.folder); err != nil {
		return nil, err
	}
	files, err := fs.Sub(content.Files, "terraform/"+name)
	if err == nil {
		err = os.CopyFS(t.folder, files)
	}
	if err == nil {
		_, err = terraform.InitDir(t.folder, options)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(t.folder, cliConfig), nil, 0o600)
	}
	if err == nil {
		err = os.MkdirAll(w.Plugins, 0o700)
	}
	// Settings of whoever started the daemon are not for this.
	t.env = append(os.Environ(), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "NO_COLOR=1", "TF_DATA_DIR=", "TF_CLI_ARGS=", "TF_WORKSPACE=",
		"TF_CLI_CONFIG_FILE="+filepath.Join(t.folder, cliConfig), "TF_PLUGIN_CACHE_DIR="+w.Plugins)
	return t, err
}

var (
	// lockID finds the lock in what tofu says of it.
	lockID = regexp.MustCompile(`Lock Info: ID: (\S+)`)
	// drawing is what surrounds messages: lines, and colours, which terraform has
	// in spite of NO_COLOR.
	drawing = regexp.MustCompile(`[│╷╵]|\x1b\[[0-9;]*m`)
)

// open makes the workspace current.
func (t *tofu) open(ctx context.Context) error {
	if _, err := t.run(ctx, "init", "-input=false"); err != nil {
		return err
	}
	_, err := t.run(ctx, "workspace", "select", "-or-create=true", workspace)
	return err
}

// apply applies the configuration, and returns what tofu says. The lock of a walk
// that was interrupted holds nobody up: walks come one after another, and each
// runs the only program that uses the workspace.
func (t *tofu) apply(ctx context.Context) (string, error) {
	out, err := t.run(ctx, "apply", "-input=false", "-auto-approve")
	locked := (*lockedError)(nil)
	if !errors.As(err, &locked) {
		return out, err
	}
	if _, err := t.run(ctx, "force-unlock", "-force", locked.id); err != nil {
		return "", err
	}
	return t.run(ctx, "apply", "-input=false", "-auto-approve")
}

// end takes away what has been applied, and the workspace.
func (t *tofu) end(ctx context.Context) error {
	for _, args := range [][]string{
		{"destroy", "-input=false", "-auto-approve"},
		{"workspace", "select", "default"},
		{"workspace", "delete", workspace},
	} {
		if _, err := t.run(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

// lockedError is a state that somebody else has locked.
type lockedError struct {
	id  string
	err error
}

func (e *lockedError) Error() string { return e.err.Error() }
func (e *lockedError) Unwrap() error { return e.err }

func (t *tofu) run(ctx context.Context, args ...string) (string, error) {
	return t.runFor(ctx, tofuTimeout, args...)
}

// runFor runs a command, for so long at most, and returns what it prints.
func (t *tofu) runFor(ctx context.Context, timeout time.Duration, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, t.program, args...)
	cmd.Dir, cmd.Env = t.folder, t.env
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it lets go of the lock
	cmd.WaitDelay = 10 * time.Second
	// A daemon that is killed leaves nobody behind who still changes the state.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	said := strings.Join(strings.Fields(drawing.ReplaceAllString(errs.String(), "")), " ")
	err = fmt.Errorf("%s %s: %w: %s", filepath.Base(t.program), args[0], err, said)
	if strings.Contains(said, "acquiring the state lock") {
		locked := &lockedError{err: err}
		if id := lockID.FindStringSubmatch(said); id != nil {
			locked.id = id[1]
		}
		return out.String(), locked
	}
	return out.String(), err
}
