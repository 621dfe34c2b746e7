package daemon

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

const (
	// exitKept is how long the exit of an exec can be asked for.
	exitKept = time.Minute
	// lingerTimeout is how long a client may take to close its side once it
	// has all the output.
	lingerTimeout = 10 * time.Second
)

// sessions are the attaches and execs that have a stream or a process, so that
// a request beside the stream can find them.
type sessions struct {
	mu   sync.Mutex
	byID map[string]*session
}

// session is one engine.Session in use.
type session struct {
	engine.Session
	id    string
	ended chan struct{} // closed when code and err are final
	code  int
	err   error
}

func newSessions() *sessions { return &sessions{byID: map[string]*session{}} }

func (s *sessions) add(es engine.Session) *session {
	var id [16]byte
	rand.Read(id[:]) // never fails; crypto/rand
	sess := &session{Session: es, id: hex.EncodeToString(id[:]), ended: make(chan struct{})}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.byID[sess.id] = sess
	return sess
}

func (s *sessions) find(id string) (*session, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sess := s.byID[id]; sess != nil {
		return sess, nil
	}
	return nil, fmt.Errorf("session %q: %w", id, errdefs.ErrNotFound)
}

func (s *sessions) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.byID, id)
}

// closeAll ends all streams; the processes run on.
func (s *sessions) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sess := range s.byID {
		_ = sess.Close() // of a connection to a shim that outlives it
	}
}

func (d *Daemon) postAttach(w http.ResponseWriter, r *http.Request) error {
	if !wantsUpgrade(r) {
		return errNoUpgrade
	}
	c, err := d.Engine.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	es, err := d.Engine.Attach(r.Context(), c.ID)
	if err != nil {
		return err
	}
	sess := d.sessions.add(es)
	defer d.sessions.drop(sess.id)
	err = d.stream(w, r, sess, c.Spec.TTY)
	return errors.Join(err, sess.Close())
}

func (d *Daemon) postExec(w http.ResponseWriter, r *http.Request) error {
	var spec api.ExecSpec
	if err := decodeBody(w, r, &spec); err != nil {
		return err
	}
	c, err := d.Engine.Inspect(r.Context(), r.PathValue("ref"))
	if err != nil {
		return err
	}
	es, err := d.Engine.Exec(r.Context(), c.ID, spec)
	if err != nil {
		return err
	}
	d.events.publish(api.EventExec, c)
	sess := d.sessions.add(es)
	d.work.Go(func() { d.reap(sess) })
	if !wantsUpgrade(r) {
		d.work.Go(func() {
			// Unread output would fill the pipe and stop the process.
			_, _ = io.Copy(io.Discard, sess)
			<-sess.ended
			_ = sess.Close()
		})
		return respond(w, http.StatusCreated, api.Session{ID: sess.id})
	}
	err = d.stream(w, r, sess, spec.TTY)
	if err == nil {
		// All output is out; the process may live a little longer, and Close
		// before its end would lose the exit code.
		select {
		case <-sess.ended:
		case <-d.stopping.Done():
		}
	}
	return errors.Join(err, sess.Close())
}

// reap keeps the exit of an exec for as long as it may be asked for.
func (d *Daemon) reap(sess *session) {
	sess.code, sess.err = sess.Wait(d.alive)
	close(sess.ended)
	select {
	case <-time.After(exitKept):
	case <-d.stopping.Done():
	}
	d.sessions.drop(sess.id)
}

func (d *Daemon) postSessionWait(w http.ResponseWriter, r *http.Request) error {
	sess, err := d.sessions.find(r.PathValue("id"))
	if err != nil {
		return err
	}
	select {
	case <-sess.ended:
	case <-r.Context().Done():
		return context.Cause(r.Context())
	}
	if sess.err != nil {
		return sess.err
	}
	return respond(w, http.StatusOK, api.Exit{Code: sess.code, At: time.Now().UTC()})
}

func (d *Daemon) postResize(w http.ResponseWriter, r *http.Request) error {
	rows, err := querySize(r, "rows")
	if err != nil {
		return err
	}
	cols, err := querySize(r, "cols")
	if err != nil {
		return err
	}
	sess, err := d.sessions.find(r.PathValue("id"))
	if err == nil {
		err = sess.Resize(rows, cols)
	}
	if err != nil {
		return err
	}
	return respond(w, http.StatusNoContent, nil)
}

func (d *Daemon) postSessionKill(w http.ResponseWriter, r *http.Request) error {
	sess, err := d.sessions.find(r.PathValue("id"))
	if err == nil {
		err = sess.Signal(signalOf(r))
	}
	if err != nil {
		return err
	}
	return respond(w, http.StatusNoContent, nil)
}

var errNoUpgrade = fmt.Errorf("this route needs Connection: Upgrade and Upgrade: %s: %w", api.StreamProtocol, errdefs.ErrInvalidArgument)

// wantsUpgrade reports whether the client asks to switch to a byte stream.
func wantsUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], api.StreamProtocol)
}

// hasToken looks for one of a header's comma-separated words (RFC 9110, 5.6.1).
func hasToken(values []string, token string) bool {
	for _, value := range values {
		for word := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(word), token) {
				return true
			}
		}
	}
	return false
}

// stream switches the connection to the session's bytes and copies them both
// ways. It returns nil when the client has all the output, and an error when
// the client or the daemon ended the stream before that. The request's context
// is of no use here: it does not follow a connection that was taken over.
func (d *Daemon) stream(w http.ResponseWriter, r *http.Request, sess *session, tty bool) error {
	// The server's Shutdown does not wait for such a connection, we do.
	d.work.Add(1)
	defer d.work.Done()
	c, in, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	defer c.Close()
	w.(*response).status = http.StatusSwitchingProtocols
	conn := c.(*net.UnixConn)
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	kind := api.StreamFramed
	if tty {
		kind = api.StreamRaw
	}
	if _, err := fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n%s: %s\r\nContent-Type: %s\r\n\r\n",
		api.StreamProtocol, api.SessionHeader, sess.id, kind); err != nil {
		return err
	}
	output, gone := make(chan error, 1), make(chan struct{})
	go func() {
		_, err := io.Copy(conn, sess)
		output <- err
	}()
	go func() {
		defer close(gone)
		copyInput(sess, in.Reader, conn)
	}()

	select {
	case err := <-output:
		if err != nil {
			return fmt.Errorf("copy output: %w", err)
		}
	case <-gone:
		return errors.Join(errClientGone, sess.Close(), <-output)
	case <-d.stopping.Done():
		return errors.Join(errStopping, sess.Close(), <-output)
	}
	// Closing while bytes that the client sent are unread would show it a reset
	// connection in place of the end of the output. So end our side, and let
	// the client close its own.
	if conn.CloseWrite() == nil {
		select {
		case <-gone:
		case <-time.After(lingerTimeout):
		case <-d.stopping.Done():
		}
	}
	return nil
}

var errClientGone = errors.New("the client is gone")

// copyInput copies stdin to the session until the client ends it, and returns
// when the client is gone altogether.
func copyInput(sess *session, in io.Reader, conn *net.UnixConn) {
	if _, err := io.Copy(sess, in); err != nil {
		// Most likely the process has closed its stdin. That is no reason to
		// end its output; what the client still sends has no reader.
		_, _ = io.Copy(io.Discard, in)
	}
	_ = sess.CloseWrite() // fails if the process has ended, which Read tells
	_ = hangup(conn)      // fails if the connection is closed here, likewise
}
