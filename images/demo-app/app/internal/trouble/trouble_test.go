package trouble

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
)

// start runs the trouble of a board whose knobs the test turns.
func start(t *testing.T, log *slog.Logger, crash func(int)) *knobs.Board {
	t.Helper()
	board := knobs.NewBoard(knobs.Defaults())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		Run(ctx, board, log, crash)
		close(ended)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return board
}

func turn(t *testing.T, board *knobs.Board, patch string) {
	t.Helper()
	if _, err := board.Patch([]byte(patch)); err != nil {
		t.Fatal(err)
	}
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not come about", what)
		}
	}
}

func TestCrash(t *testing.T) {
	code := make(chan int, 1)
	board := start(t, slog.New(slog.DiscardHandler), func(c int) { code <- c })
	turn(t, board, `{"crash_after": "50ms", "exit_code": 3}`)
	turn(t, board, `{"latency": "1s"}`) // another knob does not put it off
	select {
	case got := <-code:
		if got != 3 {
			t.Errorf("exit code %d, want 3", got)
		}
	case <-time.After(10 * time.Second):
		t.Error("it did not crash")
	}
}

func TestCrashCalledOff(t *testing.T) {
	board := start(t, slog.New(slog.DiscardHandler), func(int) { t.Error("it crashed") })
	turn(t, board, `{"crash_after": "300ms"}`)
	board.Reset()
	time.Sleep(500 * time.Millisecond)
}

func TestMemoryIsResident(t *testing.T) {
	board := start(t, slog.New(slog.DiscardHandler), nil)
	before, heapBefore := resident(t), heap()
	const size = 64 << 20
	turn(t, board, `{"memory": "64Mi"}`)
	eventually(t, "holding 64Mi", func() bool { return resident(t)-before > size*9/10 })
	board.Reset()
	eventually(t, "giving it back", func() bool { return heap()-heapBefore < size/2 })
}

func TestLeak(t *testing.T) {
	board := start(t, slog.New(slog.DiscardHandler), nil)
	before := heap()
	turn(t, board, `{"leak": "50Mi"}`)
	eventually(t, "leaking 30Mi", func() bool { return heap()-before > 30<<20 })
	turn(t, board, `{"leak": 0}`)
	eventually(t, "closing the leak", func() bool { return heap()-before < 15<<20 })
}

// resident is the process's resident memory in bytes; see proc_pid_statm(5).
func resident(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// heap is what of the process's memory the heap has from the kernel, in bytes.
// The race detector's own memory, which it keeps, is not in it.
func heap() int {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapSys) - int(m.HeapReleased)
}

func TestCPU(t *testing.T) {
	board := start(t, slog.New(slog.DiscardHandler), nil)
	begun, before := time.Now(), cpuTime(t)
	turn(t, board, `{"cpu": 0.5}`)
	eventually(t, "200 ms of CPU time", func() bool { return cpuTime(t)-before > 200*time.Millisecond })
	if share := float64(cpuTime(t)-before) / float64(time.Since(begun)); share > 0.75 {
		t.Errorf("half a core is %.2f cores", share)
	}
	board.Reset()
	time.Sleep(2 * period)
	before = cpuTime(t)
	time.Sleep(500 * time.Millisecond)
	if used := cpuTime(t) - before; used > 200*time.Millisecond {
		t.Errorf("%s of CPU time in 500ms after a reset", used)
	}
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func TestNoise(t *testing.T) {
	var out lockedBuffer
	board := start(t, slog.New(slog.NewJSONHandler(&out, nil)), nil)
	turn(t, board, `{"log_noise": 100}`)
	eventually(t, "ten lines of noise", func() bool { return strings.Count(out.String(), `"msg":"noise"`) >= 10 })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestSleepEndsEarly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begun := time.Now()
	Sleep(ctx, time.Minute)
	Spin(ctx, time.Minute)
	Burn(ctx, 2.5)
	if took := time.Since(begun); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}
