package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

const (
	// startTimeout bounds the wait for a daemon that was started: it may have to
	// sweep up after a crash first.
	startTimeout = 60 * time.Second
	// startPoll is how often its socket is tried.
	startPoll = 20 * time.Millisecond
)

// ensureDaemon starts the daemon unless it answers already, and waits until it
// does. preflight, if there is one, can refuse the start.
func (p *program) ensureDaemon(ctx context.Context, preflight func(context.Context) error) error {
	cl := p.client()
	_, err := cl.Version(ctx)
	if err == nil || !errors.Is(err, client.ErrNotRunning) {
		return err
	}
	if !p.host.IsRoot() {
		return &exitError{
			code: exitNotReady,
			err:  errors.New("starting the daemon needs root: it makes namespaces, cgroups, mounts and network links"),
			hint: "sudo sandbox up",
		}
	}
	if preflight != nil {
		if err := preflight(ctx); err != nil {
			return err
		}
	}
	started := time.Now()
	starting, err := p.host.Start(ctx)
	if err != nil {
		return fmt.Errorf("start the daemon: %w", err)
	}
	progress := ui.NewProgress(p.Term)
	defer progress.Close()
	step := ui.Step{Name: "daemon", State: ui.StepActive, Note: starting.How, Active: started}
	deadline := time.After(startTimeout)
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for ended := false; ; {
		if _, err = cl.Version(ctx); err == nil {
			step.State, step.Took = ui.StepDone, time.Since(started)
			progress.Update([]ui.Step{step})
			return nil
		}
		// Another `up` may have started one just before, which then keeps ours
		// from running and answers soon.
		lost := ended && slices.ContainsFunc(starting.Log(), func(line string) bool {
			return strings.Contains(line, "another sandbox daemon is running")
		})
		if ended && !lost || !errors.Is(err, client.ErrNotRunning) {
			return p.startingFailed(starting, err)
		}
		if lost {
			starting.Ended = nil // known; a nil channel is not waited for
		}
		progress.Update([]ui.Step{step})
		select {
		case <-starting.Ended:
			ended = true // one more try: it may have been another daemon's start
		case <-tick.C:
		case <-deadline:
			return p.startingFailed(starting, fmt.Errorf("it does not answer after %v", startTimeout))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// preflight refuses to start a daemon on a host that cannot run containers.
func (p *program) preflight(ctx context.Context) error {
	findings, err := p.host.Check(ctx)
	if err != nil {
		return err
	}
	failed := failing(findings)
	if len(failed) == 0 {
		return nil
	}
	printFindings(p.Term.Stderr(), p.Term.Style(), failed)
	return notReady(failed)
}

func (p *program) startingFailed(s Starting, err error) error {
	text := "the daemon (" + s.How + ") did not start"
	if !errors.Is(err, client.ErrNotRunning) {
		text += ": " + err.Error()
	}
	if lines := s.Log(); len(lines) > 0 {
		text += "; the end of its log:\n" + strings.Join(lines, "\n")
	}
	return &exitError{code: exitFailure, err: errors.New(text)}
}
