package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

const (
	// startTimeout bounds the wait for a daemon that was started: it may have to
	// sweep up after a crash first.
	startTimeout = 60 * time.Second
	// startPoll is how often its socket is tried.
	startPoll = 20 * time.Millisecond
	// abortTimeout bounds the wait for a change to undo its step.
	abortTimeout = 30 * time.Second
)

func (p *program) upCommand() *cli.Command {
	return &cli.Command{
		Name: "up", Category: groupStack,
		Usage: "bring everything up, or repair it",
		Description: `
Starts the daemon where it does not run (a systemd unit, or a process of its
own), then looks at every part and makes what is missing. It may be run at any
time: after a crash, a reboot or a Ctrl-C it repairs. Needs root.

EXAMPLES
  sudo sandbox up
  sudo sandbox up --only internals
  sudo sandbox up --nodes 3 --port grafana=3002
  sudo sandbox up --json`,
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "only", Usage: "bring up these `STAGES`, separated by commas, and what they need"},
			&cli.StringSliceFlag{Name: "without", Usage: "leave out these `STAGES`, and what needs them"},
			&cli.IntFlag{Name: "nodes", Usage: "make the cluster of `N` nodes, from now on", Value: 1},
			&cli.StringSliceFlag{Name: "port", Usage: "let a service have another port of this machine: `NAME=PORT`"},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.up),
	}
}

func (p *program) up(ctx context.Context, c *cli.Context) error {
	opts := api.UpOptions{Only: splitList(c.StringSlice("only")), Without: splitList(c.StringSlice("without"))}
	if c.IsSet("nodes") { // otherwise it is what it was
		if opts.Nodes = c.Int("nodes"); opts.Nodes < 1 {
			return usagef("--nodes %d: a cluster has one node at least", opts.Nodes)
		}
	}
	opts.User = p.host.User()
	var err error
	if opts.Ports, err = movedPorts(splitList(c.StringSlice("port"))); err != nil {
		return err
	}
	if err := p.ensureDaemon(ctx, p.preflight); err != nil {
		return err
	}
	ref, err := p.client().Up(ctx, opts)
	if err != nil {
		return err
	}
	change, err := p.follow(ctx, ref)
	if c.Bool("json") {
		if e := ui.JSON(p.Term.Stdout(), change); e != nil {
			return e
		}
		return p.changeEnded(ctx, change, err)
	}
	if err := p.changeEnded(ctx, change, err); err != nil {
		return err
	}
	status, err := p.client().Status(ctx)
	if err != nil {
		return err
	}
	return statusTable(p.Term.OutStyle(), status).Write(p.Term.Stdout(), p.Term.OutStyle())
}

// telemetryPort is where the daemon is observed, unless it is told otherwise.
const telemetryPort = 5056

// movedPorts reads the values of --port, NAME=PORT.
func movedPorts(values []string) (map[string]uint16, error) {
	var ports map[string]uint16
	for _, v := range values {
		name, number, _ := strings.Cut(v, "=")
		port, err := strconv.ParseUint(number, 10, 16)
		if name == "" || err != nil || port == 0 {
			return nil, usagef("--port %q: want NAME=PORT, as in grafana=3002", v)
		}
		if ports == nil {
			ports = map[string]uint16{}
		}
		ports[name] = uint16(port)
	}
	return ports, nil
}

// splitList takes comma-separated lists apart, and drops what is empty.
func splitList(lists []string) []string {
	var out []string
	for _, list := range lists {
		for item := range strings.SplitSeq(list, ",") {
			if item = strings.TrimSpace(item); item != "" {
				out = append(out, item)
			}
		}
	}
	return out
}

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

// follow shows a change until it has ended. When ctx ends first, by Ctrl-C, the
// change is aborted, unless it is another client's.
func (p *program) follow(ctx context.Context, ref api.ChangeRef) (api.Change, error) {
	progress := ui.NewProgress(p.Term)
	defer progress.Close()
	updates := make(chan api.Change)
	type result struct {
		change api.Change
		err    error
	}
	ended := make(chan result, 1)
	done := make(chan struct{})
	defer close(done)
	go func() {
		change, err := p.client().FollowChange(ctx, ref.ID, func(c api.Change) {
			select {
			case updates <- c:
			case <-done:
			}
		})
		ended <- result{change, err}
	}()
	frame := time.NewTicker(100 * time.Millisecond)
	defer frame.Stop()
	var steps []ui.Step
	for {
		select {
		case c := <-updates:
			steps = changeSteps(c)
			progress.Update(steps)
		case <-frame.C:
			if p.Term.Live() {
				progress.Update(steps)
			}
		case r := <-ended:
			if ctx.Err() == nil || r.err == nil {
				return r.change, r.err
			}
			progress.Close()
			if ref.Joined {
				fmt.Fprintln(p.Term.Stderr(), "stopped watching; what another client has begun goes on")
				return r.change, ctx.Err()
			}
			return p.abort(ref.ID, progress)
		}
	}
}

// abort takes a change back, on a context that the interrupt has not ended.
func (p *program) abort(id string, progress *ui.Progress) (api.Change, error) {
	fmt.Fprintln(p.Term.Stderr(), "interrupted: undoing the step under way …")
	ctx, cancel := context.WithTimeout(context.Background(), abortTimeout)
	defer cancel()
	change, err := p.client().AbortChange(ctx, id)
	if err == nil {
		progress.Update(changeSteps(change))
	}
	return change, err
}

func changeSteps(c api.Change) []ui.Step {
	states := map[string]ui.StepState{
		api.Pending: ui.StepPending, api.Doing: ui.StepActive, api.Done: ui.StepDone,
		api.Failed: ui.StepFailed, api.Aborted: ui.StepAborted, api.Skipped: ui.StepSkipped,
	}
	steps := make([]ui.Step, len(c.Tasks))
	for i, t := range c.Tasks {
		steps[i] = ui.Step{Group: t.Stage, Name: t.Name, State: states[t.Status], Note: t.Note, Error: t.Error, Done: t.Done, Total: t.Total, Took: t.Took}
	}
	return steps
}

// changeEnded is the outcome of a change as an error.
func (p *program) changeEnded(ctx context.Context, c api.Change, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return &exitError{code: exitInterrupted}
	case err != nil:
		if daemonLost(err) {
			return &exitError{code: exitFailure, err: fmt.Errorf("the daemon went away while %s was under way", c.Kind), hint: "it resumes when the daemon is back: sudo sandbox up"}
		}
		return err
	case c.Status == api.Aborted:
		return &exitError{code: exitInterrupted, err: fmt.Errorf("%s was aborted", c.Kind), hint: "sudo sandbox up repairs what is half made"}
	case c.Status == api.Failed && c.Error != nil:
		if c.Error.Class == api.ClassFailedPrecondition {
			return &exitError{code: exitNotReady, err: c.Error, hint: c.Error.Hint}
		}
		return c.Error
	case c.Status == api.Failed:
		return fmt.Errorf("%s failed", c.Kind)
	}
	return nil
}

func (p *program) downCommand() *cli.Command {
	return &cli.Command{
		Name: "down", Category: groupStack,
		Usage: "stop everything; with --purge, leave nothing behind",
		Description: `
Containers are removed and the network is taken down; images and settings stay.
With --purge they go as well, with the daemon, its unit and its folders, and
what is left after all, if anything, is printed.

EXAMPLES
  sudo sandbox down
  sudo sandbox down --purge`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "purge", Usage: "remove images, state and the daemon as well", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, p.down),
	}
}

func (p *program) down(ctx context.Context, c *cli.Context) error {
	purge := c.Bool("purge")
	if purge {
		if !p.host.IsRoot() {
			return &exitError{code: exitNotReady, err: errors.New("--purge needs root: it removes the daemon's unit and folders"), hint: "sudo sandbox down --purge"}
		}
		// What a crash has left is the daemon's to find and take away, also on a
		// host that could no longer run a container.
		if err := p.ensureDaemon(ctx, nil); err != nil {
			return err
		}
	}
	ref, err := p.client().Down(ctx, api.DownOptions{Purge: purge})
	if errors.Is(err, client.ErrNotRunning) && !purge {
		fmt.Fprintln(p.Term.Stderr(), "the daemon is not running: nothing is up")
		return nil
	}
	if err != nil {
		return err
	}
	change, err := p.follow(ctx, ref)
	if purge && isUnexpectedEOF(err) && change.Status == api.Doing {
		// The daemon ends by itself after a purge, and may do so before it has
		// told us; what is left will show.
		err = nil
		change.Status = api.Done
	}
	if c.Bool("json") {
		if e := ui.JSON(p.Term.Stdout(), change); e != nil {
			return e
		}
	}
	if err := p.changeEnded(ctx, change, err); err != nil || !purge {
		return err
	}
	return p.uninstall(ctx)
}

// uninstall takes away what the daemon could not, and proves that nothing is
// left.
func (p *program) uninstall(ctx context.Context) error {
	if err := p.waitGone(ctx); err != nil {
		return err
	}
	left, err := p.host.Uninstall(ctx)
	// The daemon has closed its socket, and may need a moment more to end.
	for range 20 {
		if len(left) == 0 || ctx.Err() != nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
		left, err = p.host.Uninstall(ctx)
	}
	if len(left) > 0 {
		ui.Lines(p.Term.Stderr(), "still there:")
		for _, item := range left {
			ui.Lines(p.Term.Stderr(), "  "+ui.Plain(item))
		}
		return errors.Join(&exitError{code: exitFailure, err: fmt.Errorf("%d things are left", len(left))}, err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintln(p.Term.Stderr(), "nothing is left: no process, mount, network link, rule, cgroup or file")
	return nil
}

// waitGone waits for the daemon's end.
func (p *program) waitGone(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if _, err := p.client().Version(ctx); errors.Is(err, client.ErrNotRunning) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the daemon's end: %w", ctx.Err())
		case <-time.After(startPoll):
		}
	}
}

func (p *program) daemonCommand() *cli.Command {
	return &cli.Command{
		Name: "daemon", Category: groupOneself,
		Usage: "run the daemon in the foreground (up starts it for you)",
		Description: `
Serves the API on the socket in the run folder until SIGTERM or Ctrl-C, and the
local images as a read-only registry, from which other engines can pull.
Containers go on without it.

EXAMPLES
  sudo sandbox daemon
  sudo sandbox daemon --registry off
  sudo sandbox --state-dir /tmp/lib --run-dir /tmp/run daemon --registry 127.0.0.1:5056`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "registry", Usage: "serve the registry at `IP:PORT`, or off (127.0.0.1:5055)", EnvVars: []string{"SANDBOX_REGISTRY"}},
			&cli.UintFlag{Name: "telemetry-port", Usage: "give metrics to Prometheus and take alerts at port `N` of Docker's network", EnvVars: []string{"SANDBOX_TELEMETRY_PORT"}, Value: telemetryPort},
			&cli.BoolFlag{Name: "registry-upstream", Usage: "let the registry fetch what is not in the local store", EnvVars: []string{"SANDBOX_REGISTRY_UPSTREAM"}, DisableDefaultText: true},
		},
		Action: func(c *cli.Context) error {
			if err := checkArgs(c, 0, 0); err != nil {
				return err
			}
			if !p.host.IsRoot() {
				return &exitError{code: exitNotReady, err: errors.New("the daemon needs root"), hint: "sudo sandbox daemon"}
			}
			port := c.Uint("telemetry-port")
			if port > math.MaxUint16 {
				return usagef("--telemetry-port %d: there is no such port", port)
			}
			return p.host.Serve(c.Context, Serving{
				Registry: c.String("registry"), Upstream: c.Bool("registry-upstream"), TelemetryPort: uint16(port),
			})
		},
	}
}
