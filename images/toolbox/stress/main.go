// Command stress puts a load of a chosen kind and size on the machine, so
// that what limits it can be watched. It travels in the toolbox image.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"
	"time"
)

const usage = `usage: stress [--cpu N] [--memory SIZE] [--pids N] [--io PATH] [--timeout TIME]

Put a load on the machine, and say what comes of it. Loads can be combined;
each goes on until the time is up or Ctrl-C.

  --cpu N          N threads that compute; prints how many CPUs they really get
                   (watch cpu.stat: nr_throttled, throttled_usec)
  --memory SIZE    touch SIZE of memory, page by page, and hold it
                   (watch memory.current, memory.events: oom_kill)
  --step SIZE      ... this much between two lines of progress (default 8m)
  --pids N         fork N processes that do nothing, and say when one is refused
                   (watch pids.current, pids.events: max)
  --io PATH        write and read a file at PATH (a new one, when PATH is a
                   folder), past the page cache where the file system allows it
                   (watch io.stat: rbytes, wbytes)
  --io-size SIZE   ... of this size (default 64m)
  --timeout TIME   end after TIME: 10s, 2m (default: never)
  --interval TIME  print the rates of --cpu and --io this often (default 1s)

SIZE is in bytes, or with k, m or g in KiB, MiB or GiB.

Exit status: 0 at the end, also when a fork was refused; 1 when a load could
not be made; 2 for a wrong command line.

examples:
  stress --cpu 2 --timeout 10s
  stress --memory 128m            in a container with -m 64m: killed on the way
  stress --pids 50 --timeout 5s   in a container with --pids-limit 20
  stress --io /tmp --timeout 10s
`

type options struct {
	cpu, pids         int
	memory, step      size
	ioPath            string
	ioSize            size
	timeout, interval time.Duration
}

func main() {
	opts, err := parse(os.Args[1:])
	switch {
	case err == flag.ErrHelp:
		fmt.Print(usage)
		return
	case err != nil:
		fmt.Fprintf(os.Stderr, "stress: %v\nTry `stress --help`.\n", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, opts, &lines{w: os.Stdout, start: time.Now()}); err != nil {
		fmt.Fprintf(os.Stderr, "stress: %v\n", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	o := options{step: 8 << 20, ioSize: 64 << 20}
	f := flag.NewFlagSet("stress", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.IntVar(&o.cpu, "cpu", 0, "")
	f.IntVar(&o.pids, "pids", 0, "")
	f.Var(&o.memory, "memory", "")
	f.Var(&o.step, "step", "")
	f.StringVar(&o.ioPath, "io", "", "")
	f.Var(&o.ioSize, "io-size", "")
	f.DurationVar(&o.timeout, "timeout", 0, "")
	f.DurationVar(&o.interval, "interval", time.Second, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.cpu < 0 || o.pids < 0 || o.timeout < 0:
		return o, fmt.Errorf("numbers and times cannot be negative")
	case o.step <= 0 || o.ioSize <= 0 || o.interval <= 0:
		return o, fmt.Errorf("--step, --io-size and --interval must be more than 0")
	case o.cpu == 0 && o.pids == 0 && o.memory == 0 && o.ioPath == "":
		return o, fmt.Errorf("nothing to do: give --cpu, --memory, --pids or --io")
	}
	return o, nil
}

// run makes all the loads at once, until ctx or the timeout ends them.
func run(ctx context.Context, o options, out *lines) error {
	if o.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.timeout)
		defer cancel()
	}
	// Go would run as many threads as the cgroup has CPUs, which is just what
	// is to be shown.
	runtime.GOMAXPROCS(o.cpu + 2)
	if o.pids > 0 {
		reserveThreads() // before the forks use up what the cgroup allows
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var (
		group  sync.WaitGroup
		once   sync.Once
		failed error
	)
	start := func(load func() error) {
		group.Go(func() {
			if err := load(); err != nil {
				once.Do(func() { failed = err })
				cancel()
			}
		})
	}
	if o.pids > 0 {
		start(func() error { return loadPIDs(ctx, o.pids, out) })
	}
	if o.memory > 0 {
		start(func() error { return loadMemory(ctx, int64(o.memory), int64(o.step), out) })
	}
	if o.cpu > 0 {
		start(func() error { return loadCPU(ctx, o.cpu, o.interval, out) })
	}
	if o.ioPath != "" {
		start(func() error { return loadIO(ctx, o.ioPath, int64(o.ioSize), o.interval, out) })
	}
	group.Wait()
	return failed
}

// lines prints one line at a time, with the time since the start.
type lines struct {
	mu    sync.Mutex
	w     io.Writer
	start time.Time
}

func (l *lines) printf(format string, args ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	fmt.Fprintf(l.w, "[%6.1fs] %s\n", time.Since(l.start).Seconds(), fmt.Sprintf(format, args...))
}
