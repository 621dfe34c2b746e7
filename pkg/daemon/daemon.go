// Package daemon owns the state of sandbox and runs its work, behind an HTTP
// API on a unix socket.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/daemon/alerts"
	"github.com/sandboxlabs/sandbox/pkg/daemon/change"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// Timeouts of the server. There is none on a whole request: many last as long
// as a container does.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 64 << 10 // bytes
	// stopTimeout is how long requests that are not streams get to finish when
	// the daemon stops. systemd waits 90 s by default.
	stopTimeout = 20 * time.Second
)

var errStopping = errors.New("the daemon is stopping")

// Config is what a daemon is made of. Its parts must not have touched the
// machine yet: that is for Prepare, which no second daemon reaches.
type Config struct {
	Dirs   state.Dirs
	Engine engine.Engine
	Images Images
	Stack  *stack.Graph
	// Verify plans to try what the stack promises: all, or some by name.
	Verify  func(only []string) (*stack.Plan, error)
	Log     *zap.Logger
	Group   string // that may use the socket besides root; "" for none
	Version api.Version
	// Alerts are those that Alertmanager has sent; may be nil.
	Alerts *alerts.Store
	// Exited is told of each end of a container; may be nil. It must not wait.
	Exited func(api.Container, api.Exit)
	// Services tells of what runs beside the API; may be nil.
	Services func() []api.StatusItem
	// Prepare runs once this is the only daemon, before the first request: it
	// sweeps up after the last one and starts what is to run beside the API,
	// until ctx ends. Its error ends the daemon; what the daemon can live with
	// it logs. May be nil.
	Prepare func(ctx context.Context) error
}

// Daemon is one run of the daemon.
type Daemon struct {
	Config
	gid      int // of Group; -1 if there is none
	since    time.Time
	changes  *change.Manager
	events   *events
	keeper   *keeper
	sessions *sessions
	gate     *gate
	settings *stack.Settings

	// stopping ends when the daemon begins to stop, alive when all requests
	// have ended.
	stopping context.Context //nolint:containedctx // the daemon's life, not a call's
	stop     context.CancelFunc
	alive    context.Context //nolint:containedctx // likewise
	purged   atomic.Bool     // a purge has ended well: leave nothing
	work     sync.WaitGroup
}

// New returns a daemon that does not run yet.
func New(cfg Config) *Daemon {
	return &Daemon{Config: cfg, gid: -1, gate: newGate(), settings: &stack.Settings{Dirs: cfg.Dirs}}
}

// Run serves until ctx ends, SIGTERM or SIGINT arrives, or a purge is done.
// Containers run on after it. It fails at once if another daemon runs.
func (d *Daemon) Run(ctx context.Context) (err error) {
	// The folder is for all to enter, or the socket's group could not.
	if err := os.MkdirAll(d.Dirs.Run, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(d.Dirs.Run, 0o755); err != nil {
		return err
	}
	held, err := lock(d.Dirs.DaemonLock())
	if err != nil {
		return err
	}
	defer func() {
		if d.purged.Load() {
			err = errors.Join(err, removeRun(d.Dirs))
		}
		held.Close()
	}()

	// systemd's variables are for us, not for the processes that we start.
	systemd := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")

	ctx, unregister := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer unregister()
	d.stopping, d.stop = context.WithCancel(ctx)
	defer d.stop()
	alive, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	d.alive = alive
	d.since = time.Now().UTC()

	if d.gid, err = groupID(d.Group); err != nil {
		return err
	}
	if d.gid < 0 && d.Group != "" {
		d.Log.Warn("there is no such group: only root can use the socket", zap.String("group", d.Group))
	}
	if d.Prepare != nil {
		if err := d.Prepare(alive); err != nil {
			return fmt.Errorf("prepare the daemon: %w", err)
		}
	}
	d.events = newEvents()
	d.sessions = newSessions()
	d.keeper = newKeeper(d)
	if err := d.keeper.recover(alive); err != nil {
		return err
	}
	d.changes, err = change.Open(change.Config{
		Dirs: d.Dirs, Log: d.Log.Named("change"), Plan: d.plan, Ended: d.changeEnded,
		Error: func(err error) *api.Error { e, _ := wireError(err); return e },
	})
	if err != nil {
		return err
	}

	listener, ours, err := listen(d.Dirs.Socket(), d.gid)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", d.Dirs.Socket(), err)
	}
	server := &http.Server{
		Handler:           d.handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          zap.NewStdLog(d.Log.Named("http")),
		BaseContext:       func(net.Listener) context.Context { return alive },
		ConnContext:       withPeer,
	}
	// Before the first request, which may ask for the change that is resumed.
	d.changes.Resume()
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	d.Log.Info("daemon serves", zap.String("socket", d.Dirs.Socket()), zap.Int("pid", os.Getpid()))
	if err := notify(systemd, "READY=1"); err != nil {
		d.Log.Warn("systemd does not know that we are ready", zap.Error(err))
	}

	select {
	case err = <-served:
		d.stop()
	case <-d.stopping.Done():
		_ = notify(systemd, "STOPPING=1") // it learns so by our end, too
	}
	d.Log.Info("daemon stops; containers run on")
	// Order: no new connections and no socket to find, then no more changes,
	// then the requests under way, then what serves them.
	d.changes.Close()
	deadline, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if e := server.Shutdown(deadline); e != nil {
		err = errors.Join(err, fmt.Errorf("requests did not end in %v: %w", stopTimeout, e), server.Close())
	}
	d.sessions.closeAll()
	end()
	d.work.Wait()
	if ours {
		if e := os.Remove(d.Dirs.Socket()); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	if errors.Is(err, http.ErrServerClosed) {
		err = nil
	}
	return err
}

// peerKey is the context key of a connection's peerResult.
type peerKey struct{}

type peerResult struct {
	peer
	err error
}

func withPeer(ctx context.Context, conn net.Conn) context.Context {
	p, err := peerOf(conn.(*net.UnixConn))
	return context.WithValue(ctx, peerKey{}, peerResult{p, err})
}

// plan makes the plan of a change from its stored options.
func (d *Daemon) plan(kind string, options json.RawMessage) (*stack.Plan, error) {
	switch kind {
	case api.ChangeUp:
		var opts api.UpOptions
		if err := json.Unmarshal(options, &opts); err != nil {
			return nil, fmt.Errorf("options of up: %w", err)
		}
		return d.planUp(opts)
	case api.ChangeDown:
		var opts api.DownOptions
		if err := json.Unmarshal(options, &opts); err != nil {
			return nil, fmt.Errorf("options of down: %w", err)
		}
		return d.Stack.Down(opts)
	case api.ChangeVerify:
		var opts api.VerifyOptions
		if err := json.Unmarshal(options, &opts); err != nil {
			return nil, fmt.Errorf("options of verify: %w", err)
		}
		plan, err := d.Verify(opts.Only)
		if err != nil {
			return nil, err
		}
		plan.Images = &stack.Sources{Offline: opts.Offline}
		return plan, nil
	}
	return nil, fmt.Errorf("unknown kind of change %q", kind)
}

// changeEnded gives back the memory that a change took, images pass through
// it, and ends the daemon after a purge: there is nothing left that it could
// serve.
func (d *Daemon) changeEnded(c api.Change, options json.RawMessage) {
	debug.FreeOSMemory()
	var opts api.DownOptions
	if c.Kind != api.ChangeDown || json.Unmarshal(options, &opts) != nil || !opts.Purge {
		return
	}
	if c.Status != api.Done {
		d.gate.open()
		return
	}
	d.purged.Store(true)
	d.stop()
}

// removeRun removes what the daemon itself has made in the Run folder, and the
// folder, unless somebody has put something else there.
func removeRun(dirs state.Dirs) error {
	// The lock goes while it is held: whoever has opened it in the meantime
	// will see that it is no longer there; see lock.
	err := os.Remove(dirs.DaemonLock())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if e := os.Remove(dirs.Run); e != nil && !errors.Is(e, fs.ErrNotExist) && !errors.Is(e, syscall.ENOTEMPTY) && !errors.Is(e, syscall.EBUSY) {
		err = errors.Join(err, e)
	}
	return err
}
