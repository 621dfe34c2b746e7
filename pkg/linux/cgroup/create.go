package cgroup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// ErrThreaded is returned by Create for a place in the hierarchy that can hold
// single threads only, not processes.
var ErrThreaded = errors.New("cgroup is part of a threaded subtree")

// leaf is where the processes of a root go that must delegate controllers.
const leaf = "init"

// Create makes the cgroup at name below root, with every cgroup above it that is
// missing, and enables the controllers in need on the way down. A cgroup that is
// there already is taken as it is.
//
// A controller that cannot be enabled is no error: what needs it is then named
// by the warnings of Apply. What Create has made it removes if it fails.
func Create(root, name string, need Controllers, trace *explain.Tracer) (*Cgroup, error) {
	return create(root, name, need, 0, trace)
}

// CreateCommon is Create that also enables the controllers of Common where no process
// is in the way.
func CreateCommon(root, name string, need Controllers, trace *explain.Tracer) (*Cgroup, error) {
	return create(root, name, need, Common, trace)
}

func create(root, name string, need, spare Controllers, trace *explain.Tracer) (_ *Cgroup, err error) {
	elements, err := split(name)
	if err != nil {
		return nil, err
	}
	if len(elements) == 0 {
		return nil, fmt.Errorf("cgroup path %q is the root itself: %w", name, fs.ErrInvalid)
	}
	c := &Cgroup{root: root, name: join("/", elements), asked: need}
	if c.fd, err = openRoot(root); err != nil {
		return nil, err
	}
	var made undo.Stack
	defer func() {
		if err != nil {
			_ = c.Close()
			err = made.Run(err)
		}
	}()
	for i, element := range elements {
		c.delegate(c.fd, elements[:i], need, spare, trace)
		dir := join(root, elements[:i+1])
		child, fresh, err := makeDir(c.fd, element, dir, trace)
		if err != nil {
			return nil, err
		}
		if fresh {
			made.Push(func(context.Context) error { return ignoreMissing(unix.Rmdir(dir)) })
		}
		_ = unix.Close(c.fd)
		c.fd, c.fresh = child, fresh
	}
	if err := c.checkType(); err != nil {
		return nil, err
	}
	return c, nil
}

// makeDir opens the cgroup called name in parent, and makes it if it is missing.
// dir is its absolute path, for messages.
func makeDir(parent int, name, dir string, trace *explain.Tracer) (fd int, fresh bool, err error) {
	// Opened first: all but the last are nearly always there, and an mkdir that
	// fails would be reported.
	if fd, err = openDir(parent, name); err == nil {
		return fd, false, nil
	}
	if err == unix.ENOENT {
		err = trace.Do(explain.Event{
			Op: "mkdir", Target: dir, Source: "linux.cgroupsPath",
			Why: "a directory in the cgroup file system is a cgroup: the kernel fills it with the files of its parameters",
		}, func() error { return unix.Mkdirat(parent, name, 0o755) })
		fresh = err == nil
		if err == nil || err == unix.EEXIST {
			fd, err = openDir(parent, name)
		}
	}
	if err != nil {
		return -1, false, &fs.PathError{Op: "create cgroup", Path: dir, Err: err}
	}
	return fd, fresh, nil
}

// checkType refuses a cgroup that no process can join. Its type is then
// "threaded" or "domain invalid" ("Threads" in the kernel's documentation).
func (c *Cgroup) checkType() error {
	var buf [32]byte
	b, err := c.read("cgroup.type", buf[:])
	if err != nil {
		return err
	}
	switch kind := string(bytes.TrimSpace(b)); kind {
	case "domain", "domain threaded":
		return nil
	default:
		return fmt.Errorf("%s has type %q: %w", c.Path(), kind, ErrThreaded)
	}
}

// enable enables controllers for a cgroup that exists already, in all the
// cgroups above it.
func (c *Cgroup) enable(need Controllers, trace *explain.Tracer) error {
	c.asked |= need
	if need == 0 {
		return nil
	}
	elements, err := split(c.name)
	if err != nil {
		return err
	}
	dir, err := openRoot(c.root)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	for i, element := range elements {
		c.delegate(dir, elements[:i], need, 0, trace)
		child, err := openDir(dir, element)
		if err != nil {
			return &fs.PathError{Op: "open cgroup", Path: join(c.root, elements[:i+1]), Err: err}
		}
		_ = unix.Close(dir)
		dir = child
	}
	return nil
}

// delegate enables controllers for the children of the cgroup dir, whose path
// below the root is above: each that is available there and not enabled yet.
// What the kernel refuses of need is remembered in c.refused; spare is enabled only where
// there is room for it.
func (c *Cgroup) delegate(dir int, above []string, need, spare Controllers, trace *explain.Tracer) {
	var buf [256]byte
	spare &^= need
	if enabled, err := readFile(dir, "cgroup.subtree_control", buf[:]); err == nil {
		need &^= parseControllers(enabled)
		spare &^= parseControllers(enabled)
	}
	if need|spare == 0 {
		return
	}
	if available, err := readFile(dir, "cgroup.controllers", buf[:]); err == nil {
		need &= parseControllers(available)
		spare &= parseControllers(available)
	}
	dirPath := join(c.root, above)
	if spare != 0 && hasRoom(dir) {
		for one := range spare.each() {
			_ = enableIn(dir, dirPath, one, trace) // nobody depends on it
		}
	}
	if need == 0 {
		return
	}
	if why := makeRoom(dir, dirPath, len(above) == 0, trace); why != "" {
		c.refuse(need, why)
		return
	}
	// One at a time: the kernel takes all of a write or nothing, and one
	// controller that it refuses must not cost the others.
	for one := range need.each() {
		if err := enableIn(dir, dirPath, one, trace); err != nil {
			c.refuse(one, explainRefusal(err))
		}
	}
}

func enableIn(dir int, dirPath string, one Controllers, trace *explain.Tracer) error {
	return writeFile(dir, "cgroup.subtree_control", trace, explain.Event{
		Target: path.Join(dirPath, "cgroup.subtree_control"),
		Value:  "+" + one.String(),
		Source: "linux.cgroupsPath",
		Why:    "give the cgroups in " + dirPath + " the parameters of the " + one.String() + " controller",
	})
}

// hasRoom reports whether the cgroup dir may delegate controllers as it is; see
// makeRoom.
func hasRoom(dir int) bool {
	if unix.Faccessat(dir, "cgroup.type", unix.F_OK, 0) != nil {
		return true // the real root
	}
	pids, err := readPIDs(dir)
	return err == nil && len(pids) == 0
}

func (c *Cgroup) refuse(controllers Controllers, why string) {
	if c.refused == nil {
		c.refused = make(map[Controllers]string)
	}
	for one := range controllers.each() {
		c.refused[one] = why
	}
}

// explainRefusal adds to an error of cgroup.subtree_control what its errno means
// there.
func explainRefusal(err error) string {
	switch {
	case errors.Is(err, unix.EBUSY):
		return err.Error() + " (a cgroup with processes of its own cannot delegate it)"
	case errors.Is(err, unix.EOPNOTSUPP):
		return err.Error() + " (that cgroup is threaded)"
	case errors.Is(err, unix.EINVAL):
		return err.Error() + " (for cpu: real-time processes run outside of the root cgroup)"
	}
	return err.Error()
}

// makeRoom sees to it that no process lives in a cgroup that is to delegate
// controllers: the rule of "no internal processes", from which only the real
// root of the hierarchy is exempt. The root that was given to us, where it is
// not that one (inside a container it is the container's cgroup), is ours to
// tidy: its processes are moved to a leaf. The others belong to somebody else. It
// returns why there is no room, or nothing.
//
// The kernel itself refuses only some controllers in that state (EBUSY). With the
// others it would make the children "domain invalid", which is worse.
func makeRoom(dir int, dirPath string, isRoot bool, trace *explain.Tracer) (why string) {
	if unix.Faccessat(dir, "cgroup.type", unix.F_OK, 0) != nil {
		return "" // the real root has no type
	}
	// What is moved may have forked meanwhile: a few rounds.
	for range 10 {
		pids, err := readPIDs(dir)
		if err != nil {
			return fmt.Sprintf("read %s/cgroup.procs: %v", dirPath, err)
		}
		if len(pids) == 0 {
			return ""
		}
		if !isRoot {
			return "processes live in " + dirPath + ", and such a cgroup cannot delegate it to others"
		}
		if err := moveToLeaf(dir, dirPath, pids, trace); err != nil {
			return err.Error()
		}
	}
	return "processes keep appearing in " + dirPath
}

// moveToLeaf moves processes out of the cgroup dir into a child of it.
func moveToLeaf(dir int, dirPath string, pids []int, trace *explain.Tracer) error {
	leafPath := path.Join(dirPath, leaf)
	fd, _, err := makeDir(dir, leaf, leafPath, trace)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, pid := range pids {
		if pid == 0 {
			return fmt.Errorf("a process of another PID namespace lives in %s", dirPath)
		}
		err := writeFile(fd, "cgroup.procs", trace, explain.Event{
			Target: path.Join(leafPath, "cgroup.procs"),
			Value:  strconv.Itoa(pid),
			Why:    "a cgroup that delegates controllers may hold no processes itself: move this one to a leaf",
		})
		if err != nil && !errors.Is(err, unix.ESRCH) { // ESRCH: it has exited
			return err
		}
	}
	return nil
}

// Delegate gives the cgroup to uid and gid, so that a container with a user
// namespace and a writable /sys/fs/cgroup can make cgroups below it. Only the
// directory and the files that the kernel lists as safe change hands: with the
// others the container could raise its own limits ("Cgroup ownership" in the
// runtime-spec, cgroups(7)).
func (c *Cgroup) Delegate(uid, gid int, trace *explain.Tracer) error {
	files, err := os.ReadFile("/sys/kernel/cgroup/delegate")
	if err != nil {
		files = []byte("cgroup.procs\ncgroup.subtree_control\ncgroup.threads\n")
	}
	for _, file := range append([]string{"."}, strings.Fields(string(files))...) {
		err := trace.Do(explain.Event{
			Op: "chown", Target: path.Join(c.Path(), file),
			Value:  strconv.Itoa(uid) + ":" + strconv.Itoa(gid),
			Source: "linux.cgroupsPath",
			Why:    "let the container's root make cgroups below its own, within its limits",
		}, func() error { return unix.Fchownat(c.fd, file, uid, gid, unix.AT_SYMLINK_NOFOLLOW) })
		if err != nil && !isMissing(err) {
			return &fs.PathError{Op: "chown", Path: path.Join(c.Path(), file), Err: err}
		}
	}
	return nil
}

func ignoreMissing(err error) error {
	if isMissing(err) {
		return nil
	}
	return err
}
