package docker

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// steps are what brings up the network, and a service without ports; clean takes
// both away.
func steps(t *testing.T, e *Engine) (network, service []stack.Step, clean func()) {
	t.Helper()
	stage, s := NewStage(e), greeter(0)
	s.Ports, s.Ready = nil, nil
	return stage.Up(api.UpOptions{}), run(e, s), func() {
		_, err := do(t, stage.Down(api.DownOptions{Purge: true}))
		if err := errors.Join(err, e.Remove(context.Background(), "test", true)); err != nil {
			t.Error(err)
		}
	}
}

// TestUnderWay: what Docker makes already, as a process had asked for that was
// killed, is taken for what is wanted. Here others live and ask at once.
func TestUnderWay(t *testing.T) {
	network, service, clean := steps(t, newEngine(t))
	defer clean()
	for _, steps := range [][]stack.Step{network, service} {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := do(t, steps); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}

// TestReboot: what is frozen dies in a loss of power like all the rest, and runs
// again after it.
func TestReboot(t *testing.T) {
	network, service, clean := steps(t, newEngine(t))
	defer clean()
	c := dockertest.Client(t)
	for _, steps := range [][]stack.Step{network, service} {
		if _, err := do(t, steps); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.ContainerPause(t.Context(), "sandbox-greeter"); err != nil {
		t.Fatal(err)
	}
	dockertest.Reboot(t)
	if _, err := do(t, service); err != nil {
		t.Fatal(err)
	}
	if have, err := c.ContainerInspect(t.Context(), "sandbox-greeter"); err != nil || !have.State.Running || have.State.Paused {
		t.Errorf("after it: %+v, %v", have.State, err)
	}
}
