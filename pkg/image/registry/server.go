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
	ctx  context.Context //nolint:containedctx // of Start, which the listeners that come later end with
	at   net.Addr        // nil until it listens
	note string          // why it does not
	also map[netip.Addr]bool
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
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	if err := s.begin(); err != nil {
		s.Log.Warn("there is no registry", zap.Error(err))
	}
}

// begin listens at Addr; s.mu is held.
func (s *Server) begin() error {
	at, err := s.listen(s.ctx, s.Addr)
	if err != nil {
		err := &listenError{s.Addr, err}
		s.note = err.Error() + "; " + err.Hint()
		return err
	}
	s.at, s.note = at, ""
	s.Log.Info("registry serves", zap.Stringer("address", at), zap.Bool("upstream", s.Upstream != nil))
	return nil
}

// ServeAt serves at a further address of this host as well, with the same port,
// for as long as what Start has begun: containers do not reach the loopback
// interface, but the gateway of their network. A Server that could not listen
// tries again.
func (s *Server) ServeAt(addr netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return fmt.Errorf("there is no registry: it is off: %w", errdefs.ErrFailedPrecondition)
	}
	if s.at == nil {
		if err := s.begin(); err != nil {
			return fmt.Errorf("there is no registry: %w", err)
		}
	}
	port := s.at.(*net.TCPAddr).AddrPort().Port()
	if s.also[addr] || s.at.(*net.TCPAddr).AddrPort().Addr().Unmap() == addr {
		return nil
	}
	hostport := netip.AddrPortFrom(addr, port).String()
	if _, err := s.listen(s.ctx, hostport); err != nil {
		return fmt.Errorf("there is no registry: %w", &listenError{hostport, err})
	}
	if s.also == nil {
		s.also = map[netip.Addr]bool{}
	}
	s.also[addr] = true
	s.Log.Info("registry serves", zap.String("address", hostport))
	return nil
}

// listen serves at an address in the background until ctx ends.
func (s *Server) listen(ctx context.Context, hostport string) (net.Addr, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", hostport)
	if err != nil {
		return nil, err
	}
	host, _, _ := net.SplitHostPort(hostport) // it could be listened on
	server := &http.Server{
		Handler: New(s.Store, Options{
			Upstream: s.Upstream, Context: ctx, Hosts: []string{host}, Log: s.Log,
		}),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		ErrorLog:          zap.NewStdLog(s.Log),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	context.AfterFunc(ctx, func() { _ = server.Close() }) // ends Serve
	go func() {
		err := server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			return
		}
		if hostport == s.Addr {
			s.failed(err.Error())
			return
		}
		s.mu.Lock()
		delete(s.also, listener.Addr().(*net.TCPAddr).AddrPort().Addr())
		s.mu.Unlock()
		s.Log.Warn("registry", zap.String("address", hostport), zap.Error(err))
	}()
	return listener.Addr(), nil
}

// failed records why there is no registry.
func (s *Server) failed(note string) {
	s.mu.Lock()
	s.at, s.note = nil, note
	s.mu.Unlock()
	s.Log.Warn("there is no registry", zap.String("reason", note))
}

// listenError says who has an address that cannot be listened on.
type listenError struct {
	addr string
	err  error
}

func (e *listenError) Error() string {
	if !errors.Is(e.err, syscall.EADDRINUSE) {
		return e.err.Error()
	}
	owner := "another program"
	if at, err := netip.ParseAddrPort(e.addr); err == nil {
		if who, err := socket.Listener("/proc", "tcp", at.Addr().AsSlice(), at.Port()); err == nil {
			owner = who.String()
		}
	}
	return "port " + e.addr + " is taken by " + owner
}

func (e *listenError) Unwrap() error { return errdefs.ErrFailedPrecondition }

func (e *listenError) Hint() string {
	return "stop that, or give the registry another port: sandbox daemon --registry IP:PORT, or SANDBOX_REGISTRY in the daemon's environment"
}

// Address is where it listens, or would.
func (s *Server) Address() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at != nil {
		return s.at.String()
	}
	return s.Addr
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
