// Package shim is the process that stands between the daemon and one
// container: `sandbox-runtime shim`. It makes the container with the runtime,
// in-process, and is the parent of its first process; it holds the container's
// mounts, terminal and pipes, writes its log and, at the end, its exit code.
// So neither of these is lost when the daemon is.
//
//	daemon                          shim                            container
//	  | fork+exec, own mount namespace |                                |
//	  | --- Request{prepare} (fd 3) -> | mount overlay                  |
//	  | <------------ Reply ---------- |                                |
//	  |   (writes config.json)         |                                |
//	  | ---- Request{create} --------> | runtime create                 |
//	  |                                | -----------------------------> | waits
//	  | <------------ Reply{pid} ----- |                                |
//	  |   (connects its network)       |                                |
//	  | ---- Request{start} ---------> | -----------------------------> | execve
//	  |                                | <----------- output, exit ---- |
//	  | <--- Reply{exit} (to wait) --- | exit.json                      |
//	  | <--- end of connection ------- | cgroup, mounts removed         |
//
// This runs once per container, so start-up time and memory count: no package
// net, no logging library.
package shim

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
)

// requestFD is the descriptor of the connection that the daemon hands down.
const requestFD = 3

// The daemon sends the first request at once, and the second when it has
// written the bundle. It may have died instead.
const (
	requestTimeout = 10 * time.Second
	createTimeout  = time.Minute
)

// Name is what the process calls itself (comm, at most 15 bytes).
const Name = "sandbox-shim"

// Main is the hidden command `shim FOLDER`. FOLDER, the container's run
// folder, is there to be seen in /proc/PID/cmdline: by it the daemon finds
// shims whose container it has no record of.
func Main(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: sandbox-runtime shim FOLDER (started by the daemon)")
		return 2
	}
	prepareProcess()
	conn, err := protocol.NewConn(requestFD)
	if err != nil {
		fmt.Fprintln(os.Stderr, "shim:", err)
		return 1
	}
	s, err := setUp(conn)
	if err != nil {
		fmt.Fprintln(os.Stderr, "shim:", err)
		return 1
	}
	s.sessions.Go(func() { s.serve(conn) })
	go s.accept()
	s.run()
	return 0
}

// setUp takes the daemon's first two requests. On an error nothing is left of
// what they asked for, and the daemon has been told if it is still there.
func setUp(conn *protocol.Conn) (*shim, error) {
	_ = conn.SetReadDeadline(time.Now().Add(requestTimeout))
	var req protocol.Request
	if err := conn.ReadJSON(protocol.Requested, &req); err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	if req.Op != protocol.OpPrepare || req.Container == nil {
		return nil, fmt.Errorf("first request is %q, not prepare", req.Op)
	}
	s := newShim(*req.Container)
	a := newAnswer(conn, req.Explain)
	fail := func(err error) (*shim, error) {
		err = s.undo.Run(err)
		a.fail(err)
		return nil, err
	}
	if err := s.prepare(a); err != nil {
		return fail(err)
	}
	if err := a.final(protocol.Reply{PID: os.Getpid(), Ports: s.ports}); err != nil {
		return fail(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(createTimeout))
	if err := conn.ReadJSON(protocol.Requested, &req); err != nil {
		return fail(fmt.Errorf("read request: %w", err))
	}
	if req.Op != protocol.OpCreate {
		return fail(fmt.Errorf("second request is %q, not create", req.Op))
	}
	_ = conn.SetReadDeadline(time.Time{})
	if err := s.create(context.Background(), a); err != nil {
		return fail(err)
	}
	if err := a.final(protocol.Reply{PID: s.init.pid}); err != nil {
		// The daemon died meanwhile, and has told nobody of this container:
		// run sees its end, and cleans up.
		warn(err)
		_ = s.reaper.signal(s.init.pid, unix.SIGKILL)
	}
	return s, nil
}

// prepareProcess sets what belongs to the whole process.
func prepareProcess() {
	// A shim outlives whoever started it: its terminal, its session, its
	// service. The signals are caught and dropped rather than ignored, which
	// the container's processes would inherit.
	signal.Notify(make(chan os.Signal, 1), unix.SIGHUP, unix.SIGINT, unix.SIGTERM, unix.SIGPIPE)
	// Most containers are short, and none is worth collecting garbage while
	// it is being made; settle is for those that stay.
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(memoryLimit)
	unix.CloseOnExec(requestFD)
	_ = os.WriteFile("/proc/self/comm", []byte(Name), 0)
	// Orphans of a container that shares the host's PID namespace come to us.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "shim: prctl PR_SET_CHILD_SUBREAPER:", err)
	}
	// If memory runs out, the container is to go, not the one who tells of it.
	// Needs CAP_SYS_RESOURCE; the container gets its own value from config.json.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(oomScoreAdj)), 0)
}

// A shim is idle nearly always, and there is one for each container: some time
// after its start it gives back the memory that it took.
const (
	memoryLimit = 32 << 20 // bytes, until then
	settleTime  = time.Second
)

// settle is called when the container runs.
func settle() {
	time.AfterFunc(settleTime, func() {
		debug.SetGCPercent(50)
		debug.FreeOSMemory()
	})
}

// oomScoreAdj is what containerd, too, gives its shims: -1000 would exempt them.
const oomScoreAdj = -999
