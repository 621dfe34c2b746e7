package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/script"
)

// attachRoot appends the mounting of the root file system where pivot_root(2)
// can take it from. The parent has made a detached copy of its mount.
func (b *builder) attachRoot(tree *os.File) error {
	flag, recursive, err := propagationFlag(b.spec.Linux.RootfsPropagation)
	if err != nil {
		return err
	}
	flags := uint64(unix.MS_SLAVE | unix.MS_REC)
	if flag != 0 {
		flags = flag
		if recursive {
			flags |= unix.MS_REC
		}
	}
	b.procfs = b.open(cwd, "/proc", unix.O_PATH|unix.O_DIRECTORY).Get()
	b.devNull = b.open(cwd, "/dev/null", unix.O_PATH).Get()
	b.mountFlags("/", flags, "no mount made in the container may spread to the host")
	fd := script.Int(b.file(tree))
	rootfs := b.spec.Root.Path
	const why = "pivot_root needs the new root to be a mount of this namespace"
	onto := func(path string) script.Op {
		return script.Op{
			Nr:    unix.SYS_MOVE_MOUNT,
			Args:  []script.Arg{fd, b.String(""), cwd, b.String(path), script.Int(unix.MOVE_MOUNT_F_EMPTY_PATH)},
			Event: explain.Event{Op: "move_mount", Target: path, Source: "root.path", Why: why},
		}
	}
	if flags&unix.MS_SHARED != 0 {
		// pivot_root(2) refuses shared mounts, for the new root and for what it
		// is mounted on, which may be any mount of the host; of / we know.
		b.setattr(fd, rootfs, 0, 0, unix.MS_PRIVATE, true, "linux.rootfsPropagation", "pivot_root demands it; it gets shared afterwards")
		b.mountFlags("/", unix.MS_PRIVATE, "pivot_root demands it")
		b.Do(onto("/"))
		b.root = fd
		return nil
	}
	b.setattr(fd, rootfs, 0, 0, flags&^unix.MS_REC, flags&unix.MS_REC != 0, "linux.rootfsPropagation", "the same, for what is mounted below it")
	there, elsewhere := b.NewLabel(), b.NewLabel()
	op := onto(rootfs)
	op.OK, op.Err = there, elsewhere
	b.Do(op)
	// The mapped root of a user namespace may have no right to walk to the
	// bundle. Then the new root is put over the old one.
	b.Place(elsewhere)
	b.Do(onto("/"))
	b.Place(there)
	b.root = fd
	return nil
}

// mountFlags appends a mount(2) that only changes a mount's propagation.
func (b *builder) mountFlags(target string, flags uint64, why string) {
	ev := explain.Event{Op: "mount", Target: target, Why: why, Source: "linux.rootfsPropagation"}
	if b.Timed() {
		ev.Value = propagationString(flags&^unix.MS_REC, flags&unix.MS_REC != 0)
	}
	b.call(ev, unix.SYS_MOUNT, script.Int(0), b.String(target), script.Int(0), script.Int(flags), script.Int(0))
}

// pivot appends the change of root: the old one goes out of sight and is
// unmounted from the container's namespace, lazily, with all that was below it.
func (b *builder) pivot(noPivot bool) error {
	why := "the container's / becomes its own root file system"
	if noPivot {
		if err := b.hideProc(); err != nil {
			return err
		}
		b.quiet("fchdir", b.spec.Root.Path, unix.SYS_FCHDIR, b.root)
		b.call(explain.Event{Op: "mount", Target: "/", Value: "MS_MOVE", Source: "root.path", Why: why},
			unix.SYS_MOUNT, b.String("."), b.String("/"), script.Int(0), script.Int(unix.MS_MOVE), script.Int(0))
		b.call(explain.Event{Op: "chroot", Target: ".", Source: "root.path", Why: why}, unix.SYS_CHROOT, b.String("."))
		b.quiet("chdir", "/", unix.SYS_CHDIR, b.String("/"))
		return b.rootPropagation()
	}
	old := b.open(cwd, "/", unix.O_PATH|unix.O_DIRECTORY)
	b.quiet("fchdir", b.spec.Root.Path, unix.SYS_FCHDIR, b.root)
	b.call(explain.Event{Op: "pivot_root", Target: b.spec.Root.Path, Source: "root.path", Why: why},
		unix.SYS_PIVOT_ROOT, b.String("."), b.String("."))
	b.quiet("fchdir", "the old root", unix.SYS_FCHDIR, old.Get())
	// Slave first, or the unmounting would spread to the host.
	b.mountFlags(".", unix.MS_SLAVE|unix.MS_REC, "unmounting the old root must not unmount the host's")
	b.call(explain.Event{Op: "umount2", Target: ".", Value: "MNT_DETACH", Why: "the host's file tree is out of reach from here on"},
		unix.SYS_UMOUNT2, b.String("."), script.Int(unix.MNT_DETACH))
	b.quiet("chdir", "/", unix.SYS_CHDIR, b.String("/"))
	b.closeFD(old.Get())
	return b.rootPropagation()
}

func (b *builder) rootPropagation() error {
	flag, recursive, err := propagationFlag(b.spec.Linux.RootfsPropagation)
	if err != nil {
		return err
	}
	if flag != 0 {
		if recursive {
			flag |= unix.MS_REC
		}
		b.mountFlags("/", flag, "as the bundle asks")
	}
	return nil
}

// readonlyRoot appends the remount of / read-only; what is mounted below keeps
// its own mode.
func (b *builder) readonlyRoot() {
	if b.spec.Root.Readonly {
		b.setattr(b.root, "/", unix.MOUNT_ATTR_RDONLY, 0, 0, false, "root.readonly", "writes go to volumes and tmpfs only")
	}
}

// readonlyPaths appends, for each path that exists, a read-only copy of its
// mount over itself.
func (b *builder) readonlyPaths() {
	for _, p := range b.spec.Linux.ReadonlyPaths {
		const source, why = "linux.readonlyPaths", "root in the container may look, not write: these change the host"
		next := b.NewLabel()
		fd := b.resolve(p, next)
		mnt := b.openTree(fd.Get(), "", true, source, why)
		b.Op(b.Len() - 1).Event.Target = p
		b.setattr(mnt.Get(), p, unix.MOUNT_ATTR_RDONLY, 0, 0, true, source, why)
		b.attach(mnt.Get(), fd.Get(), p, source, why)
		b.closeFD(mnt.Get())
		b.closeFD(fd.Get())
		b.Place(next)
	}
}

// maskedPaths appends, for each path that exists, the host's /dev/null over a
// file, or an empty read-only tmpfs over a folder. The null device is the
// host's, opened before anything of the image could be in the way
// (CVE-2025-31133).
func (b *builder) maskedPaths() {
	const source, why = "linux.maskedPaths", "these tell of the host, or reach into it"
	if len(b.spec.Linux.MaskedPaths) == 0 {
		return
	}
	// One empty file system serves all folders: its first mount, and copies of that.
	empty := b.NewVar(^uint64(0))
	for i, p := range b.spec.Linux.MaskedPaths {
		if slices.Contains(b.spec.Linux.MaskedPaths[:i], p) {
			continue // masked already
		}
		next, folder, done := b.NewLabel(), b.NewLabel(), b.NewLabel()
		fd := b.resolve(p, next)
		null := b.openTree(b.devNull, "", false, source, why)
		b.Op(b.Len() - 1).Event.Target = "/dev/null"
		b.attach(null.Get(), fd.Get(), p, source, why)
		op := b.Op(b.Len() - 1)
		op.OK, op.Err, op.Attempt = done, folder, true // refused for what is not a file
		b.Place(folder)
		first, mounted := b.NewLabel(), b.NewLabel()
		mnt := b.openTree(empty.Get(), "", false, source, why)
		op = b.Op(b.Len() - 1)
		op.Event.Target, op.OK, op.Err, op.Attempt = "the empty folder", mounted, first, true
		b.Place(first)
		made := b.fsmount("tmpfs", "", nil, []string{"nr_blocks=1", "nr_inodes=1"}, unix.MOUNT_ATTR_RDONLY, source, why)
		for _, v := range []script.Var{mnt, empty} {
			b.Do(script.Op{Nr: script.NoCall, Args: []script.Arg{made.Get()}, Out: v, Plumbing: true})
		}
		b.Place(mounted)
		b.attach(mnt.Get(), fd.Get(), p, source, why)
		b.Place(done)
		b.closeFD(null.Get())
		b.closeFD(fd.Get())
		b.Place(next)
	}
}

// sysctls appends the writes of linux.sysctl, through the host's procfs, which
// nothing of the image can stand in for (CVE-2025-52881). The kernel takes
// the value for the namespaces of the process that writes.
func (b *builder) sysctls() {
	for key, value := range b.spec.Linux.Sysctl {
		name := "sys/" + strings.ReplaceAll(key, ".", "/")
		b.writeFile(b.procfs, name, value, explain.Event{Target: "/proc/" + name, Source: "linux.sysctl"})
	}
}

// defaultDevices are config.md's "Default Devices" that are nodes.
var defaultDevices = [...]struct {
	name         string
	major, minor uint32
}{
	{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0},
}

// devices appends the device nodes: config.json's and the default ones. In
// a user namespace nobody can make nodes, and the host's are bind-mounted.
func (b *builder) devices() error {
	for _, m := range b.spec.Mounts {
		if filepath.Clean(m.Destination) == "/dev" && m.Type == "bind" {
			return nil // the bundle brings its own
		}
	}
	dev := b.mountpoint("/dev", true).Get()
	listed := map[string]bool{}
	for i := range b.spec.Linux.Devices {
		d := &b.spec.Linux.Devices[i]
		listed[filepath.Clean(d.Path)] = true
		if err := b.device(d); err != nil {
			return err
		}
	}
	for _, d := range defaultDevices {
		if listed["/dev/"+d.name] {
			continue
		}
		if b.userns {
			if err := b.bindDevice("/dev/"+d.name, "/dev/"+d.name); err != nil {
				return err
			}
			continue
		}
		b.mknod(dev, d.name, "/dev/"+d.name, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor), "")
	}
	for _, l := range [...][2]string{
		{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"},
	} {
		b.Do(script.Op{
			Nr: unix.SYS_SYMLINKAT, Args: []script.Arg{b.String(l[0]), dev, b.String(l[1])}, Accept: unix.EEXIST,
			Event: explain.Event{Op: "symlink", Target: "/dev/" + l[1]}, Plumbing: true,
		})
	}
	b.closeFD(dev)
	return nil
}

func (b *builder) mknod(dir script.Arg, name, target string, mode uint32, dev uint64, source string) {
	ev := explain.Event{Op: "mknod", Target: target, Source: source}
	if b.Timed() {
		ev.Value = fmt.Sprintf("%#o %d:%d", mode, unix.Major(dev), unix.Minor(dev))
	}
	b.Do(script.Op{
		Nr: unix.SYS_MKNODAT, Args: []script.Arg{dir, b.String(name), script.Int(mode), script.Int(dev)}, Accept: unix.EEXIST, Event: ev,
	})
}

func (b *builder) device(d *specs.LinuxDevice) error {
	var mode uint32
	switch d.Type {
	case "c", "u":
		mode = unix.S_IFCHR
	case "b":
		mode = unix.S_IFBLK
	case "p":
		mode = unix.S_IFIFO
	default:
		return fmt.Errorf("linux.devices: %s: unknown type %q", d.Path, d.Type)
	}
	if b.userns {
		return b.bindDevice(d.Path, d.Path)
	}
	perm := uint32(0o666)
	if d.FileMode != nil {
		perm = uint32(d.FileMode.Perm())
	}
	dir, name := filepath.Split(filepath.Clean("/" + d.Path))
	if name == "" {
		return errors.New("linux.devices: a device without a name")
	}
	parent := b.root
	if dir != "/" {
		parent = b.mountpoint(dir, true).Get()
	}
	b.mknod(parent, name, d.Path, mode|perm, unix.Mkdev(uint32(d.Major), uint32(d.Minor)), "linux.devices") //nolint:gosec // device numbers
	if d.UID != nil || d.GID != nil {
		uid, gid := uint32(0), uint32(0)
		if d.UID != nil {
			uid = *d.UID
		}
		if d.GID != nil {
			gid = *d.GID
		}
		b.quiet("chown", d.Path, unix.SYS_FCHOWNAT, parent, b.String(name), script.Int(uid), script.Int(gid), script.Int(unix.AT_SYMLINK_NOFOLLOW))
	}
	if dir != "/" {
		b.closeFD(parent)
	}
	return nil
}

func (b *builder) bindDevice(host, target string) error {
	if _, err := os.Stat(host); err != nil {
		return fmt.Errorf("linux.devices: %s: a user namespace can only use devices that the host has: %w", target, err)
	}
	const source, why = "linux.devices", "a user namespace can't make device nodes; the host's is mounted"
	mnt := b.openTree(cwd, host, false, source, why)
	fd := b.mountpoint(target, false)
	b.attach(mnt.Get(), fd.Get(), target, source, why)
	b.closeFD(mnt.Get())
	b.closeFD(fd.Get())
	return nil
}

// terminal appends the making of a pseudo-terminal in the container's own
// devpts: its master goes to the console socket, its slave becomes /dev/console
// and standard input, output and error.
func (b *builder) terminal(io *IO) script.Var {
	const source = "process.terminal"
	master, slave := b.NewVar(0), b.NewVar(0)
	how := b.Words(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	b.Do(script.Op{
		Nr: unix.SYS_OPENAT2, Args: []script.Arg{b.root, b.String("/dev/pts/ptmx"), how, script.Int(24)}, Out: master,
		Event: explain.Event{Op: "open", Target: "/dev/pts/ptmx", Source: source}, Plumbing: true,
	})
	b.quiet("unlock the terminal", "", unix.SYS_IOCTL, master.Get(), script.Int(unix.TIOCSPTLCK), b.Words(0))
	b.Do(script.Op{
		Nr: unix.SYS_IOCTL, Args: []script.Arg{master.Get(), script.Int(unix.TIOCGPTPEER), script.Int(unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC)},
		Out: slave, Event: explain.Event{Op: "open the terminal's slave", Source: source}, Plumbing: true,
	})
	if size := b.spec.Process.ConsoleSize; size != nil {
		b.quiet("set the terminal's size", "", unix.SYS_IOCTL, master.Get(), script.Int(unix.TIOCSWINSZ),
			b.Words(uint64(uint16(size.Height))|uint64(uint16(size.Width))<<16)) //nolint:gosec // struct winsize has shorts
	}
	b.quiet("chown", "/dev/console", unix.SYS_FCHOWN, slave.Get(), script.Int(b.spec.Process.User.UID), script.Int(^uint32(0)))
	if io.KeepNewlines {
		b.keepNewlines(master)
	}
	b.sendFD(b.file(io.Console), master, "/dev/pts/ptmx")
	b.closeFD(master.Get())
	return slave
}

// keepNewlines appends the clearing of the terminal's ONLCR.
func (b *builder) keepNewlines(master script.Var) {
	termios := b.Words(0, 0, 0, 0, 0, 0, 0, 0) // the kernel's struct termios has 36 bytes
	b.quiet("look at the terminal", "", unix.SYS_IOCTL, master.Get(), script.Int(unix.TCGETS), termios)
	// The first two words are c_iflag and c_oflag, which of a new terminal are known.
	b.Do(script.Op{
		Nr: script.NoCall, Args: []script.Arg{script.Int(unix.ICRNL | unix.IXON | unix.OPOST<<32)}, Out: b.VarIn(termios, 0), Plumbing: true,
	})
	b.quiet("set up the terminal", "", unix.SYS_IOCTL, master.Get(), script.Int(unix.TCSETS), termios)
}

// console appends the mount of the terminal's slave on /dev/console.
func (b *builder) console(slave script.Var) {
	const why = "programs that write to the console reach the terminal"
	dev := b.mountpoint("/dev", true)
	b.makeFile(dev.Get(), "console", "/dev/console")
	target := b.NewVar(0)
	how := b.Words(unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	b.Do(script.Op{
		Nr: unix.SYS_OPENAT2, Args: []script.Arg{dev.Get(), b.String("console"), how, script.Int(24)}, Out: target,
		Event: explain.Event{Op: "open", Target: "/dev/console"}, Plumbing: true,
	})
	mnt := b.openTree(slave.Get(), "", false, "process.terminal", why)
	b.Op(b.Len() - 1).Event.Target = "/dev/pts/0"
	b.attach(mnt.Get(), target.Get(), "/dev/console", "process.terminal", why)
	b.closeFD(mnt.Get())
	b.closeFD(target.Get())
	b.closeFD(dev.Get())
}

// sendFD appends sendmsg(2) of the descriptor in fd over the socket, with name as
// its message (unix(7), SCM_RIGHTS).
func (b *builder) sendFD(socket int, fd script.Var, name string) {
	text := b.String(name)
	iov := b.Words(b.Addr(text), uint64(len(name)))
	// struct cmsghdr {20, SOL_SOCKET, SCM_RIGHTS} and an int
	control := b.Words(20, unix.SOL_SOCKET|unix.SCM_RIGHTS<<32, 0)
	sent := b.VarIn(control, 16)
	b.Do(script.Op{Nr: script.NoCall, Args: []script.Arg{fd.Get()}, Out: sent, Plumbing: true})
	msg := b.Words(0, 0, b.Addr(iov), 1, b.Addr(control), 24, 0)
	b.quiet("send", name, unix.SYS_SENDMSG, script.Int(socket), msg, script.Int(unix.MSG_NOSIGNAL))
}
