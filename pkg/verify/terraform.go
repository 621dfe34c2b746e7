package verify

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	// holdLock is how long the first of two keeps the lock at most, in tenths of a
	// second; it lets go when the second was refused.
	holdLock    = "300"
	heldFile    = "held"
	releaseFile = "release"
)

// locks has a state kept in the stage's bucket, and lets two contend for its
// lock.
func (w *Walk) locks(ctx context.Context, p stack.Progress) error {
	t, err := w.tofu(ctx, "state")
	if err != nil {
		return err
	}
	if err := t.open(ctx); err != nil {
		return err
	}
	if _, err := t.apply(ctx); err != nil {
		return err
	}
	state, err := t.run(ctx, "state", "pull")
	if err == nil && !strings.Contains(state, "sandbox verify") {
		err = errors.New("what was applied is not in the state")
	}
	if err != nil {
		return err
	}
	if err := contend(ctx, t.folder, t.run); err != nil {
		return err
	}
	if err := t.end(ctx); err != nil {
		return err
	}
	return kept(p, "in s3://%s; a second apply was refused while the first held the lock", t.bucket)
}

// contend starts an apply, and another once that holds the lock: each takes the
// lock, and it must not be the first that is refused.
func contend(ctx context.Context, folder string, tofu func(context.Context, ...string) (string, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first := make(chan error, 1)
	go func() {
		_, err := tofu(ctx, "apply", "-input=false", "-auto-approve", "-replace=terraform_data.proof", "-var=hold="+holdLock)
		first <- err
	}()
	for held := false; !held; {
		select {
		case err := <-first:
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
	locked := (*lockedError)(nil)
	switch {
	case second == nil:
		return errors.Join(errors.New("a second apply was not refused while the first held the lock"), err)
	case !errors.As(second, &locked):
		return errors.Join(second, err)
	}
	return err
}

// builds applies a network of AWS's, the way of every first module.
func (w *Walk) builds(ctx context.Context, p stack.Progress) error {
	t, err := w.tofu(ctx, "vpc")
	if err != nil {
		return err
	}
	p.Note("gets the provider")
	if _, err := t.runFor(ctx, providerTimeout, "init", "-input=false", "-backend=false"); err != nil {
		return withoutProvider(ctx, err)
	}
	p.Note("applies")
	if err := t.open(ctx); err != nil {
		return err
	}
	begun := time.Now()
	out, err := t.apply(ctx)
	if err != nil {
		return err
	}
	took := time.Since(begun)
	if out, err := t.run(ctx, "plan", "-input=false"); err != nil {
		return err
	} else if !strings.Contains(out, "No changes.") {
		return fmt.Errorf("a plan after the apply wants to change what was applied: %s", out)
	}
	if err := t.end(ctx); err != nil {
		return err
	}
	return kept(p, "%s resources in %.0f s; a plan then says: No changes", added(out), took.Seconds())
}

// added takes the number of resources out of what an apply says.
func added(out string) string {
	_, rest, _ := strings.Cut(out, "Apply complete! Resources: ")
	n, _, _ := strings.Cut(rest, " ")
	return n
}

// withoutProvider tells a provider that cannot be had from all that may go wrong
// besides.
func withoutProvider(ctx context.Context, err error) error {
	said := err.Error()
	if ctx.Err() != nil || !strings.Contains(said, "available provider packages") && !strings.Contains(said, "Failed to install provider") {
		return err
	}
	return &stack.Skip{Reason: "not possible here: no provider for AWS is in reach, from a registry or in /usr/local/share/terraform/plugins " +
		"(`tofu providers mirror` fills such a folder)"}
}
