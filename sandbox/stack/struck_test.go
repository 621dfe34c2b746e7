package stack_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	// seedVar repeats a run of TestStruck with the moments of another.
	seedVar = "SANDBOX_TEST_SEED"
	blows   = 10
	// upTakes is about how long an `up` takes on a small machine when Docker has
	// the images already, as it soon has.
	upTakes = 50 * time.Second
)

// TestStruck: whatever moment of its first `up` a stack is struck at, by Ctrl-C
// or by the death of the daemon, the next `up` goes on from there; and in the end
// all works, and nothing is left.
func TestStruck(t *testing.T) {
	s := newSandbox(t)
	before := inventory(t)
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(seedVar); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("the same again: %s=%d", seedVar, seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ways := random.Perm(blows)
	begun, takes := time.Now(), upTakes
	for i := range blows {
		// One moment in each tenth, and the tenths get longer: the most happens in
		// the beginning, when all stages are at work.
		part := (float64(i) + random.Float64()) / blows
		for part *= part; ; {
			ended, took := s.strike(time.Duration(part*float64(takes)), ways[i]%2 == 0)
			if !ended {
				break
			}
			takes = took * 9 / 10 // a faster machine: the same moment, of another `up`
			s.change("down")
		}
	}
	t.Logf("measured: struck %d times: %.0f s", blows, time.Since(begun).Seconds())
	_, took := s.change("up")
	t.Logf("measured: up after that: %.0f s", took.Seconds())
	s.verify("verify, after that")
	s.purge(before)
}

// strike ends an `up` some time after its first step: by Ctrl-C, or by killing
// the daemon, which is then started again as its unit would. It tells whether,
// and when, the `up` had ended before. (Before its first step an `up` that finds
// no daemon starts one.)
func (s *sandbox) strike(after time.Duration, daemon bool) (ended bool, took time.Duration) {
	s.t.Helper()
	up := s.begin("up")
	for begun := false; !begun; begun = up.errs.String() != "" {
		select {
		case <-up.ended:
			s.t.Fatalf("up ended before its first step: %d", up.code())
		case <-time.After(time.Millisecond):
		}
	}
	select {
	case <-up.ended:
		if up.code() != 0 {
			s.t.Fatalf("up: %d\n%s", up.code(), up.errs.String())
		}
		s.t.Logf("up had ended before %.1f s", after.Seconds())
		return true, up.took
	case <-time.After(after):
	}
	what, code, says := "Ctrl-C", 130, "up was aborted"
	struck := time.Now()
	if daemon {
		what, code, says = "kill -9 of the daemon", 1, "the daemon went away while up was under way"
		s.kill()
	} else if err := up.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	<-up.ended
	s.t.Logf("%s after %.1f s: exit code %d, %.1f s later, at %s", what, after.Seconds(), up.code(), time.Since(struck).Seconds(), up.at())
	if up.code() != code || !strings.Contains(up.errs.String(), says) {
		s.t.Errorf("%s after %v: exit code %d\n%s", what, after, up.code(), up.errs.String())
	}
	if daemon {
		s.start()
	}
	return false, 0
}

// at is how far an `up` says that it came.
func (r *running) at() string {
	var done, aborted []string
	for line := range strings.Lines(r.errs.String()) {
		words := strings.Fields(line)
		if len(words) < 3 {
			continue
		}
		switch words[0] {
		case "!":
			aborted = append(aborted, words[1]+" "+words[2])
		case "✓":
			done = append(done, words[1])
		}
	}
	return fmt.Sprintf("%d steps done, aborted: %s", len(done), strings.Join(aborted, ", "))
}
