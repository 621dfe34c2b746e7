package stack_test

import (
	"strings"
	"syscall"
	"time"
)

// together does all at once: while an `up` is under way, another joins it, what
// would do something else says what is under way, and Ctrl-C of one who only
// watches ends nothing.
func (s *sandbox) together(up *running) {
	s.t.Helper()
	s.until("a change is under way", func() bool {
		status := s.begin("status")
		return status.code() == 0 && strings.Contains(status.out.String(), "change 1 is under way")
	})
	second, third := s.begin("up"), s.begin("up")
	for _, args := range [][]string{{"down"}, {"down", "--purge"}, {"verify"}, {"up", "--nodes", "2"}, {"up", "--port", "grafana=3002"}} {
		s.refused(1, []string{"change 1 (up) is under way, begun ", "s ago, at ", "wait for it"}, args...)
	}
	s.until("the third watches", func() bool { return strings.Contains(third.errs.String(), "change 1 does this already") })
	if err := third.cmd.Process.Signal(syscall.SIGINT); err != nil {
		s.t.Error(err)
	}
	if code := third.code(); code != 130 || !strings.Contains(third.errs.String(), "stopped watching") {
		s.t.Errorf("Ctrl-C of who watches: exit code %d\n%s", code, third.errs.String())
	}
	if code := second.code(); code != 0 || !strings.Contains(second.errs.String(), "change 1 does this already") {
		s.t.Errorf("who joined: exit code %d\n%s", code, second.errs.String())
	}
	select {
	case <-up.ended:
	case <-time.After(5 * time.Second):
		s.t.Error("who joined has ended before who began")
	}
}

// until waits for something that takes moments.
func (s *sandbox) until(what string, done func() bool) {
	s.t.Helper()
	for end := time.Now().Add(20 * time.Second); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatal("not so: ", what)
		}
	}
}
