// Package alerts receives what Alertmanager sends, keeps the last of it on
// disk, and hands it to whoever listens.
package alerts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// DefaultKeep is how many alerts a Store keeps.
const DefaultKeep = 1000

// behind is how many alerts a listener may be behind before it is cut off.
const behind = 256

// ErrBehind ends a listener that does not keep up.
var ErrBehind = errors.New("the listener fell behind")

// Store is what was received. Its zero value with a Path is ready for use; the
// file is read when something is first asked of it.
type Store struct {
	Path string      // of the file, JSON
	Keep int         // DefaultKeep when 0
	Log  *zap.Logger // may be nil

	mu     sync.Mutex
	loaded bool
	list   []api.Alert // as received, oldest first
	subs   map[chan api.Alert]struct{}
}

// load reads the file, once. One that cannot be read is no reason not to take
// up what comes: it is overwritten by the next alert.
func (s *Store) load() {
	if s.loaded {
		return
	}
	s.loaded = true
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
	if s.Keep <= 0 {
		s.Keep = DefaultKeep
	}
	if err := state.ReadJSON(s.Path, &s.list); err != nil {
		s.list = nil
		if !errors.Is(err, fs.ErrNotExist) {
			s.Log.Warn("earlier alerts are lost", zap.Error(err))
		}
	}
}

// List returns what is kept, oldest first.
func (s *Store) List() []api.Alert {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	return slices.Clone(s.list)
}

// Last is when something was received last; zero if never.
func (s *Store) Last() (last time.Time) {
	for _, a := range s.List() {
		if a.LastReceived.After(last) {
			last = a.LastReceived
		}
	}
	return last
}

// Add takes up alerts that have just been received. When it returns nil they
// are on disk; after an error nothing of them is kept, and Alertmanager sends
// them again. Reminders of what is known count, but are no news.
func (s *Store) Add(received []api.Alert) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.load()
	if len(received) == 0 {
		return nil
	}
	next := slices.Clone(s.list)
	var news []api.Alert
	for _, a := range received {
		if i := known(next, a); i >= 0 {
			next[i].Repeated++
			next[i].LastReceived = a.Received
			continue
		}
		a.LastReceived = a.Received
		next = append(next, a)
		news = append(news, a)
	}
	if over := len(next) - s.Keep; over > 0 {
		next = slices.Delete(next, 0, over)
	}
	if err := state.WriteJSON(s.Path, next); err != nil {
		return fmt.Errorf("keep alerts: %w", err)
	}
	s.list = next
	for _, a := range news {
		s.Log.Info("alert", zap.String("status", a.Status), zap.String("name", a.Name), zap.String("fingerprint", a.Fingerprint))
		for ch := range s.subs {
			select {
			case ch <- a:
			default:
				delete(s.subs, ch)
				close(ch)
			}
		}
	}
	return nil
}

// known is the index of the alert that a reminds of, -1 if it is news: the last
// that was told of the same is compared, since one may fire anew.
func known(list []api.Alert, a api.Alert) int {
	for i, have := range slices.Backward(list) {
		if have.Fingerprint == a.Fingerprint {
			if have.Status == a.Status && have.StartsAt.Equal(a.StartsAt) {
				return i
			}
			return -1
		}
	}
	return -1
}

// Follow hands what is kept, and then what comes, to fn until ctx ends, which is
// no error.
func (s *Store) Follow(ctx context.Context, fn func(api.Alert) error) error {
	ch := make(chan api.Alert, behind)
	s.mu.Lock()
	s.load()
	kept := slices.Clone(s.list)
	if s.subs == nil {
		s.subs = map[chan api.Alert]struct{}{}
	}
	s.subs[ch] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.subs, ch)
		s.mu.Unlock()
	}()
	for _, a := range kept {
		if err := fn(a); err != nil {
			return err
		}
	}
	for {
		select {
		case a, ok := <-ch:
			if !ok {
				return ErrBehind
			}
			if err := fn(a); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}
