package runtime

import (
	"errors"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// danglingTarget returns where p leads, in the root file system, if that does not
// exist: /etc/resolv.conf is in many images a symlink into /run, which is empty. The
// kernel resolves symlinks to what exists only, and the folders on the way to
// what does not have to be made one by one. Of a path that exists it returns p.
//
// The answer is only a proposal, since the image may change meanwhile: as p itself, it
// is resolved by the kernel below the root when something is made or mounted there.
func danglingTarget(root, p string) string {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return p
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, p, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err == nil {
		_ = unix.Close(fd)
	}
	if !errors.Is(err, unix.ENOENT) {
		return p
	}
	done, rest := "/", strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		target, err := os.Readlink(path.Join(root, next))
		if err != nil { // no symlink, or not there
			done = next
			continue
		}
		if links++; links > 40 { // as the kernel's limit
			return p
		}
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return done
}
