package registry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/socket"
	"go.uber.org/zap"
)

// DefaultAddr is where a Server listens: on the loopback interface only, for it
// asks nobody who they are.
const DefaultAddr = "127.0.0.1:5055"

// Off is the address of a Server that does not listen.
const Off = "off"

// Timeouts of the server; a blob may take as long as it likes.
const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
)

// Server serves a registry on a TCP address, for as long as it can: a port that
// is taken is no reason not to run.
type Server struct {
	Store *image.Store
	// Addr is IP:PORT; port 0 is a free one. Off, or empty, for none.
	Addr string
	// Upstream and Log are as in Options.
	Upstream func(ctx context.Context, ref string) (image.Image, error)
	Log      *zap.Logger

	mu   sync.Mutex
	at   net.Addr // nil until it listens
	note string   // why it does not
}

// CheckAddr says what is wrong with an address for a Server.
func CheckAddr(addr string) error {
	if addr == "" || addr == Off {
		return nil
	}
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return fmt.Errorf("registry address %q: not IP:PORT nor %s: %w", addr, Off, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Start serves in the background until ctx ends. What keeps it from that is in
// its status.
func (s *Server) Start(ctx context.Context) {
	if s.Addr == "" || s.Addr == Off {
		return
	}
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", s.Addr)
	if err != nil {
		s.failed(explain(s.Addr, err))
		return
	}
	host, _, _ := net.SplitHostPort(s.Addr) // it could be listened on
	server := &http.Server{
		Handler: New(s.Store, Options{
			Upstream: s.Upstream, Context: ctx, Hosts: []string{host}, Log: s.Log,
		}),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          zap.NewStdLog(s.Log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	s.mu.Lock()
	s.at, s.note = listener.Addr(), ""
	s.mu.Unlock()
	s.Log.Info("registry serves", zap.String("address", listener.Addr().String()), zap.Bool("upstream", s.Upstream != nil))
	context.AfterFunc(ctx, func() { _ = server.Close() }) // ends Serve
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.failed(err.Error())
		}
	}()
}

// failed records why there is no registry.
func (s *Server) failed(note string) {
	s.mu.Lock()
	s.at, s.note = nil, note
	s.mu.Unlock()
	s.Log.Warn("there is no registry", zap.String("reason", note))
}

// explain names the process that has the port, if it can be found.
func explain(addr string, err error) string {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err.Error()
	}
	note := "the port is taken"
	if at, perr := netip.ParseAddrPort(addr); perr == nil {
		if owner, oerr := socket.Listener("/proc", "tcp", at.Addr().AsSlice(), at.Port()); oerr == nil {
			note = "the port is taken by " + owner.String()
		}
	}
	return note + "; another one: sandbox daemon --registry IP:PORT, or SANDBOX_REGISTRY in its environment"
}

// Status is the server as one row of a listing; false if it is off.
func (s *Server) Status() (api.StatusItem, bool) {
	if s.Addr == "" || s.Addr == Off {
		return api.StatusItem{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	item := api.StatusItem{What: "registry", Where: s.Addr, State: "degraded", Note: s.note}
	if s.at != nil {
		item.Where, item.State, item.Note = s.at.String(), "up", "read-only, of the local store"
		if s.Upstream != nil {
			item.Note += "; pulls through"
		}
	}
	return item, true
}
