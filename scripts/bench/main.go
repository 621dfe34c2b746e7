// Command bench measures what BENCHMARKS.md reports. Competitors take turns (A
// B A B …), so that a machine that grows slower or faster does so for both;
// medians are compared.
//
//	bench runtimes    sandbox-runtime, crun and runc; where /sys/fs/cgroup is cgroup2
//	bench engines     sandbox and docker, each with its daemon
//	bench images      the same two and containerd: builds, unpacking, bytes on disk
//	bench stacks      sandbox up, beside kind, kubectl and docker one after another
//
// It must run as root, in namespaces of its own: `make bench` arranges that.
package main

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

func main() {
	n := flag.Int("n", 0, "turns of each competitor (default 200 for runtimes, 30 for engines, 5 for images, 3 for stacks)")
	store := flag.String("store", "", "images, stacks: state folder with the recipes' images, such as that of the recipes' tests")
	flag.Parse()
	tmp, err := os.MkdirTemp("", "sandbox-bench.")
	if err == nil {
		switch flag.Arg(0) {
		case "runtimes":
			err = runtimes(tmp, *n)
		case "engines":
			err = engines(tmp, *n)
		case "images":
			err = images(tmp, *n, *store)
		case "stacks":
			err = stacks(tmp, *n, *store)
		default:
			err = fmt.Errorf("usage: bench [-n N] [-store FOLDER] runtimes|engines|images|stacks")
		}
	}
	os.RemoveAll(tmp)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// competitor is a command that is measured from its start to its exit.
type competitor struct {
	name string
	argv func(turn int) []string
	// before is run before each turn and not measured; it may be nil.
	before func() error
	env    []string // beside the bench's own
	took   []time.Duration
}

// fixed is the same command at each turn.
func fixed(argv ...string) func(int) []string { return func(int) []string { return argv } }

// race lets the competitors take n turns each, after three that do not count;
// after one if there are only few.
func race(n int, competitors []*competitor) error {
	warmUp := 3
	if n < 10 {
		warmUp = 1
	}
	for turn := range n + warmUp {
		for _, c := range competitors {
			if c.before != nil {
				if err := c.before(); err != nil {
					return fmt.Errorf("before %s: %w", c.name, err)
				}
			}
			argv := c.argv(turn)
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), c.env...)
			var errs strings.Builder
			cmd.Stderr = &errs
			start := time.Now()
			err := cmd.Run()
			took := time.Since(start)
			if err != nil {
				return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, errs.String())
			}
			if turn >= warmUp {
				c.took = append(c.took, took)
			}
		}
	}
	return nil
}

// quantile returns the q-th part (0 to 1) of the sorted times.
func (c *competitor) quantile(q float64) time.Duration {
	took := slices.Sorted(slices.Values(c.took))
	return took[int(q*float64(len(took)-1)+0.5)]
}

// table prints the competitors as Markdown, the first as the measure of all.
func table(title string, competitors []*competitor) {
	first := competitors[0]
	fmt.Printf("\n%s, %d turns each\n\n", title, len(first.took))
	fmt.Println("| | median | 10 % to 90 % | ours is |")
	fmt.Println("|---|--:|--:|--:|")
	for _, c := range competitors {
		ratio := ""
		if c != first {
			ratio = fmt.Sprintf("%.2f×", float64(first.quantile(0.5))/float64(c.quantile(0.5)))
		}
		fmt.Printf("| %s | %s | %s to %s | %s |\n", c.name, ms(c.quantile(0.5)), ms(c.quantile(0.1)), ms(c.quantile(0.9)), ratio)
	}
}

func ms(d time.Duration) string {
	if d >= 10*time.Second {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return fmt.Sprintf("%.1f ms", d.Seconds()*1000)
}
