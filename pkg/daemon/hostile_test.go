package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/user"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/client"
)

// raw sends a request as it is and returns the answer.
func (d *daemonTest) raw(request string) (*http.Response, api.Error) {
	d.t.Helper()
	conn, err := net.Dial("unix", d.dirs.Socket())
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	go func() { _, _ = io.WriteString(conn, request) }()
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		d.t.Fatalf("answer to %.60q: %v", request, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	var e api.Error
	if resp.StatusCode/100 != 2 {
		if err := json.Unmarshal(body, &e); err != nil {
			d.t.Errorf("error of %.60q is not JSON: %q", request, body)
		}
	}
	return resp, e
}

func post(path, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: sandbox\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

func TestHostileRequests(t *testing.T) {
	d := start(t)
	for _, tc := range []struct {
		name, request string
		status        int
		class, text   string
	}{
		{"no route", "GET /v1/nothing HTTP/1.1\r\nHost: sandbox\r\n\r\n", 404, api.ClassNotFound, "/v1/nothing"},
		{"no version", "GET /containers HTTP/1.1\r\nHost: sandbox\r\n\r\n", 404, api.ClassNotFound, "/containers"},
		{"unclean path", "GET //v1/../v1/version HTTP/1.1\r\nHost: sandbox\r\n\r\n", 404, api.ClassNotFound, ""},
		{"method", "PUT /v1/containers HTTP/1.1\r\nHost: sandbox\r\n\r\n", 405, api.ClassInvalidArgument, "GET, POST"},
		{"host", "GET /v1/version HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, api.ClassPermissionDenied, "evil.example"},
		{"proxied host", "GET http://evil.example/v1/version HTTP/1.1\r\nHost: sandbox\r\n\r\n", 403, api.ClassPermissionDenied, "evil.example"},
		{"origin", "GET /v1/version HTTP/1.1\r\nHost: sandbox\r\nOrigin: http://evil.example\r\n\r\n", 403, api.ClassPermissionDenied, "web pages"},
		{"null origin", "GET /v1/version HTTP/1.1\r\nHost: sandbox\r\nOrigin: null\r\n\r\n", 403, api.ClassPermissionDenied, "web pages"},
		{"query", "GET /v1/containers?al=1 HTTP/1.1\r\nHost: sandbox\r\n\r\n", 400, api.ClassInvalidArgument, `"al"`},
		{"bool", "DELETE /v1/containers/x?force=maybe HTTP/1.1\r\nHost: sandbox\r\n\r\n", 400, api.ClassInvalidArgument, "force"},
		{"time", "GET /v1/containers/x/logs?since=yesterday HTTP/1.1\r\nHost: sandbox\r\n\r\n", 400, api.ClassInvalidArgument, "since"},
		{"grace", post("/v1/containers/x/stop?grace=soon", ""), 400, api.ClassInvalidArgument, "grace"},
		{"size", post("/v1/sessions/x/resize?rows=70000&cols=1", ""), 400, api.ClassInvalidArgument, "rows"},
		{"no session", post("/v1/sessions/x/wait", ""), 404, api.ClassNotFound, "session"},
		{"no upgrade", post("/v1/containers/x/attach", ""), 400, api.ClassInvalidArgument, "Upgrade"},
		{"empty body", post("/v1/containers", ""), 400, api.ClassInvalidArgument, "empty"},
		{"not JSON", post("/v1/containers", "{image"), 400, api.ClassInvalidArgument, "request body"},
		{"wrong type", post("/v1/containers", `{"image":7}`), 400, api.ClassInvalidArgument, "image"},
		{"unknown field", post("/v1/containers", `{"image":"x","imagine":1}`), 400, api.ClassInvalidArgument, `unknown field "imagine"`},
		{"two values", post("/v1/containers", `{"image":"x"} {"image":"y"}`), 400, api.ClassInvalidArgument, "more than one"},
		{"deep", post("/v1/containers", strings.Repeat("[", 20000)), 400, api.ClassInvalidArgument, ""},
		{"huge body", post("/v1/containers", `{"image":"`+strings.Repeat("x", maxBody)+`"}`), 413, api.ClassInvalidArgument, "larger than"},
		{"huge header", "GET /v1/version HTTP/1.1\r\nHost: sandbox\r\nX: " + strings.Repeat("x", 2*maxHeader) + "\r\n\r\n", 431, "", ""},
		{"encoded ref", "GET /v1/containers/..%2f..%2fetc HTTP/1.1\r\nHost: sandbox\r\n\r\n", 404, api.ClassNotFound, "../../etc"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.class == "" { // answered by the server itself, as text
				conn, err := net.Dial("unix", d.dirs.Socket())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				go func() { _, _ = io.WriteString(conn, tc.request) }()
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != tc.status {
					t.Errorf("%+v, %v", resp, err)
				}
				return
			}
			resp, e := d.raw(tc.request)
			if resp.StatusCode != tc.status || e.Class != tc.class || !strings.Contains(e.Message, tc.text) {
				t.Errorf("%s: %s %q, want %d %s %q", resp.Status, e.Class, e.Message, tc.status, tc.class, tc.text)
			}
		})
	}
	if all, err := d.ListContainers(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("after all that: %v, %v", all, err)
	}
}

func TestPanic(t *testing.T) {
	d := start(t)
	d.engine.panics = true
	_, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "cat"}, nil)
	wantClass(t, err, api.ClassInternal, "its own code")
	if strings.Contains(err.Error(), "goroutine") {
		t.Errorf("the client is shown a stack: %v", err)
	}
	// In a stream the status is out already; what counts is that it ends.
	if _, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "cat"}, func(api.Frame) {}); err == nil {
		t.Error("no error in the stream")
	}
	d.engine.panics = false
	if _, err := d.CreateContainer(t.Context(), api.ContainerSpec{Image: "cat"}, nil); err != nil {
		t.Errorf("after the panic: %v", err)
	}
}

// TestSlow: clients that send a header or a body a byte at a time are cut off,
// and a stream that is slow by nature is not: the deadline of the answer that
// came before it on its connection does not reach into it.
func TestSlow(t *testing.T) {
	t.Parallel()
	d := start(t)
	t.Run("stream", func(t *testing.T) {
		t.Parallel()
		if _, err := d.Version(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		got, ended := make(chan string, 4), make(chan error, 1)
		go func() {
			ended <- d.Events(ctx, func(e api.Event) error { got <- e.Action; return nil })
		}()
		time.Sleep(sendTimeout + time.Second)
		if _, err := d.CreateContainer(ctx, api.ContainerSpec{Image: "cat"}, nil); err != nil {
			t.Fatal(err)
		}
		select {
		case <-got:
		case err := <-ended:
			t.Errorf("the stream has ended: %v", err)
		case <-time.After(5 * time.Second):
			t.Error("no event")
		}
	})
	for name, begin := range map[string]string{
		"header":       "GET /v1/version HTTP/1.1\r\nHost: san",
		"body":         "POST /v1/containers HTTP/1.1\r\nHost: sandbox\r\nContent-Length: 100\r\n\r\n{",
		"unread body":  "POST /v1/containers/x/pause HTTP/1.1\r\nHost: sandbox\r\nContent-Length: 100\r\n\r\n{",
		"chunked body": "POST /v1/up HTTP/1.1\r\nHost: sandbox\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("unix", d.dirs.Socket())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, _ = io.Copy(io.Discard, conn)
			}()
			_, _ = io.WriteString(conn, begin)
			deadline := time.After(bodyTimeout + headerTimeout + 5*time.Second)
			for {
				select {
				case <-ended:
					return
				case <-deadline:
					t.Fatal("still connected")
				case <-time.After(time.Second):
					_, _ = io.WriteString(conn, "x")
				}
			}
		})
	}
}

// as runs fn on a thread with other credentials, which then ends. Linux has
// credentials per thread (credentials(7)); a raw system call changes only ours.
func as(t *testing.T, uid, gid int, groups []uint32, fn func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var first *uint32
		if len(groups) > 0 {
			first = &groups[0]
		}
		for _, call := range setCredentials(uid, gid, groups, first) {
			if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
				t.Errorf("system call %d: %v", call[0], errno)
				return
			}
		}
		fn()
	}()
	<-done
}

func TestPeers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to connect as others")
	}
	const nobody = 65534
	group, gid := existingGroup(t)
	d := start(t, func(c *Config) { c.Group = group })
	fi, err := os.Stat(d.dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); fi.Mode().Perm() != 0o660 || st.Uid != 0 || int(st.Gid) != gid {
		t.Errorf("socket: %v %d:%d", fi.Mode(), st.Uid, st.Gid)
	}
	// dial makes the connection on the thread with the credentials.
	version := func() error {
		conn, err := net.Dial("unix", d.dirs.Socket())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET /v1/version HTTP/1.1\r\nHost: sandbox\r\n\r\n")
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode == 200 {
			return nil
		}
		var e api.Error
		if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
			return err
		}
		return &e
	}
	as(t, nobody, nobody, nil, func() {
		if err := version(); err == nil || !strings.Contains(err.Error(), "permission denied") {
			t.Errorf("a stranger and the file's mode: %v", err)
		}
		c := client.New(d.dirs.Socket())
		defer c.Close()
	})
	if err := os.Chmod(d.dirs.Socket(), 0o666); err != nil {
		t.Fatal(err)
	}
	as(t, nobody, nobody, []uint32{nobody, 12345}, func() {
		err := version()
		wantClass(t, err, api.ClassPermissionDenied, "user 65534 may not use")
	})
	as(t, nobody, nobody, []uint32{12345, uint32(gid)}, func() {
		if err := version(); err != nil {
			t.Errorf("a member by a supplementary group: %v", err)
		}
	})
	as(t, nobody, gid, nil, func() {
		if err := version(); err != nil {
			t.Errorf("a member by the first group: %v", err)
		}
	})
}

// existingGroup returns a group of this machine that root is not in.
func existingGroup(t *testing.T) (string, int) {
	t.Helper()
	for _, name := range []string{"sandbox", "daemon", "mail", "users"} {
		if g, err := user.LookupGroup(name); err == nil {
			var gid int
			fmt.Sscan(g.Gid, &gid)
			return name, gid
		}
	}
	t.Skip("no group of a known name in /etc/group")
	return "", 0
}
