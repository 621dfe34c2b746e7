package client

import (
	"context"
	"net"
	"net/http/httptrace"
	"sync"
	"time"
)

// undoTimeout is how long the daemon may take to undo what a request has made:
// longer than what it allows itself.
const undoTimeout = 15 * time.Second

// definite returns a context for a request whose outcome must be known. When
// ctx ends, the request is not torn down, which would leave open whether its
// work was done. Only our side of its connection is closed: by that the daemon
// cancels the work, and its answer, still to be read, says how it ended. An
// answer that takes longer than undoTimeout is given up.
func definite(ctx context.Context) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var mu sync.Mutex
	var conn *net.UnixConn
	var giveUp *time.Timer
	own = httptrace.WithClientTrace(own, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) {
			mu.Lock()
			defer mu.Unlock()
			conn, _ = info.Conn.(*net.UnixConn)
		},
	})
	stop := context.AfterFunc(ctx, func() {
		mu.Lock()
		defer mu.Unlock()
		if conn == nil || conn.CloseWrite() != nil {
			cancel() // nothing was sent yet, or nobody is there
			return
		}
		giveUp = time.AfterFunc(undoTimeout, cancel)
	})
	return own, func() {
		stop()
		mu.Lock()
		defer mu.Unlock()
		if giveUp != nil {
			giveUp.Stop()
		}
		cancel()
	}
}
