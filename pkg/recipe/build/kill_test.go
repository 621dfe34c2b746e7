package build_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// killed is built by processes that are killed meanwhile.
const killed = `FROM toolbox AS a
RUN --network=none --mount=type=cache,target=/c for i in 1 2 3 4 5; do echo $i > /f$i; sleep 0.05; done
RUN --network=none head -c 3000000 /dev/zero > /zeros; sleep 0.1
FROM toolbox AS b
RUN --network=none mkdir /many; for i in $(seq 500); do echo $i > /many/$i; done
COPY --from=a / /a/
FROM scratch
COPY --from=b /many /many
COPY --from=b /a /a
`

// victim builds in the folder of its argument until it is killed.
func victim(args []string) int {
	h := hostIn(args[0])
	ctx := context.Background()
	b, _, err := h.open(ctx)
	if err == nil {
		fmt.Println("ready")
		_, err = b.Build(ctx, build.Options{
			Dockerfile: []byte(killed), Names: []string{"killed:1"}, Epoch: epoch, NoCache: true,
			Emit: func(ev api.BuildEvent) { fmt.Println(ev.Status) },
		})
		b.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilled kills processes that build, half of them at random moments, half
// after one of the events that they tell of; the next one, whose engine has swept,
// builds the same image as one that nobody disturbed.
func TestKilled(t *testing.T) {
	h := newHost(t)
	finished := 0
	for i := range 10 {
		cmd := exec.Command("/proc/self/exe", "victim", h.dir())
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Errorf("it says %q", lines.Text())
		}
		if i%2 == 0 {
			time.Sleep(time.Duration(rand.IntN(900)) * time.Millisecond)
		} else {
			for range 1 + rand.IntN(16) { // 6 steps with two events each, 2 layers that are packed
				lines.Scan()
			}
		}
		_ = cmd.Process.Kill()
		if cmd.Wait() == nil {
			finished++
		}
	}
	t.Logf("%d of 10 were quicker than the kill", finished)
	b := h.builder(t)
	img, r := b.must(killed, nil)
	t.Logf("left to do: %q", r.ran())
	if left := b.unfinished(); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
	clean, _ := newBuilder(t).must(killed, nil)
	if img.Descriptor.Digest != clean.Descriptor.Digest {
		t.Errorf("%s after kills, %s without", img.Descriptor.Digest, clean.Descriptor.Digest)
	}
}
