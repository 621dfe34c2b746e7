package raw

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

func TestUserNamespace(t *testing.T) {
	dir := ""
	if os.Getenv("SANDBOX_VM") != "" {
		dir = "/mnt/disk" // the tmpfs of its kernel has no ID-mapped mounts
	}
	h := newHostBelow(t, dir)
	e := h.open(t)
	defer purge(t, e)
	var started [2]api.Container
	for i := range started {
		started[i] = launch(t, e, api.ContainerSpec{
			UserNS: "auto", Network: api.Network{Mode: "bridge"},
			Command: shell("id -u; cat /proc/self/uid_map; echo mine >/root/file && cat /etc/hosts >/dev/null && echo read; ls -ln /bin/sh | awk '{print $3}'; sleep 0.2"),
		})
	}
	for i, c := range started {
		if exit, err := e.Wait(within(t, time.Minute), c.ID); err != nil || exit.Code != 0 {
			t.Errorf("%+v, %v", exit, err)
		}
		b, err := os.ReadFile(c.LogPath)
		if err != nil {
			t.Fatal(err)
		}
		uid := autoIDBase + i*autoIDSize
		for _, want := range []string{`"log":"0\n"`, strconv.Itoa(uid) + " ", `"log":"read\n"`} {
			if !strings.Contains(string(b), want) {
				t.Errorf("container %d wrote %s, want %s", i, b, want)
			}
		}
		info, err := os.Stat(filepath.Join(h.dirs.Container(c.ID).Upper(), "root/file"))
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(uid) {
			t.Errorf("its file on the host: %+v, %v; want owner %d", info, err, uid)
		}
	}
}

// TestSharedPIDNamespace: the end of the first process is the container's,
// also where the kernel does not see to that, and orphans are waited for.
func TestSharedPIDNamespace(t *testing.T) {
	e, h := newEngine(t)
	c := launch(t, e, api.ContainerSpec{PIDMode: "host", Command: shell("(sleep 0.1; echo orphan) & sleep 1000 & echo $!; sleep 0.5; exit 7")})
	if exit, err := e.Wait(within(t, time.Minute), c.ID); err != nil || exit.Code != 7 {
		t.Errorf("%+v, %v", exit, err)
	}
	r, err := e.Logs(t.Context(), c.ID, engine.LogOptions{Tail: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	first, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(first.Data))
	if err != nil {
		t.Fatal(err)
	}
	if second, err := r.Next(); err != nil || second.Data != "orphan\n" {
		t.Errorf("%+v, %v", second, err)
	}
	if ours(pid, h) {
		t.Errorf("process %d is still there", pid)
	}

	first2 := launch(t, e, api.ContainerSpec{Name: "sbt-first", Init: true, Command: []string{"sleep", "1000"}})
	out := output(t, e, api.ContainerSpec{PIDMode: "container:sbt-first", Command: shell("cat /proc/1/cmdline | tr '\\0' ' '")})
	if !strings.Contains(out, "sleep 1000") {
		t.Errorf("in %s's PID namespace: %s", first2.Name, out)
	}
}

func TestPrivileged(t *testing.T) {
	e, _ := newEngine(t)
	out := output(t, e, api.ContainerSpec{Privileged: true, Command: shell("mkdir /m && mount -t tmpfs none /m && echo mounted; test -e /dev/kmsg && echo devices")})
	if !strings.Contains(out, "mounted") || !strings.Contains(out, "devices") {
		t.Error(out)
	}
	out = output(t, e, api.ContainerSpec{Command: shell("mkdir /m && mount -t tmpfs none /m || echo refused")})
	if !strings.Contains(out, "refused") {
		t.Error(out)
	}
}

// TestLogRotation: one who follows meets every line once, through all rotations,
// and the log stays within its bounds.
func TestLogRotation(t *testing.T) {
	e, h := newEngine(t)
	const n = 300_000 // some 22 MB of log: two rotations
	c, err := e.Create(within(t, time.Minute), api.ContainerSpec{
		Image: testImage, Network: api.Network{Mode: "none"}, Command: []string{"seq", strconv.Itoa(n)},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.Logs(t.Context(), c.ID, engine.LogOptions{Tail: -1, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := e.Start(within(t, time.Minute), c.ID, nil); err != nil {
		t.Fatal(err)
	}
	for i := 1; ; i++ {
		l, err := r.Next()
		if errors.Is(err, io.EOF) {
			if i != n+1 {
				t.Errorf("the log ends before line %d", i)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if l.Data != strconv.Itoa(i)+"\n" {
			t.Fatalf("line %d is %q", i, l.Data)
		}
	}
	files := h.dirs.Container(c.ID)
	for i := range logFiles {
		info, err := os.Stat(files.RotatedLog(i))
		if err != nil || info.Size() > logSize {
			t.Errorf("%s: %+v, %v", files.RotatedLog(i), info, err)
		}
	}
	tail, err := e.Logs(t.Context(), c.ID, engine.LogOptions{Tail: 150_000})
	if err != nil {
		t.Fatal(err)
	}
	defer tail.Close()
	if l, err := tail.Next(); err != nil || l.Data != fmt.Sprintf("%d\n", n-150_000+1) {
		t.Errorf("tail over a rotation begins with %+v, %v", l, err)
	}
}
