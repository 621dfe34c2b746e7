// Package socket finds out which process has a port, from the tables that the
// kernel shows in /proc.
package socket

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process, by its ID and its name (/proc/PID/comm, at most 15
// bytes).
type Process struct {
	PID  int
	Name string
}

func (p Process) String() string {
	return p.Name + " (pid " + strconv.Itoa(p.PID) + ")"
}

// Listener returns the process that listens on a TCP port, or has a UDP port
// open, on ip or on all addresses, in the network namespace of the calling
// thread. protocol is "tcp" or "udp". An ip that is empty or all zeros means
// any address. When there is no such socket, or none whose process can be
// found (it takes root, and the process must be in a PID namespace that proc
// shows), the error satisfies errors.Is(err, fs.ErrNotExist).
//
// proc is where proc(5) is mounted.
func Listener(proc, protocol string, ip []byte, port uint16) (Process, error) {
	inodes := map[string]bool{}
	for _, version := range []string{"", "6"} {
		table, err := os.ReadFile(filepath.Join(proc, "thread-self/net", protocol+version))
		if errors.Is(err, fs.ErrNotExist) {
			continue // no IPv6
		}
		if err != nil {
			return Process{}, err
		}
		for line := range bytes.Lines(table) {
			if inode, ok := match(line, protocol, ip, port); ok {
				inodes[inode] = true
			}
		}
	}
	if len(inodes) == 0 {
		return Process{}, &fs.PathError{Op: "find", Path: protocol + " port " + strconv.Itoa(int(port)), Err: fs.ErrNotExist}
	}
	return holder(proc, inodes)
}

// match looks at one line of /proc/net/{tcp,udp}[6]: number, local address,
// remote address, state, queues, timer, retransmits, uid, timeout, inode.
func match(line []byte, protocol string, ip []byte, port uint16) (inode string, ok bool) {
	const listen = "0A" // TCP_LISTEN
	f := strings.Fields(string(line))
	if len(f) < 10 || protocol == "tcp" && f[3] != listen {
		return "", false
	}
	address, hexPort, _ := strings.Cut(f[1], ":")
	if p, err := strconv.ParseUint(hexPort, 16, 16); err != nil || uint16(p) != port {
		return "", false
	}
	local, err := hex.DecodeString(address)
	if err != nil || len(local)%4 != 0 {
		return "", false
	}
	// Each 32-bit word is printed as a number of the machine's byte order,
	// which is little-endian wherever this runs.
	for i := 0; i < len(local); i += 4 {
		local[i], local[i+1], local[i+2], local[i+3] = local[i+3], local[i+2], local[i+1], local[i]
	}
	return f[9], zero(local) || zero(ip) || bytes.Equal(local, ip)
}

func zero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }

// holder finds a process with one of the sockets among its descriptors.
func holder(proc string, inodes map[string]bool) (Process, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return Process{}, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, e.Name())
		fds, err := os.ReadDir(filepath.Join(dir, "fd"))
		if err != nil {
			continue // it has ended, or is another user's
		}
		for _, fd := range fds {
			link, err := os.Readlink(filepath.Join(dir, "fd", fd.Name()))
			inode, ok := strings.CutPrefix(link, "socket:[")
			if err != nil || !ok || !inodes[strings.TrimSuffix(inode, "]")] {
				continue
			}
			name, err := os.ReadFile(filepath.Join(dir, "comm"))
			if err != nil {
				break
			}
			return Process{PID: pid, Name: strings.TrimSpace(string(name))}, nil
		}
	}
	return Process{}, &fs.PathError{Op: "find", Path: "the socket's process", Err: fs.ErrNotExist}
}
