// Package overlay stacks directories into one with overlayfs: read-only lower
// layers, shared by all who use them, under one upper directory that takes
// every change. See the kernel's filesystems/overlayfs.rst.
package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"golang.org/x/sys/unix"
)

// MaxLower is how many lower layers overlayfs stacks (OVL_MAX_STACK).
const MaxLower = 500

// Options are the choices of a mount that are not directories.
type Options struct {
	// Volatile leaves out every sync to the upper file system: faster, and
	// lost in a crash. A volatile upper cannot be mounted again.
	Volatile bool
	// Source is the config.json field that explain events name.
	Source string
}

// layer is a directory of the mount. Path is what people see; fd, when not
// negative, is what the kernel gets: a mount that no path leads to.
type layer struct {
	path string
	fd   int
}

// Mount mounts the overlay of lower (top first), upper and work on target.
// Without upper it is read-only. upper and work must be on the same mount and
// not within each other; see Prepare. It runs on the calling thread, which
// may have a mount namespace of its own.
func Mount(target string, lower []string, upper, work string, opts Options, trace *explain.Tracer) error {
	if upper == "" && len(lower) == 1 {
		// overlayfs wants two directories at least, and not twice the same:
		// the mount point, empty as it is, serves as the bottom one.
		lower = []string{lower[0], target}
	}
	return trace.Do(event(target, lower, upper, work, opts), func() error {
		layers := make([]layer, len(lower))
		for i, dir := range lower {
			layers[i] = layer{path: dir, fd: -1}
		}
		return explained(mount(target, layers, upper, work, opts), target, lower, upper, work)
	})
}

// Unmount takes the overlay off target. A target without a mount, or that is
// gone, is no error: undo steps may run twice.
func Unmount(target string, trace *explain.Tracer) error {
	ev := explain.Event{Op: "umount2", Target: target, Value: "MNT_DETACH", Why: "takes the root file system away; files still open live on until they are closed"}
	err := trace.Do(ev, func() error { return unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) })
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

func event(target string, lower []string, upper, work string, opts Options) explain.Event {
	value := []string{"lowerdir=" + strings.Join(lower, ":")}
	if upper != "" {
		value = append(value, "upperdir="+upper, "workdir="+work)
	}
	return explain.Event{
		Op:     "mount",
		Target: target,
		Value:  "overlay " + strings.Join(append(value, flags(upper, opts)...), ","),
		Source: opts.Source,
		Why:    "read-only image layers below, one writable directory above: the container's root file system",
	}
}

// flags are given whatever the kernel's defaults: with metacopy an upper file
// may lack its content, with redirect_dir an upper folder what was in it when
// it was renamed (rename(2) is EXDEV instead, and mv copies), and with index an
// upper that is still mounted elsewhere cannot be mounted, which is what a
// container just killed leaves.
func flags(upper string, opts Options) []string {
	if upper == "" {
		return nil
	}
	f := []string{"index=off", "metacopy=off", "redirect_dir=off"}
	if opts.Volatile {
		f = append(f, "volatile")
	}
	return f
}

func mount(target string, lower []layer, upper, work string, opts Options) error {
	if len(lower) == 0 || len(lower) > MaxLower {
		return fmt.Errorf("%d lower layers, overlayfs takes 1 to %d: %w", len(lower), MaxLower, unix.EINVAL)
	}
	if !appendsLayers() {
		return mountString(target, lower, upper, work, opts)
	}
	mnt, err := newMount(lower, upper, work, opts)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	return attach(mnt, target)
}

func attach(mnt int, target string) error {
	if err := unix.MoveMount(mnt, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount: %w", err)
	}
	return nil
}

// appendsLayers reports whether overlayfs takes "lowerdir+", one layer at a
// time, as it does since Linux 6.8. A kernel before 6.5 takes any parameter
// at all and complains when the file system is made, so it is first asked for
// one that does not exist.
var appendsLayers = sync.OnceValue(func() bool {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return false
	}
	defer unix.Close(fs)
	return unix.FsconfigSetString(fs, "sandbox", "probe") != nil &&
		unix.FsconfigSetString(fs, "lowerdir+", "/") == nil
})

// newMount makes an overlay that is not attached anywhere yet.
func newMount(lower []layer, upper, work string, opts Options) (int, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen overlay: %w", err)
	}
	defer unix.Close(fs)
	var names pathNames
	defer names.close()
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(fs, key, value); err != nil {
			return fmt.Errorf("fsconfig %s=%s: %w", key, value, kernelLog(fs, err))
		}
		return nil
	}
	if err := set("source", "overlay"); err != nil {
		return -1, err
	}
	for _, l := range lower {
		if l.fd >= 0 {
			err = unix.FsconfigSetFd(fs, "lowerdir+", l.fd)
			if err != nil {
				err = fmt.Errorf("fsconfig lowerdir+=%s: %w", l.path, kernelLog(fs, err))
			}
		} else {
			// Taken literally, unlike upperdir and workdir.
			var name string
			if name, err = names.short(l.path, l.path, maxString); err == nil {
				err = set("lowerdir+", name)
			}
		}
		if err != nil {
			return -1, err
		}
	}
	if upper != "" {
		for _, dir := range []struct{ key, path string }{{"upperdir", upper}, {"workdir", work}} {
			name, err := names.short(dir.path, escape(dir.path), maxString)
			if err != nil {
				return -1, err
			}
			if err := set(dir.key, name); err != nil {
				return -1, err
			}
		}
	}
	for _, flag := range flags(upper, opts) {
		key, value, isString := strings.Cut(flag, "=")
		if isString {
			err = set(key, value)
		} else if err = unix.FsconfigSetFlag(fs, key); err != nil {
			err = fmt.Errorf("fsconfig %s: %w", key, kernelLog(fs, err))
		}
		if err != nil {
			return -1, err
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", kernelLog(fs, err))
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", kernelLog(fs, err))
	}
	return mnt, nil
}

// maxString is what fsconfig(2) takes for a string, without its NUL.
const maxString = 255

// kernelLog adds to err what the kernel wrote about it into the file system
// context (fsopen(2), "message retrieval interface").
func kernelLog(fs int, err error) error {
	var lines []string
	buf := make([]byte, 512)
	for {
		n, rerr := unix.Read(fs, buf)
		if rerr != nil || n <= 0 { // ENODATA: no more
			break
		}
		// "e overlay: text\n"
		lines = append(lines, strings.TrimSpace(strings.TrimLeft(string(buf[:n]), "ewi ")))
	}
	if len(lines) == 0 {
		return err
	}
	return fmt.Errorf("%w (%s)", err, strings.Join(lines, "; "))
}

// mountString is mount(2) with all layers in one string, for older kernels.
// The string has one page, less its NUL: what does not fit is shortened.
func mountString(target string, lower []layer, upper, work string, opts Options) error {
	var names pathNames
	defer names.close()
	data, err := options(lower, upper, work, opts, func(path string) (string, error) { return escape(path), nil })
	if err == nil && len(data) >= os.Getpagesize() {
		data, err = options(lower, upper, work, opts, func(path string) (string, error) { return names.short(path, escape(path), maxShort) })
	}
	if err != nil {
		return err
	}
	if len(data) >= os.Getpagesize() {
		return fmt.Errorf("%d lower layers do not fit into the %d bytes of options that mount(2) takes before Linux 6.8: %w",
			len(lower), os.Getpagesize(), unix.E2BIG)
	}
	return unix.Mount("overlay", target, "overlay", 0, data)
}

func options(lower []layer, upper, work string, opts Options, name func(string) (string, error)) (string, error) {
	dirs := make([]string, len(lower))
	for i, l := range lower {
		var err error
		if dirs[i], err = name(l.path); err != nil {
			return "", err
		}
	}
	o := []string{"lowerdir=" + strings.Join(dirs, ":")}
	if upper != "" {
		for _, dir := range []struct{ key, path string }{{"upperdir", upper}, {"workdir", work}} {
			n, err := name(dir.path)
			if err != nil {
				return "", err
			}
			o = append(o, dir.key+"="+n)
		}
	}
	return strings.Join(append(o, flags(upper, opts)...), ","), nil
}

// escape protects what overlayfs takes for separators in its option strings.
func escape(path string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`, `:`, `\:`).Replace(path)
}

// maxShort is the length over which mountString shortens a path that has to
// share its page with many others.
const maxShort = len("/proc/self/fd/000")

// pathNames gives long paths short names: /proc/self/fd/N leads to whatever
// the file descriptor N has open.
type pathNames struct{ open []int }

// short returns written, which is how path is written as an option, unless it
// is longer than limit.
func (p *pathNames) short(path, written string, limit int) (string, error) {
	if len(written) <= limit {
		return written, nil
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", path, err)
	}
	p.open = append(p.open, fd)
	return fmt.Sprintf("/proc/self/fd/%d", fd), nil
}

func (p *pathNames) close() {
	for _, fd := range p.open {
		unix.Close(fd)
	}
}
