package verify

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// tofuLock behaves as tofu does with a locked state: whoever comes second is
// refused at once, be it an apply or a plan, and a program takes a while to start.
type tofuLock struct {
	sync.Mutex
	folder string
	broken bool // locks nothing
}

func (l *tofuLock) run(ctx context.Context, args ...string) (string, error) {
	hold := strings.Contains(strings.Join(args, " "), "hold=")
	if hold {
		time.Sleep(200 * time.Millisecond)
	}
	if !l.broken {
		if !l.TryLock() {
			return "", &lockedError{err: errors.New("locked")}
		}
		defer l.Unlock()
	}
	if !hold {
		time.Sleep(100 * time.Millisecond)
		return "", nil
	}
	if err := os.WriteFile(filepath.Join(l.folder, heldFile), nil, 0o600); err != nil {
		return "", err
	}
	for ctx.Err() == nil {
		if _, err := os.Stat(filepath.Join(l.folder, releaseFile)); err == nil {
			return "", nil
		}
		time.Sleep(time.Millisecond)
	}
	return "", ctx.Err()
}

// TestContend: the second never takes the lock before the first has it, however
// long the first needs to start.
func TestContend(t *testing.T) {
	l := &tofuLock{folder: t.TempDir()}
	if err := contend(t.Context(), l.folder, l.run); err != nil {
		t.Error(err)
	}
	l = &tofuLock{folder: t.TempDir(), broken: true}
	if err := contend(t.Context(), l.folder, l.run); err == nil || !strings.Contains(err.Error(), "not refused") {
		t.Errorf("without a lock: %v", err)
	}
	failed := func(context.Context, ...string) (string, error) { return "", errors.New("no bucket") }
	if err := contend(t.Context(), t.TempDir(), failed); err == nil || !strings.Contains(err.Error(), "no bucket") {
		t.Errorf("an apply that fails: %v", err)
	}
}

// TestLocked: whoever has the lock is known by what terraform says, colours and
// all, and how it says it.
func TestLocked(t *testing.T) {
	folder := t.TempDir()
	script := filepath.Join(folder, "terraform")
	says := "#!/bin/sh\nprintf '\\033[31m╷\\033[0m\\n│ \\033[1mError: Error acquiring the state lock\\033[0m\\n│ Lock Info:\\n│   ID:        fa15dda3-eadb\\n│   Path: x\\n╵\\n' >&2; exit 1\n"
	if err := os.WriteFile(script, []byte(says), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := (&tofu{program: script, folder: folder}).run(t.Context(), "apply")
	locked := (*lockedError)(nil)
	if !errors.As(err, &locked) || locked.id != "fa15dda3-eadb" || strings.ContainsAny(err.Error(), "\x1b│") {
		t.Errorf("%q", err)
	}
}
