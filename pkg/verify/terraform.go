package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
)

// configuration needs no provider but the one that is part of tofu, so that it
// works where no registry of providers is in reach. With hold, the apply says in
// a file that it has the lock, and keeps it until another file is there.
const configuration = `terraform {
  backend "s3" {
    key = "sandbox-verify/terraform.tfstate"
  }
}

variable "hold" {
  default = 0
}

resource "terraform_data" "proof" {
  input = "sandbox verify"
  provisioner "local-exec" {
    command = "[ ${var.hold} = 0 ] || { touch ` + heldFile + `; for i in $(seq ${var.hold}); do [ -e ` + releaseFile + ` ] || sleep 0.1; done; }"
  }
}
`

const (
	workspace = "sandbox-verify"
	// holdLock is how long the first of two keeps the lock at most, in tenths of a
	// second; it lets go when the second was refused.
	holdLock    = "300"
	heldFile    = "held"
	releaseFile = "release"
	cliConfig   = "tofurc"
	tofuTimeout = time.Minute
)

// locks has tofu, or terraform, keep a state in the stage's bucket, and lets two
// contend for its lock.
func (w *Walk) locks(ctx context.Context, p stack.Progress) error {
	program, err := w.Tofu(ctx)
	if errdefs.IsNotFound(err) {
		return &stack.Skip{Reason: "not possible here: " + err.Error()}
	}
	if err != nil {
		return err
	}
	options, err := w.Terraform()
	if err != nil {
		return err
	}
	if err := os.RemoveAll(w.Folder); err != nil {
		return err
	}
	if err := os.MkdirAll(w.Folder, 0o700); err != nil {
		return err
	}
	for name, content := range map[string]string{"main.tf": configuration, cliConfig: ""} {
		if err := os.WriteFile(filepath.Join(w.Folder, name), []byte(content), 0o600); err != nil {
			return err
		}
	}
	if _, err := terraform.InitDir(w.Folder, options); err != nil {
		return err
	}
	tofu := func(ctx context.Context, args ...string) (string, error) { return w.tofu(ctx, program, args...) }
	for _, args := range [][]string{
		{"init", "-input=false"},
		{"workspace", "new", workspace},
		{"apply", "-input=false", "-auto-approve"},
	} {
		if _, err := tofu(ctx, args...); err != nil {
			return err
		}
	}
	state, err := tofu(ctx, "state", "pull")
	if err == nil && !strings.Contains(state, "sandbox verify") {
		err = errors.New("what was applied is not in the state")
	}
	if err != nil {
		return err
	}
	if err := contend(ctx, w.Folder, tofu); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"destroy", "-input=false", "-auto-approve"},
		{"workspace", "select", "default"},
		{"workspace", "delete", workspace},
	} {
		if _, err := tofu(ctx, args...); err != nil {
			return err
		}
	}
	return kept(p, "in s3://%s; a second apply was refused while the first held the lock", options.Bucket)
}

// contend starts an apply, and another once that holds the lock: a plan takes
// the lock too, and must not be what the first is refused for.
func contend(ctx context.Context, folder string, tofu func(context.Context, ...string) (string, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	first := make(chan error, 1)
	go func() {
		_, err := tofu(ctx, "apply", "-input=false", "-auto-approve", "-replace=terraform_data.proof", "-var=hold="+holdLock)
		first <- err
	}()
	for held := false; !held; {
		select {
		case err := <-first:
			cancel()
			return errors.Join(errors.New("the first apply ended before it said that it holds the lock"), err)
		case <-time.After(50 * time.Millisecond):
			_, err := os.Stat(filepath.Join(folder, heldFile))
			held = err == nil
		}
	}
	_, second := tofu(ctx, "apply", "-input=false", "-auto-approve", "-lock-timeout=0s")
	err := os.WriteFile(filepath.Join(folder, releaseFile), nil, 0o600)
	if err != nil {
		cancel()
	}
	err = errors.Join(err, <-first)
	cancel()
	switch {
	case second == nil:
		return errors.Join(errors.New("a second apply was not refused while the first held the lock"), err)
	case !strings.Contains(second.Error(), "acquiring the state lock"):
		return errors.Join(second, err)
	}
	return err
}

// tofu runs the program in the walk's folder.
func (w *Walk) tofu(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, tofuTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = w.Folder
	// Settings of whoever started the daemon are not for this.
	cmd.Env = append(os.Environ(), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1", "NO_COLOR=1", "TF_DATA_DIR=", "TF_CLI_ARGS=", "TF_WORKSPACE=",
		"TF_CLI_CONFIG_FILE="+filepath.Join(w.Folder, cliConfig))
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // it lets go of the lock
	cmd.WaitDelay = 10 * time.Second
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		said := strings.Join(strings.Fields(strings.NewReplacer("│", "", "╷", "", "╵", "").Replace(errs.String())), " ")
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, said)
	}
	return out.String(), nil
}

// removeFolder takes away what tofu has made here.
func (w *Walk) removeFolder() error {
	err := os.RemoveAll(w.Folder)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
