package change

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"go.uber.org/zap"
)

// record is a change on disk.
type record struct {
	api.Change
	Options  json.RawMessage `json:"options"`
	Resumed  int             `json:"resumed,omitempty"`  // times
	Aborting bool            `json:"aborting,omitempty"` // abort was asked for
}

// Open reads the changes that earlier daemons have left. It starts nothing;
// see [Manager.Resume].
func Open(cfg Config) (*Manager, error) {
	m := &Manager{cfg: cfg}
	dir := filepath.Dir(cfg.Dirs.Change("x"))
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list changes: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), ".json")
		if _, err := strconv.Atoi(id); !ok || err != nil {
			continue // a temporary file of a write that a crash broke off
		}
		c := &change{moved: make(chan struct{})}
		if err := state.ReadJSON(cfg.Dirs.Change(id), &c.record); err != nil || c.ID != id {
			// Losing the memory of one old change is better than a daemon that
			// does not start.
			cfg.Log.Warn("a change on disk is unreadable and left out", zap.String("change", id), zap.Error(err))
			continue
		}
		m.changes = append(m.changes, c)
	}
	slices.SortFunc(m.changes, func(a, b *change) int {
		x, _ := strconv.Atoi(a.ID)
		y, _ := strconv.Atoi(b.ID)
		return x - y
	})
	m.removeFiles(m.prune())
	return m, nil
}

// Resume takes up the change that the last daemon did not finish. One whose
// abort was under way is marked aborted; one that was resumed too often is
// given up. Call it once, before any Begin.
func (m *Manager) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range slices.Backward(m.changes) {
		if api.Ended(c.Status) {
			continue
		}
		plan, err := m.cfg.Plan(c.Kind, c.Options)
		switch {
		case c.Aborting:
			m.giveUp(c, api.Aborted, ErrAborted)
		case m.running != nil:
			m.giveUp(c, api.Failed, fmt.Errorf("a later change, %s, is under way", m.running.ID))
		case c.Resumed >= maxResumes:
			m.giveUp(c, api.Failed, fmt.Errorf("the daemon died in the middle of it %d times", c.Resumed+1))
		case err != nil:
			m.giveUp(c, api.Failed, fmt.Errorf("resume: %w", err))
		default:
			c.Resumed++
			c.Tasks = plan.Tasks()
			if err := m.create(c.record); err != nil {
				// Without the count a change that kills the daemon would be
				// resumed for ever.
				m.giveUp(c, api.Failed, fmt.Errorf("resume: %w", err))
				continue
			}
			m.start(c, plan)
		}
	}
}

// giveUp ends a change that is not resumed; m.mu is held.
func (m *Manager) giveUp(c *change, status string, reason error) {
	m.cfg.Log.Warn("unfinished change is not resumed", zap.String("change", c.ID), zap.Error(reason))
	c.Status, c.Error, c.Ready = status, m.cfg.Error(reason), time.Now().UTC()
	for i, t := range c.Tasks {
		switch t.Status {
		case api.Doing:
			c.Tasks[i].Status, c.Tasks[i].Error = api.Aborted, reason.Error()
		case api.Pending:
			c.Tasks[i].Status = api.Skipped
		}
	}
	if err := m.create(c.record); err != nil {
		m.cfg.Log.Warn("change is not on disk", zap.String("change", c.ID), zap.Error(err))
	}
}

// create writes a change, making the folder if need be.
func (m *Manager) create(r record) error {
	if err := state.WriteJSON(m.cfg.Dirs.Change(r.ID), r); err != nil {
		return fmt.Errorf("write change %s: %w", r.ID, err)
	}
	return nil
}

// save writes the present state of a change. It does not bring back the folder
// that a purge has removed. A failure is logged: the work goes on, only a
// resume would know less.
func (m *Manager) save(c *change) {
	m.saving.Lock()
	defer m.saving.Unlock()
	m.mu.Lock()
	r := c.record
	r.Change = c.snapshot()
	m.mu.Unlock()
	path := m.cfg.Dirs.Change(r.ID)
	if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err := m.create(r); err != nil {
		m.cfg.Log.Warn("change is not on disk", zap.String("change", r.ID), zap.Error(err))
	}
}

// prune forgets the oldest ended changes beyond keep and returns their IDs;
// m.mu is held, except in Open.
func (m *Manager) prune() []string {
	var ids []string
	for i := 0; len(m.changes) > keep && i < len(m.changes); {
		if c := m.changes[i]; api.Ended(c.Status) {
			ids = append(ids, c.ID)
			m.changes = slices.Delete(m.changes, i, i+1)
		} else {
			i++
		}
	}
	return ids
}

func (m *Manager) removeFiles(ids []string) {
	for _, id := range ids {
		if err := os.Remove(m.cfg.Dirs.Change(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.cfg.Log.Warn("old change is not removed", zap.String("change", id), zap.Error(err))
		}
	}
}
