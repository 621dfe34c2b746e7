// Command conformance runs the OCI's validation programs against several
// runtimes, prints their results side by side, and fails if a program that the
// reference runtime (the first) passes fails with the last.
//
//	conformance -programs DIR runc crun@1.0.2 bin/sandbox-runtime
//
// A runtime may be given with flags, in one argument, and, where it is too old
// to accept the programs' ociVersion, with the version that it gets to see.
//
// DIR holds the built programs of runtime-tools' validation folder,
// `runtimetest`, and the root file system's archive. It must run as root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	log := func(err error) {
		fmt.Fprintln(os.Stderr, "conformance:", err)
		os.Exit(1)
	}
	programs := flag.String("programs", "", "folder of the built validation programs")
	match := flag.String("run", "", "run only programs that match this regular expression")
	timeout := flag.Duration("timeout", time.Minute, "limit for one program")
	jobs := flag.Int("j", 4, "programs that run at once: they mostly wait")
	verbose := flag.Bool("v", false, "print why programs fail with the last runtime")
	flag.Parse()
	scratch, err := os.MkdirTemp("", "conformance.")
	if err != nil {
		log(err)
	}
	defer os.RemoveAll(scratch)
	var runtimes []string
	for _, name := range flag.Args() {
		path, err := command(name, scratch)
		if err != nil {
			log(err)
		}
		runtimes = append(runtimes, path)
	}
	if len(runtimes) == 0 {
		log(fmt.Errorf("which runtime?"))
	}
	only, err := regexp.Compile(*match)
	if err != nil {
		log(err)
	}
	names, err := list(*programs, only)
	if err != nil {
		log(err)
	}

	results := make([][]result, len(names)) // by program, by runtime
	var cgroups sync.Mutex                  // these programs share one cgroup's name
	var wg sync.WaitGroup
	slots := make(chan struct{}, *jobs)
	for i, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if strings.HasPrefix(name, "linux_cgroups_") {
				cgroups.Lock()
				defer cgroups.Unlock()
			}
			for _, runtime := range runtimes {
				results[i] = append(results[i], run(*programs, name, runtime, *timeout))
			}
		})
	}
	wg.Wait()

	if !report(names, runtimes, results, *verbose) {
		os.RemoveAll(scratch)
		os.Exit(1)
	}
}

// command returns the path of a runtime, given as NAME[@VERSION] [FLAG…]; with
// a version or flags, that of a script in dir that writes that ociVersion into
// the bundle and calls the runtime with these flags.
func command(runtime, dir string) (string, error) {
	runtime, flags, _ := strings.Cut(runtime, " ")
	name, version, _ := strings.Cut(runtime, "@")
	path, err := exec.LookPath(name)
	if err == nil {
		path, err = filepath.Abs(path) // programs run in their own folder
	}
	if err != nil || version == "" && flags == "" {
		return path, err
	}
	script := "#!/bin/sh\n"
	if version != "" {
		script += fmt.Sprintf(`for arg; do
	[ "$last" != --bundle ] || sed -i 's/"ociVersion": *"[^"]*"/"ociVersion":"%s"/' "$arg/config.json"
	last=$arg
done
`, version)
	}
	script += fmt.Sprintf("exec %s %s \"$@\"\n", path, flags)
	path = filepath.Join(dir, filepath.Base(path))
	return path, os.WriteFile(path, []byte(script), 0o755)
}

// list returns the names of the programs in dir.
func list(dir string, only *regexp.Regexp) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() && info.Mode()&0o111 != 0 && e.Name() != "runtimetest" && only.MatchString(e.Name()) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// run runs one program with one runtime, and removes what it leaves behind:
// many of the programs end without deleting their container.
func run(dir, program, runtime string, timeout time.Duration) result {
	tmp, err := os.MkdirTemp("", "conformance.")
	if err != nil {
		return result{err: err}
	}
	defer os.RemoveAll(tmp)
	// A container with a user namespace must reach its root file system.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return result{err: err}
	}

	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(dir, program))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "RUNTIME="+runtime, "TMPDIR="+tmp)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A container that inherits the program's output must not hold it open.
	cmd.WaitDelay = time.Second
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("stopped after %v", timeout)
	}
	r := parse(out.String())
	r.err, r.output = err, out.String()+errs.String()
	removeContainers(runtime, tmp)
	return r
}

// removeContainers deletes the runtime's containers whose bundle is under dir.
func removeContainers(runtime, dir string) {
	table, err := exec.Command(runtime, "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(table)) {
		// ID PID STATUS BUNDLE CREATED OWNER
		if f := strings.Fields(line); len(f) > 3 && slices.ContainsFunc(f, func(s string) bool { return strings.HasPrefix(s, dir) }) {
			_ = exec.Command(runtime, "delete", "--force", f[0]).Run()
		}
	}
}

// report prints the table, and what the last runtime fails although the first
// passes it. It reports whether there is no such program.
func report(names, runtimes []string, results [][]result, verbose bool) bool {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "test")
	for _, runtime := range runtimes {
		fmt.Fprint(w, "\t", filepath.Base(runtime))
	}
	fmt.Fprintln(w)
	passed := make([]int, len(runtimes))
	var behind, lost, detail strings.Builder
	for i, name := range names {
		fmt.Fprint(w, name)
		for j, r := range results[i] {
			fmt.Fprint(w, "\t", r)
			if r.passed() {
				passed[j]++
			}
		}
		fmt.Fprintln(w)
		first, last := results[i][0], results[i][len(runtimes)-1]
		if first.passed() && !last.passed() {
			fmt.Fprintf(&behind, "  %s\n", name)
		} else if fewer := first.lost(last); len(fewer) > 0 {
			fmt.Fprintf(&lost, "  %s: %s\n", name, strings.Join(fewer, "; "))
		}
		if verbose && !last.passed() {
			fmt.Fprintf(&detail, "----- %s\n%s", name, last.failures())
		}
	}
	fmt.Fprint(w, "passed")
	for _, n := range passed {
		fmt.Fprintf(w, "\t%d/%d", n, len(names))
	}
	fmt.Fprintln(w)
	w.Flush()
	reference, last := filepath.Base(runtimes[0]), filepath.Base(runtimes[len(runtimes)-1])
	fmt.Print(detail.String())
	if lost.Len() > 0 {
		fmt.Printf("\nassertions that %s passes and %s does not, in programs that neither passes:\n%s", reference, last, lost.String())
	}
	if behind.Len() > 0 {
		fmt.Printf("\n%s passes these and %s does not:\n%s", reference, last, behind.String())
		return false
	}
	return true
}
