// Command test runs the tests of the given packages here and, at the same
// time, those of -vm in the virtual machine of scripts/vm-test. It ends with the
// list of tests that ran nowhere, and why, and one line of totals.
//
//	go run ./scripts/test -vm ./pkg/linux/...,./pkg/runtime/... ./...
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

func main() {
	vm := flag.String("vm", "", "packages, separated by commas, to test in the virtual machine as well")
	run := flag.String("run", "", "run only tests that match this regular expression, as go test's -run")
	sudo := flag.Bool("sudo", os.Geteuid() != 0, "run the host's tests as root, by sudo")
	timeout := flag.Duration("timeout", 5*time.Minute, "limit for each package; the virtual machine as a whole has twice that")
	slow := flag.String("slow", "", "packages, separated by commas, to test when all others are done, with a limit of their own")
	slowTimeout := flag.Duration("slow-timeout", time.Hour, "limit for each of the slow packages")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// One package at a time: they share the kernel's one set of names. The
	// virtual machine keeps another processor busy.
	host := []string{"go", "test", "-json", "-count=1", "-vet=off", "-p=1"}
	guest := []string{"scripts/vm-test", "-t", fmt.Sprint(int(2 * timeout.Seconds())), "--json", "--packages"}
	guest = append(guest, strings.FieldsFunc(*vm, func(r rune) bool { return r == ',' })...)
	if *sudo {
		host = append(host, "-exec", "sudo --preserve-env=PATH")
	}
	if *run != "" {
		host = append(host, "-run", *run)
		guest = append(guest, "--", "-test.run="+*run)
	}
	var patient []string
	if *slow != "" {
		patient = append(append(slices.Clone(host), "-timeout", slowTimeout.String()), strings.Split(*slow, ",")...)
	}
	packages, err := without(flag.Args(), strings.Split(*slow, ","))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	host = append(append(host, "-timeout", timeout.String()), packages...)

	start := time.Now()
	r := newReport(os.Stdout)
	var wg sync.WaitGroup
	wg.Go(func() { r.command(ctx, "host", host) })
	if *vm != "" {
		wg.Go(func() { r.command(ctx, "vm", guest) })
	}
	wg.Wait()
	// They use the whole machine for minutes, which others would feel.
	if patient != nil && ctx.Err() == nil {
		r.command(ctx, "host", patient)
	}
	fmt.Printf("\n%.0f s\n", time.Since(start).Seconds())
	if !r.summary() {
		os.Exit(1)
	}
}

// without lists the packages that patterns mean, but for some.
func without(patterns, some []string) ([]string, error) {
	some = slices.DeleteFunc(some, func(s string) bool { return s == "" })
	if len(some) == 0 {
		return patterns, nil
	}
	all, err := list(patterns)
	if err != nil {
		return nil, err
	}
	left, err := list(some)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(p string) bool { return slices.Contains(left, p) }), nil
}

func list(patterns []string) ([]string, error) {
	cmd := exec.Command("go", append([]string{"list"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

// command runs one stream of test events to its end.
func (r *report) command(ctx context.Context, where string, argv []string) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	// An interrupt lets go test and vm-test end what they started.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		r.broken(where, err)
		return
	}
	failed, err := r.read(where, events)
	if err != nil {
		r.broken(where, fmt.Errorf("read its events: %w", err))
		_, _ = io.Copy(io.Discard, events)
	}
	r.end(where)
	// A status other than zero is explained by a failed test, or it is a
	// failure of its own: a timeout, a machine that did not boot.
	if err := cmd.Wait(); err != nil && !failed {
		r.broken(where, fmt.Errorf("%s: %w", argv[0], err))
	}
}

// event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action, Package, ImportPath, Test, Output string
	Elapsed                                   float64 // seconds
}

// read consumes events and reports whether one of them was a failure.
func (r *report) read(where string, events io.Reader) (failed bool, err error) {
	d := json.NewDecoder(events)
	for {
		var e event
		if err := d.Decode(&e); err == io.EOF {
			return failed, nil
		} else if err != nil {
			return failed, err
		}
		failed = r.add(where, e) || failed
	}
}
