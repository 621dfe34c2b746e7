// Package change runs long work as changes, which can be followed, aborted,
// and resumed by the next daemon if this one dies. One change runs at a time.
package change

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

const (
	// keep is how many changes are remembered.
	keep = 20
	// maxResumes is how often a change is resumed before it is taken for the
	// reason why the daemon dies.
	maxResumes = 3
	// followEvery is the shortest time between two snapshots of one change
	// that a follower gets, except for the last.
	followEvery = 20 * time.Millisecond
)

// Reasons for the end of a change's context.
var (
	ErrAborted = errors.New("aborted by the user")
	errStopped = errors.New("the daemon is stopping")
)

// Config is what a Manager needs.
type Config struct {
	Dirs state.Dirs
	Log  *zap.Logger
	// Plan makes the plan of a change from its kind and options: when it
	// begins and, because plans are not stored, when it is resumed.
	Plan func(kind string, options json.RawMessage) (*stack.Plan, error)
	// Error makes the wire form of an error.
	Error func(error) *api.Error
	// Ended is told of every change that has reached its end; may be nil.
	Ended func(c api.Change, options json.RawMessage)
}

// Manager owns the changes.
type Manager struct {
	cfg Config

	mu      sync.Mutex
	changes []*change // by age, oldest first
	running *change   // nil, or the one under way
	closed  bool

	saving sync.Mutex // held around writes, so that the newest state is written last
}

// change is one change in memory. All but the channels is guarded by
// Manager.mu.
type change struct {
	record
	followers int
	moved     chan struct{} // closed and replaced whenever the record has changed
	done      chan struct{} // closed when the work has ended; nil if it was not run by this process
	cancel    context.CancelCauseFunc
}

// snapshot is a copy that later updates do not touch.
func (c *change) snapshot() api.Change {
	out := c.Change
	out.Tasks = slices.Clone(out.Tasks)
	return out
}

func (c *change) notify() {
	close(c.moved)
	c.moved = make(chan struct{})
}

// Begin starts a change of this kind, or joins the one that is under way if
// that does all that this one would. options is kept as JSON for a resume.
func (m *Manager) Begin(kind string, options any) (api.ChangeRef, error) {
	raw, err := json.Marshal(options)
	if err != nil {
		return api.ChangeRef{}, fmt.Errorf("encode the options of %s: %w", kind, err)
	}
	plan, err := m.cfg.Plan(kind, raw)
	if err != nil {
		return api.ChangeRef{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return api.ChangeRef{}, fmt.Errorf("%w: %w", errStopped, errdefs.ErrUnavailable)
	}
	if r := m.running; r != nil {
		if r.Kind == kind && !r.Aborting && (string(r.Options) == string(raw) || kind == api.ChangeUp && r.coversUp(raw, plan)) {
			return api.ChangeRef{ID: r.ID, Joined: true}, nil
		}
		return api.ChangeRef{}, &busyError{r.snapshot(), r.Aborting}
	}
	c := &change{
		record: record{
			Change: api.Change{
				ID: m.nextID(), Kind: kind, Status: api.Doing,
				Created: time.Now().UTC(), Tasks: plan.Tasks(),
			},
			Options: raw,
		},
		moved: make(chan struct{}),
	}
	// Intent first. The lock is held over this write, which no other caller
	// should overtake: there is one change at a time.
	if err := m.create(c.record); err != nil {
		return api.ChangeRef{}, err
	}
	m.changes = append(m.changes, c)
	m.start(c, plan)
	return api.ChangeRef{ID: c.ID}, nil
}

// Free is the error of a Begin of this kind that a change of another stands in
// the way of.
func (m *Manager) Free(kind string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.running; r != nil && r.Kind != kind {
		return &busyError{r.snapshot(), r.Aborting}
	}
	return nil
}

// coversUp reports whether an `up` that is under way does all that another would.
func (c *change) coversUp(raw json.RawMessage, plan *stack.Plan) bool {
	var one, other api.UpOptions
	if json.Unmarshal(c.Options, &one) != nil || json.Unmarshal(raw, &other) != nil || !stack.Covers(one, other) {
		return false
	}
	return !slices.ContainsFunc(plan.Tasks(), func(t api.Task) bool {
		return !slices.ContainsFunc(c.Tasks, func(have api.Task) bool { return have.Stage == t.Stage && have.Name == t.Name })
	})
}

// busyError refuses a change that another one stands in the way of.
type busyError struct {
	other    api.Change
	aborting bool
}

func (e *busyError) Error() string {
	if e.aborting {
		return fmt.Sprintf("change %s (%s) is being aborted", e.other.ID, e.other.Kind)
	}
	text := fmt.Sprintf("change %s (%s) is under way, begun %s ago", e.other.ID, e.other.Kind, time.Since(e.other.Created).Round(time.Second))
	var now []string
	for _, t := range e.other.Tasks {
		if t.Status == api.Doing {
			now = append(now, t.Stage+": "+t.Name)
		}
	}
	if len(now) > 0 {
		text += ", at " + strings.Join(now, ", ")
	}
	return text
}

func (e *busyError) Unwrap() error { return errdefs.ErrConflict }

func (e *busyError) Hint() string {
	if e.aborting {
		return "try again when that has ended: sandbox status says so"
	}
	return "wait for it; the command that began it, sudo sandbox " + e.other.Kind + " with the same flags, shows it again, and Ctrl-C there ends it unless somebody else is watching"
}

func (m *Manager) nextID() string {
	last := 0
	for _, c := range m.changes {
		if n, err := strconv.Atoi(c.ID); err == nil {
			last = max(last, n)
		}
	}
	return strconv.Itoa(last + 1)
}

// start runs the plan in the background; m.mu is held.
func (m *Manager) start(c *change, plan *stack.Plan) {
	ctx, cancel := context.WithCancelCause(context.Background())
	c.cancel, c.done = cancel, make(chan struct{})
	m.running = c
	m.cfg.Log.Info("change begins", zap.String("change", c.ID), zap.String("kind", c.Kind))
	go func() {
		err := plan.Run(ctx, func(t api.Task) { m.update(c, t) })
		m.end(c, ctx, err)
		cancel(nil)
	}()
}

// update puts a task's new state into the change and, if its status is new, on
// disk.
func (m *Manager) update(c *change, t api.Task) {
	m.mu.Lock()
	i := slices.IndexFunc(c.Tasks, func(old api.Task) bool { return old.Stage == t.Stage && old.Name == t.Name })
	news := c.Tasks[i].Status != t.Status
	c.Tasks[i] = t
	c.notify()
	m.mu.Unlock()
	if news {
		m.save(c)
	}
}

// end records how the change has ended; one that only the daemon's stop has
// ended stays as it is, for the next daemon to resume.
func (m *Manager) end(c *change, ctx context.Context, err error) {
	if p, ok := errors.AsType[*stack.PanicError](err); ok {
		m.cfg.Log.Error("panic in a change", zap.String("change", c.ID),
			zap.Any("panic", p.Value), zap.ByteString("stack", p.Stack))
	}
	m.mu.Lock()
	switch {
	case err == nil:
		c.Status = api.Done
	case errors.Is(context.Cause(ctx), errStopped):
	case errors.Is(context.Cause(ctx), ErrAborted):
		c.Status, c.Error = api.Aborted, m.cfg.Error(err)
	default:
		c.Status, c.Error = api.Failed, m.cfg.Error(err)
	}
	if api.Ended(c.Status) {
		c.Ready = time.Now().UTC()
	}
	m.mu.Unlock()
	// On disk before anybody is told.
	m.save(c)
	m.mu.Lock()
	m.running = nil
	pruned := m.prune()
	c.notify()
	close(c.done)
	ended := c.snapshot()
	m.mu.Unlock()
	m.removeFiles(pruned)
	m.cfg.Log.Info("change ends", zap.String("change", c.ID), zap.String("status", ended.Status), zap.Error(err))
	if m.cfg.Ended != nil && api.Ended(ended.Status) {
		m.cfg.Ended(ended, c.Options)
	}
}

// find returns a change by ID; m.mu is held.
func (m *Manager) find(id string) (*change, error) {
	for _, c := range m.changes {
		if c.ID == id {
			return c, nil
		}
	}
	return nil, fmt.Errorf("change %q: %w", id, errdefs.ErrNotFound)
}

// Get returns a change as it is now.
func (m *Manager) Get(id string) (api.Change, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c, err := m.find(id)
	if err != nil {
		return api.Change{}, err
	}
	return c.snapshot(), nil
}

// List returns the changes that are remembered, oldest first.
func (m *Manager) List() []api.Change {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]api.Change, len(m.changes))
	for i, c := range m.changes {
		out[i] = c.snapshot()
	}
	return out
}

// Running returns the ID of the change under way, or "".
func (m *Manager) Running() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running == nil {
		return ""
	}
	return m.running.ID
}

// Follow hands the change to fn now and whenever it has moved on, until it has
// ended, ctx is done or fn fails. Snapshots that come faster than fn or than
// every 20 ms are left out; the last never is.
func (m *Manager) Follow(ctx context.Context, id string, fn func(api.Change) error) error {
	m.mu.Lock()
	c, err := m.find(id)
	if err == nil {
		c.followers++
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	defer func() {
		m.mu.Lock()
		c.followers--
		m.mu.Unlock()
	}()
	for {
		m.mu.Lock()
		// A change counts as ended for its followers when its end is on disk.
		ended := m.running != c
		snapshot, moved := c.snapshot(), c.moved
		m.mu.Unlock()
		if err := fn(snapshot); err != nil || ended {
			return err
		}
		// Not sooner than followEvery, and then as soon as there is news.
		select {
		case <-time.After(followEvery):
		case <-c.done:
		case <-ctx.Done():
		}
		select {
		case <-moved:
		case <-ctx.Done():
			// The end of the change may be why ctx ended, as it is after a
			// purge: its follower must see it.
			select {
			case <-c.done:
			default:
				return ctx.Err()
			}
		}
	}
}

// Abort cancels a change and returns it when its steps have ended. With alone it
// is an errdefs.ErrConflict if others follow the change than who asks.
func (m *Manager) Abort(ctx context.Context, id string, alone bool) (api.Change, error) {
	m.mu.Lock()
	c, err := m.find(id)
	if err == nil && m.running != c {
		err = fmt.Errorf("change %s has ended already (%s): %w", id, c.Status, errdefs.ErrFailedPrecondition)
	}
	if err == nil && alone && c.followers > 1 {
		err = fmt.Errorf("change %s is followed by others: %w", id, errdefs.ErrConflict)
	}
	if err != nil {
		m.mu.Unlock()
		return api.Change{}, err
	}
	c.Aborting = true
	m.mu.Unlock()
	m.save(c) // if the daemon dies now, the next one must not resume it
	c.cancel(ErrAborted)
	select {
	case <-c.done:
	case <-ctx.Done():
		return api.Change{}, ctx.Err()
	}
	return m.Get(id)
}

// Close stops the change under way, to be resumed by the next daemon, and
// waits for it.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	c := m.running
	m.mu.Unlock()
	if c != nil {
		c.cancel(errStopped)
		<-c.done
	}
}
