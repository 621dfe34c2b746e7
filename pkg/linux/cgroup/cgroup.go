// Package cgroup creates, configures, reads and removes cgroups of version 2,
// the unified hierarchy.
//
// A cgroup is a directory of the cgroup2 file system and a controller's
// parameter is a file in it, so that nearly everything here is a read or a
// write of a small text file. The names of those files are kept as they are:
// see "Control Group v2" in the kernel's documentation (admin-guide/cgroup-v2)
// and cgroups(7). Version 1 is not supported; a controller that the host has
// bound to a version 1 hierarchy is reported as missing.
package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// Cgroup is an open cgroup. All its files are reached through its directory's
// descriptor, so that it stays the same cgroup whatever is mounted or renamed
// later. Its methods may be used by several goroutines at a time, except for Apply
// and Close.
type Cgroup struct {
	fd   int
	root string // the cgroup2 mount, or a cgroup under it, that Open was given
	name string // below root, clean, with a leading slash

	// fresh is set from Create, if it has made the cgroup, to the first Apply:
	// every parameter has its default value and nothing runs in it.
	fresh bool
	// asked are the controllers that Create or Apply has tried to enable, and
	// refused says why some of them could not be.
	asked   Controllers
	refused map[Controllers]string
}

// Open opens the cgroup at name below root, which is what Mount returned. name
// "/" is root itself. The error is fs.ErrNotExist if there is no such cgroup.
func Open(root, name string) (*Cgroup, error) {
	elements, err := split(name)
	if err != nil {
		return nil, err
	}
	fd, err := openRoot(root)
	if err != nil {
		return nil, err
	}
	for i, element := range elements {
		child, err := openDir(fd, element)
		_ = unix.Close(fd)
		if err != nil {
			return nil, &fs.PathError{Op: "open cgroup", Path: join(root, elements[:i+1]), Err: err}
		}
		fd = child
	}
	return &Cgroup{fd: fd, root: root, name: join("/", elements)}, nil
}

// FD returns the descriptor of the cgroup's directory, for clone3(2) with
// CLONE_INTO_CGROUP and for bpf(2) BPF_PROG_ATTACH. It is valid until Close.
func (c *Cgroup) FD() int { return c.fd }

// Fresh reports whether Create has made the cgroup, before Apply.
func (c *Cgroup) Fresh() bool { return c.fresh }

// Path returns the absolute path of the cgroup's directory.
func (c *Cgroup) Path() string { return path.Join(c.root, c.name) }

// Name returns the cgroup's path below the root it was opened with, as
// /proc/PID/cgroup shows it when that root is the hierarchy's.
func (c *Cgroup) Name() string { return c.name }

// Close closes the directory. The cgroup itself stays.
func (c *Cgroup) Close() error { return unix.Close(c.fd) }

// Add moves the process pid, with all its threads, into the cgroup. Where the
// kernel has clone3(2), CLONE_INTO_CGROUP is better: the child is then never
// outside of its limits.
func (c *Cgroup) Add(pid int, trace *explain.Tracer) error {
	return c.write(trace, explain.Event{
		Target: "cgroup.procs",
		Value:  strconv.Itoa(pid),
		Source: "linux.cgroupsPath",
		Why:    "move the process into its cgroup, and with it under the cgroup's limits",
	})
}

// write writes ev.Value to the file ev.Target of the cgroup, and reports it.
func (c *Cgroup) write(trace *explain.Tracer, ev explain.Event) error {
	return writeFile(c.fd, ev.Target, trace, ev)
}

// writeFile writes ev.Value to the file called name in dir. A file that cannot
// be opened is not reported: nothing was written.
func writeFile(dir int, name string, trace *explain.Tracer, ev explain.Event) error {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", ev.Target, err)
	}
	defer unix.Close(fd)
	ev.Op = "write"
	err = trace.Do(ev, func() error {
		// One write(2), never more: the kernel parses each as a whole.
		_, err := retry(func() (int, error) { return unix.Write(fd, []byte(ev.Value)) })
		return err
	})
	if err != nil {
		return fmt.Errorf("write %q to %s: %w", ev.Value, ev.Target, err)
	}
	return nil
}

// has reports whether the cgroup has the file.
func (c *Cgroup) has(file string) bool {
	return unix.Faccessat(c.fd, file, unix.F_OK, 0) == nil
}

// read returns the content of a file of the cgroup, in buf if it fits.
func (c *Cgroup) read(file string, buf []byte) ([]byte, error) {
	b, err := readFile(c.fd, file, buf)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: path.Join(c.Path(), file), Err: err}
	}
	return b, nil
}

// readFile returns the content of the file called name in dir, in buf if it
// fits. Errors are bare errno values.
func readFile(dir int, name string, buf []byte) ([]byte, error) {
	fd, err := retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	})
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return readAll(fd, buf)
}

// readAll reads fd from its start to its end.
func readAll(fd int, buf []byte) ([]byte, error) {
	buf = buf[:0]
	for {
		if len(buf) == cap(buf) {
			buf = append(buf, 0)[:len(buf)]
		}
		n, err := retry(func() (int, error) {
			return unix.Pread(fd, buf[len(buf):cap(buf)], int64(len(buf)))
		})
		if n <= 0 || err != nil {
			return buf, err
		}
		buf = buf[:len(buf)+n]
	}
}

// openRoot opens a directory of the cgroup2 file system, and nothing else: a
// mkdir or a write that was meant for a cgroup must not hit a plain folder.
func openRoot(root string) (int, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		_ = unix.Close(fd)
		return -1, &fs.PathError{Op: "statfs", Path: root, Err: err}
	}
	if st.Type != unix.CGROUP2_SUPER_MAGIC {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("%s is not a cgroup v2 file system", root)
	}
	return fd, nil
}

// openDir opens the directory called name, one element, in dir.
func openDir(dir int, name string) (int, error) {
	return retry(func() (int, error) {
		return unix.Openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// retry repeats a system call that a signal has interrupted; the Go runtime
// sends itself signals to preempt goroutines.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}

// split cuts a cgroup path, which may come from a hostile config.json, into its
// elements. With ".." refused, and symbolic links not followed, it cannot lead
// out of the root that it is walked from.
func split(name string) ([]string, error) {
	var elements []string
	for element := range strings.SplitSeq(name, "/") {
		switch element {
		case "", ".":
		case "..":
			return nil, fmt.Errorf("cgroup path %q leads out of its root: %w", name, fs.ErrInvalid)
		default:
			elements = append(elements, element)
		}
	}
	return elements, nil
}

func join(root string, elements []string) string {
	return path.Join(root, path.Join(elements...))
}

// isMissing reports whether err says that a file or a cgroup is not there:
// ENODEV is what the kernel says when a cgroup goes while its file is open.
func isMissing(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV)
}
