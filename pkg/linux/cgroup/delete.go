package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// deleteTimeout bounds how long Delete waits for dying processes.
const deleteTimeout = 10 * time.Second

// Kill sends SIGKILL to every process in the cgroup and below it. No fork escapes
// it. It does not wait: see WaitEmpty.
func (c *Cgroup) Kill(ctx context.Context, trace *explain.Tracer) error {
	err := c.write(trace, explain.Event{
		Target: "cgroup.kill", Value: "1",
		Why: "SIGKILL for every process in the cgroup at once, so that none can fork away",
	})
	if errors.Is(err, unix.ENOENT) && !c.has("cgroup.kill") { // before Linux 5.14
		return c.killEach(ctx, trace)
	}
	return err
}

// killEach does what cgroup.kill does. The cgroup is frozen first, so that its
// processes neither fork nor give their IDs back between the list and the kill;
// a frozen process does die of SIGKILL.
func (c *Cgroup) killEach(ctx context.Context, trace *explain.Tracer) error {
	if err := c.Freeze(ctx, trace); err != nil {
		return err
	}
	pids, err := c.PIDs(true)
	errs := []error{err}
	for _, pid := range pids {
		err := trace.Do(explain.Event{
			Op: "kill", Target: fmt.Sprint(pid), Value: "SIGKILL",
			Why: "end a process of the cgroup; this kernel has no cgroup.kill",
		}, func() error { return unix.Kill(pid, unix.SIGKILL) })
		if err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	return errors.Join(append(errs, c.Thaw(trace))...)
}

// PIDs returns the processes of the cgroup, as their IDs in the caller's PID
// namespace (0 for one that is outside of it), and with recursive also those of
// the cgroups below it.
func (c *Cgroup) PIDs(recursive bool) ([]int, error) {
	var pids []int
	collect := func(dir int) error {
		here, err := readPIDs(dir)
		if err == unix.EOPNOTSUPP {
			return nil // threaded: its processes are listed above
		}
		pids = append(pids, here...)
		return ignoreMissing(err)
	}
	err := collect(c.fd)
	if err == nil && recursive {
		err = eachBelow(c.fd, collect)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "list the processes of cgroup", Path: c.Path(), Err: err}
	}
	return pids, nil
}

func readPIDs(dir int) ([]int, error) {
	b, err := readFile(dir, "cgroup.procs", make([]byte, 0, 4096))
	if err != nil || len(b) == 0 {
		return nil, err
	}
	pids := make([]int, 0, bytes.Count(b, []byte("\n")))
	for line := range bytes.Lines(b) {
		pids = append(pids, int(parseNumber(line)))
	}
	return pids, nil
}

// eachBelow calls visit for every cgroup below dir, parents first.
func eachBelow(dir int, visit func(dir int) error) error {
	names, err := children(dir)
	if err != nil {
		return ignoreMissing(err)
	}
	for _, name := range names {
		child, err := openDir(dir, name)
		if err != nil {
			if isMissing(err) {
				continue // removed meanwhile
			}
			return err
		}
		if err = visit(child); err == nil {
			err = eachBelow(child, visit)
		}
		_ = unix.Close(child)
		if err != nil {
			return err
		}
	}
	return nil
}

// children returns the names of the cgroups directly in dir.
func children(dir int) ([]string, error) {
	// Every cgroup below adds a link to its parent; most have none.
	var st unix.Stat_t
	if err := unix.Fstat(dir, &st); err != nil {
		return nil, err
	}
	if st.Nlink == 2 {
		return nil, nil
	}
	entries, err := list(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// list returns the entries of a directory, read through a descriptor of its own:
// the position in a shared one would be shared too.
func list(dir int) ([]fs.DirEntry, error) {
	fd, err := openDir(dir, ".")
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "cgroup")
	defer file.Close()
	return file.ReadDir(-1)
}

// Delete removes the cgroup and all cgroups below it. It kills nothing: processes
// that are dying are waited for, until ctx ends or 10 seconds have passed. A
// cgroup that is gone already is no error.
func (c *Cgroup) Delete(ctx context.Context, trace *explain.Tracer) error {
	if c.name == "/" {
		return fmt.Errorf("remove cgroup %s: it is the root: %w", c.Path(), fs.ErrInvalid)
	}
	err := c.deleteOnce(trace)
	if !errors.Is(err, unix.EBUSY) {
		return err // the usual case, which needs no timer
	}
	ctx, cancel := context.WithTimeout(ctx, deleteTimeout)
	defer cancel()
	for pause := time.Millisecond; errors.Is(err, unix.EBUSY); pause *= 2 {
		// Processes: the kernel says when the last has gone.
		if waited := ignoreMissing(c.WaitEmpty(ctx)); waited != nil {
			pids, _ := c.PIDs(true)
			return fmt.Errorf("%w: processes %v still run in it (%w)", err, pids, waited)
		}
		// Or a cgroup that was made below it meanwhile, of which nobody tells.
		select {
		case <-time.After(pause - time.Millisecond): // at once, at first
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", err, context.Cause(ctx))
		}
		err = c.deleteOnce(trace)
	}
	return err
}

// deleteOnce removes the cgroup, bottom up. It holds one directory open at a time
// and goes back up by "..": a container may have made cgroups to any depth.
func (c *Cgroup) deleteOnce(trace *explain.Tracer) error {
	dir, err := openDir(c.fd, ".")
	if err != nil {
		return c.removeFailed(c.Path(), err)
	}
	defer func() { _ = unix.Close(dir) }()
	enter := func(name string) error {
		next, err := openDir(dir, name)
		if err == nil {
			_ = unix.Close(dir)
			dir = next
		}
		return err
	}
	below := []string{path.Base(c.name)} // from the cgroup down to dir
	for {
		names, err := children(dir)
		if err != nil && !isMissing(err) {
			return c.removeFailed(c.Path(), err)
		}
		if len(names) > 0 {
			if err := enter(names[0]); err == nil {
				below = append(below, names[0])
				continue
			} else if !isMissing(err) {
				return c.removeFailed(c.Path(), err)
			}
			continue
		}
		target := path.Join(path.Dir(c.Path()), path.Join(below...))
		if err := enter(".."); err != nil {
			return c.removeFailed(target, err)
		}
		name := below[len(below)-1]
		err = trace.Do(explain.Event{
			Op: "rmdir", Target: target, Source: "linux.cgroupsPath",
			Why: "remove the cgroup: the kernel allows it when no process and no cgroup is left in it",
		}, func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
		if err != nil && !isMissing(err) {
			return c.removeFailed(target, err)
		}
		if below = below[:len(below)-1]; len(below) == 0 {
			return nil
		}
	}
}

func (c *Cgroup) removeFailed(dir string, err error) error {
	if isMissing(err) {
		return nil
	}
	return &fs.PathError{Op: "remove cgroup", Path: dir, Err: err}
}
