package runtime

import (
	"bytes"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// environ completes the process's environment as callers of runc have come to
// expect: of a variable that is given twice the last one counts, and HOME, if it is
// missing or empty, is what passwd (the content of /etc/passwd) says of the user.
func environ(p *specs.Process, passwd func() []byte) []string {
	last := make(map[string]int, len(p.Env))
	for i, e := range p.Env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	env := make([]string, 0, len(p.Env)+1)
	home := false
	for i, e := range p.Env {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case last[name] != i, name == "HOME" && value == "":
			continue
		case name == "HOME":
			home = true
		}
		env = append(env, e)
	}
	if !home {
		env = append(env, "HOME="+homeOf(p.User.UID, passwd()))
	}
	return env
}

// homeOf finds the user's home directory in the content of /etc/passwd; see passwd(5).
func homeOf(uid uint32, passwd []byte) string {
	id := strconv.FormatUint(uint64(uid), 10)
	for line := range bytes.Lines(passwd) {
		fields := strings.Split(strings.TrimSpace(string(line)), ":")
		if len(fields) >= 6 && fields[2] == id && fields[5] != "" {
			return fields[5]
		}
	}
	return "/"
}

// passwdIn reads /etc/passwd as a process with that root would, or what is going to be
// mounted there. A file that is not there, or is not one, is empty.
func passwdIn(root string, mounts []specs.Mount) []byte {
	for _, m := range mounts {
		if path.Clean(m.Destination) == "/etc/passwd" && path.IsAbs(m.Source) {
			b, _ := readFile(m.Source)
			return b
		}
	}
	dir, err := openFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	defer dir.Close()
	// O_NONBLOCK: an image may hold a FIFO there.
	fd, err := unix.Openat2(int(dir.Fd()), "etc/passwd", &unix.OpenHow{
		Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), "/etc/passwd")
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	b, _ := io.ReadAll(io.LimitReader(f, 1<<20))
	return b
}
