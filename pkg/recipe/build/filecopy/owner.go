package filecopy

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// maxPasswd bounds /etc/passwd and /etc/group, in bytes.
const maxPasswd = 10 << 20

// lookupOwner resolves "user[:group]" within the root. As in BuildKit, a user by
// number has the group of that number, unless one is given, and a user by name
// the group that /etc/passwd has; root needs no such file.
func (r root) lookupOwner(chown string) (*ids, error) {
	if chown == "" {
		return nil, nil
	}
	user, group, hasGroup := strings.Cut(chown, ":")
	var own ids
	if id, ok := numeric(user); ok {
		own = ids{id, id}
	} else {
		fields, err := r.account("/etc/passwd", "user", user, 4)
		if err != nil {
			return nil, fmt.Errorf("chown %s: %w", chown, err)
		}
		own = ids{fields[0], fields[1]}
	}
	if !hasGroup {
		return &own, nil
	}
	if id, ok := numeric(group); ok {
		own.gid = id
	} else {
		fields, err := r.account("/etc/group", "group", group, 3)
		if err != nil {
			return nil, fmt.Errorf("chown %s: %w", chown, err)
		}
		own.gid = fields[0]
	}
	return &own, nil
}

func numeric(name string) (int, bool) {
	if name == "root" || name == "" {
		return 0, true
	}
	id, err := strconv.ParseUint(name, 10, 32)
	// 2^32-1 is "leave it" to chown(2), and no valid ID.
	return int(id), err == nil && id < math.MaxUint32
}

// account finds the line of a name, and returns its numbers from the third
// field up to the last-th; see passwd(5) and group(5).
func (r root) account(file, kind, name string, last int) ([]int, error) {
	data, err := r.readFile(file, maxPasswd)
	if err != nil && !missing(err) && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%s %q: the destination has no %s, use a number: %w", kind, name, file, errdefs.ErrNotFound)
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if fields[0] != name || len(fields) < last {
			continue
		}
		var found []int
		for _, f := range fields[2:last] {
			id, err := strconv.ParseUint(f, 10, 32)
			if err != nil || id == math.MaxUint32 {
				return nil, fmt.Errorf("%s %q: %s gives it no valid number (%q): %w", kind, name, file, f, errdefs.ErrInvalidArgument)
			}
			found = append(found, int(id))
		}
		return found, nil
	}
	return nil, fmt.Errorf("%s %q: it is not in the destination's %s: %w", kind, name, file, errdefs.ErrNotFound)
}
