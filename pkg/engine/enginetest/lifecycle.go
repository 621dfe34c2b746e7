package enginetest

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func lifecycle(t *testing.T, s *suite) {
	c := s.create(t, api.ContainerSpec{Command: shell("echo up; exec sleep 1000"), Init: true})
	if c.Status != api.StatusCreated || c.PID == 0 || c.Engine != s.Name() || c.Image != s.Image {
		t.Errorf("created: %+v", c)
	}
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(c.ID) || !regexp.MustCompile(`^[a-z]+_[a-z]+\d*$`).MatchString(c.Name) {
		t.Errorf("ID %q, name %q", c.ID, c.Name)
	}
	if log := s.log(t, c.ID); log != "" {
		t.Errorf("ran before start: %q", log)
	}
	if err := s.Start(testContext(t), c.Name, nil); err != nil {
		t.Fatalf("start by name: %v", err)
	}
	if err := s.Start(testContext(t), c.ID, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("second start: %v, want a failed precondition", err)
	}
	s.logged(t, c.ID, "up\n")
	c = s.inspect(t, c.ID[:12])
	if c.Status != api.StatusRunning || c.Started.Before(c.Created) || unix.Kill(c.PID, 0) != nil {
		t.Errorf("running: %+v", c)
	}
	list, err := s.List(testContext(t))
	if err != nil || !slices.ContainsFunc(list, func(o api.Container) bool { return o.ID == c.ID && o.Status == api.StatusRunning }) {
		t.Errorf("list: %v, %v", list, err)
	}
	pid := c.PID
	if err := s.Stop(testContext(t), c.ID, timeout); err != nil {
		t.Fatalf("stop: %v", err)
	}
	c = s.inspect(t, c.ID)
	if c.Status != api.StatusExited || c.Exit == nil || c.Exit.Code != 128+15 || c.PID != 0 || c.Finished.Before(c.Started) {
		t.Errorf("stopped: %+v, exit %+v", c, c.Exit)
	}
	if !errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		t.Errorf("process %d is still there", pid)
	}
	if err := s.Stop(testContext(t), c.ID, timeout); err != nil {
		t.Errorf("stop again: %v", err)
	}
	if err := s.Start(testContext(t), c.ID, nil); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("start of an exited container: %v, want a failed precondition", err)
	}
	if err := s.Engine.Remove(testContext(t), c.ID, false); err != nil {
		t.Fatalf("remove: %v", err)
	}
	if _, err := s.Inspect(testContext(t), c.ID); !errdefs.IsNotFound(err) {
		t.Errorf("inspect after remove: %v, want not found", err)
	}
}

func (s *suite) inspect(t *testing.T, ref string) api.Container {
	t.Helper()
	c, err := s.Inspect(testContext(t), ref)
	if err != nil {
		t.Fatalf("inspect %s: %v", ref, err)
	}
	return c
}

func exitCodes(t *testing.T, s *suite) {
	for _, test := range []struct {
		script string
		code   int
	}{
		{"true", 0}, {"false", 1}, {"exit 77", 77}, {"exit 255", 255},
		{"sh -c 'kill -9 $$'; exit $?", 137},
		{"no-such-program", 127},
	} {
		if r := s.run(t, api.ContainerSpec{Command: shell(test.script)}); r.Code != test.code || r.OOMKilled || r.At.IsZero() {
			t.Errorf("%q: %+v, want code %d", test.script, r, test.code)
		}
	}
}

func signals(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{Command: shell("trap 'exit 42' USR1; trap 'echo hup' HUP; echo ready; while :; do sleep 0.02; done")})
	s.logged(t, c.ID, "ready")
	for _, sig := range []string{"HUP", "SIGUSR1"} {
		if err := s.Kill(testContext(t), c.ID, sig); err != nil {
			t.Fatalf("kill %s: %v", sig, err)
		}
		if sig == "HUP" {
			s.logged(t, c.ID, "hup")
		}
	}
	exit, err := s.Wait(testContext(t), c.ID)
	if err != nil || exit.Code != 42 {
		t.Errorf("wait: %+v, %v, want code 42", exit, err)
	}
	if err := s.Kill(testContext(t), c.ID, "TERM"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("kill after the end: %v, want a failed precondition", err)
	}
	c = s.sleeper(t)
	if err := s.Kill(testContext(t), c.ID, "9"); err != nil {
		t.Fatal(err)
	}
	if exit, err := s.Wait(testContext(t), c.ID); err != nil || exit.Code != 137 || exit.OOMKilled {
		t.Errorf("after KILL: %+v, %v", exit, err)
	}
	if err := s.Kill(testContext(t), c.ID, "NONSENSE"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("unknown signal: %v, want an invalid argument", err)
	}
}

func stopKills(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{Command: shell("trap '' TERM; echo ready; while :; do sleep 1; done")})
	s.logged(t, c.ID, "ready")
	const grace = 300 * time.Millisecond
	begin := time.Now()
	if err := s.Stop(testContext(t), c.ID, grace); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if took := time.Since(begin); took < grace {
		t.Errorf("stop took %s, less than its grace of %s", took, grace)
	}
	if exit, err := s.Wait(testContext(t), c.ID); err != nil || exit.Code != 137 || exit.OOMKilled {
		t.Errorf("%+v, %v, want code 137", exit, err)
	}
}

func stopSignal(t *testing.T, s *suite) {
	c := s.start(t, api.ContainerSpec{StopSignal: "SIGUSR2", Command: shell("trap 'exit 9' USR2; echo ready; while :; do sleep 0.02; done")})
	s.logged(t, c.ID, "ready")
	if err := s.Stop(testContext(t), c.ID, timeout); err != nil {
		t.Fatalf("stop: %v", err)
	}
	if exit, err := s.Wait(testContext(t), c.ID); err != nil || exit.Code != 9 {
		t.Errorf("%+v, %v, want code 9", exit, err)
	}
}

func waitContext(t *testing.T, s *suite) {
	c := s.sleeper(t)
	ctx, cancel := context.WithTimeout(testContext(t), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Wait(ctx, c.ID); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("wait: %v, want the context's error", err)
	}
	if got := s.inspect(t, c.ID).Status; got != api.StatusRunning {
		t.Errorf("status after a wait that was given up: %s", got)
	}
}

func remove(t *testing.T, s *suite) {
	c := s.sleeper(t)
	if err := s.Engine.Remove(testContext(t), c.ID, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("remove of a running container: %v, want a failed precondition", err)
	}
	if err := s.Engine.Remove(testContext(t), c.ID, true); err != nil {
		t.Errorf("forced remove: %v", err)
	}
	if err := s.Engine.Remove(testContext(t), c.ID, true); !errdefs.IsNotFound(err) {
		t.Errorf("second remove: %v, want not found", err)
	}
	c = s.create(t, api.ContainerSpec{})
	if err := s.Engine.Remove(testContext(t), c.ID, false); err != nil {
		t.Errorf("remove of a container that was never started: %v", err)
	}
}

func names(t *testing.T, s *suite) {
	const name = "sbt-name.1"
	c := s.create(t, api.ContainerSpec{Name: name})
	if got := s.inspect(t, name); got.ID != c.ID || got.Name != name {
		t.Errorf("inspect by name: %+v", got)
	}
	_, err := s.Create(testContext(t), api.ContainerSpec{Name: name, Image: s.Image}, nil)
	if !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), c.ID[:12]) {
		t.Errorf("second container of a name: %v, want one that already exists, %.12s", err, c.ID)
	}
	if err := s.Engine.Remove(testContext(t), name, false); err != nil {
		t.Fatal(err)
	}
	s.create(t, api.ContainerSpec{Name: name})
	if _, err := s.Inspect(testContext(t), "sbt-nam"); !errdefs.IsNotFound(err) {
		t.Errorf("beginning of a name: %v, want not found", err)
	}
}

func namesRace(t *testing.T, s *suite) {
	const n = 6
	var all sync.WaitGroup
	var mu sync.Mutex
	var made []string
	for range n {
		all.Go(func() {
			c, err := s.Create(testContext(t), api.ContainerSpec{Name: "sbt-race", Image: s.Image, Network: api.Network{Mode: "none"}}, nil)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				made = append(made, c.ID)
			} else if !errdefs.IsAlreadyExists(err) {
				t.Errorf("create: %v", err)
			}
		})
	}
	all.Wait()
	if len(made) != 1 {
		t.Errorf("%d of %d creations with one name succeeded", len(made), n)
	}
	for _, id := range made {
		if err := s.Engine.Remove(testContext(t), id, true); err != nil {
			t.Error(err)
		}
	}
}

func badInput(t *testing.T, s *suite) {
	before, err := s.List(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	none := api.Network{Mode: "none"}
	for _, test := range []struct {
		what string
		spec api.ContainerSpec
		is   func(error) bool
	}{
		{"image", api.ContainerSpec{Image: "sbt/no-such-image:9"}, errdefs.IsNotFound},
		{"name", api.ContainerSpec{Image: s.Image, Name: "-/bad"}, errdefs.IsInvalidArgument},
		{"user", api.ContainerSpec{Image: s.Image, User: "nobody-knows", Network: none}, errdefs.IsInvalidArgument},
		{"signal", api.ContainerSpec{Image: s.Image, StopSignal: "SIGNONE", Network: none}, errdefs.IsInvalidArgument},
		{"ulimit", api.ContainerSpec{Image: s.Image, Ulimits: []api.Ulimit{{Name: "nonsense"}}, Network: none}, errdefs.IsInvalidArgument},
		{"network", api.ContainerSpec{Image: s.Image, Network: api.Network{Mode: "container:sbt-nobody"}}, errdefs.IsNotFound},
	} {
		if _, err := s.Create(testContext(t), test.spec, nil); err == nil || !test.is(err) {
			t.Errorf("unknown %s: %v is of another class", test.what, err)
		}
	}
	// Whether it shows at create or at start that there is no such program is
	// the engine's affair.
	c, err := s.Create(testContext(t), api.ContainerSpec{Image: s.Image, Command: []string{"/no/such/program"}, Network: none}, nil)
	if err == nil {
		err = s.Start(testContext(t), c.ID, nil)
		if rerr := s.Engine.Remove(testContext(t), c.ID, true); rerr != nil {
			t.Error(rerr)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("unknown program: %v", err)
	}
	after, err := s.List(testContext(t))
	if err != nil || len(after) != len(before) {
		t.Errorf("%d containers before, %d after (%v)", len(before), len(after), err)
	}
}
