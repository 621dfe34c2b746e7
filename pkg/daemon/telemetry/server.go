// Package telemetry is what the daemon has with Prometheus and Alertmanager:
// an HTTP server that containers reach, at the gateway of their network. It
// hands out metrics, says what else there is to scrape, and receives alerts.
package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/socket"
)

// DefaultPort is beside the registry's.
const DefaultPort = 5056

// Paths of the server.
const (
	MetricsPath    = "/metrics"          // the daemon's own
	ContainersPath = "/metrics/cadvisor" // the raw engine's containers; as in a kubelet
	TargetsPath    = "/targets"          // http_sd; TargetsPath/KEY is one target's metrics
	AlertsPath     = "/alerts"           // where Alertmanager posts
)

// Timeouts of the server: all that it does is soon done.
const (
	headerTimeout = 5 * time.Second
	readTimeout   = 10 * time.Second
	writeTimeout  = 20 * time.Second
	idleTimeout   = 2 * time.Minute
	maxHeader     = 16 << 10 // bytes
)

// Server serves at the addresses that ServeAt is told, and at none before.
type Server struct {
	// Port is the same at every address; 0 for a free one.
	Port uint16
	// Metrics and Containers answer MetricsPath and ContainersPath, Alerts
	// AlertsPath.
	Metrics, Containers, Alerts http.Handler
	// Discover finds what there is to scrape; may be nil.
	Discover Discover
	Log      *zap.Logger

	mu   sync.Mutex
	ctx  context.Context  //nolint:containedctx // of Start, which the listeners that come later end with
	at   []netip.AddrPort // the last is the current one
	note string           // why it does not listen where it should
}

// Start has what ServeAt begins end with ctx.
func (s *Server) Start(ctx context.Context) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ctx = ctx
	if s.Log == nil {
		s.Log = zap.NewNop()
	}
}

// ServeAt serves at an address of this host, to this host and to those in the
// address's network: a gateway is the way of its containers, and not of machines
// beyond.
func (s *Server) ServeAt(addr netip.Addr) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx == nil {
		return fmt.Errorf("telemetry at %s: not started: %w", addr, errdefs.ErrFailedPrecondition)
	}
	if i := slices.IndexFunc(s.at, func(a netip.AddrPort) bool { return a.Addr() == addr }); i >= 0 {
		at := s.at[i]
		s.at = append(slices.Delete(s.at, i, i+1), at)
		return nil
	}
	network, err := networkOf(addr)
	if err != nil {
		return fmt.Errorf("telemetry at %s: %w", addr, err)
	}
	hostport := netip.AddrPortFrom(addr, s.Port)
	var config net.ListenConfig
	listener, err := config.Listen(s.ctx, "tcp", hostport.String())
	if err != nil {
		s.note = explain(hostport, err)
		return fmt.Errorf("telemetry at %s: %s: %w", hostport, s.note, errdefs.ErrFailedPrecondition)
	}
	at := listener.Addr().(*net.TCPAddr).AddrPort()
	server := &http.Server{
		Handler:           s.guard(at, network, s.routes(at)),
		ReadHeaderTimeout: headerTimeout, ReadTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader,
		ErrorLog:       zap.NewStdLog(s.Log),
		BaseContext:    func(net.Listener) context.Context { return s.ctx },
	}
	s.at, s.note = append(s.at, at), ""
	s.Log.Info("telemetry serves", zap.Stringer("address", at), zap.Stringer("network", network))
	context.AfterFunc(s.ctx, func() { _ = server.Close() }) // ends Serve
	go func() {
		err := server.Serve(listener)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.at = slices.DeleteFunc(s.at, func(a netip.AddrPort) bool { return a == at })
		if !errors.Is(err, http.ErrServerClosed) {
			s.note = err.Error()
			s.Log.Warn("telemetry", zap.Stringer("address", at), zap.Error(err))
		}
	}()
	return nil
}

// networkOf finds the network that this host is in with an address.
func networkOf(addr netip.Addr) (netip.Prefix, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, a := range all {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		ip, _ := netip.AddrFromSlice(ipnet.IP)
		ones, _ := ipnet.Mask.Size()
		ip = ip.Unmap()
		if p := netip.PrefixFrom(ip, ones).Masked(); ip == addr || addr.IsLoopback() && p.Contains(addr) {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("no link of this host has the address: %w", errdefs.ErrFailedPrecondition)
}

// explain names the process that has the port, if it can be found.
func explain(at netip.AddrPort, err error) string {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return err.Error()
	}
	if owner, oerr := socket.Listener("/proc", "tcp", at.Addr().AsSlice(), at.Port()); oerr == nil {
		return "the port is taken by " + owner.String()
	}
	return "the port is taken"
}

// Address is the one that ServeAt was told last: Docker's network, made anew, may
// have another. False if it serves at none.
func (s *Server) Address() (netip.AddrPort, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.at) == 0 {
		return netip.AddrPort{}, false
	}
	return s.at[len(s.at)-1], true
}

// Status is the server as one row of a listing; false if nobody has asked for
// it.
func (s *Server) Status() (api.StatusItem, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case len(s.at) > 0:
		return api.StatusItem{What: "telemetry", Where: s.at[len(s.at)-1].String(), State: "up", Note: "metrics, targets and alerts, for Docker's network"}, true
	case s.note != "":
		return api.StatusItem{What: "telemetry", State: "degraded", Note: s.note}, true
	}
	return api.StatusItem{}, false
}

// routes are the answers at one address.
func (s *Server) routes(at netip.AddrPort) http.Handler {
	mux := http.NewServeMux()
	for path, h := range map[string]http.Handler{"GET " + MetricsPath: s.Metrics, "GET " + ContainersPath: s.Containers, AlertsPath: s.Alerts} {
		if h != nil {
			mux.Handle(path, h)
		}
	}
	if s.Discover != nil {
		t := &targets{discover: s.Discover, at: at, log: s.Log, client: newClient()}
		mux.HandleFunc("GET "+TargetsPath, t.list)
		mux.HandleFunc("GET "+TargetsPath+"/{key}", t.relay)
	}
	return mux
}

// isOurs reports whether a connection comes from this host or the network. This
// host may show any of its addresses: Docker's rule for masquerading applies to
// what it sends to itself, too. That others borrow one, the kernel prevents.
func isOurs(from netip.Addr, network netip.Prefix) bool {
	if network.Contains(from) || from.IsLoopback() {
		return true
	}
	_, err := networkOf(from)
	return err == nil
}

// guard keeps out whom the server is not for: machines that are routed to the
// address, and web pages, which name themselves by Origin, or call us by a
// name of theirs (DNS rebinding).
func (s *Server) guard(at netip.AddrPort, network netip.Prefix, next http.Handler) http.Handler {
	port := strconv.Itoa(int(at.Port()))
	hosts := []string{at.String(), net.JoinHostPort("localhost", port), net.JoinHostPort("127.0.0.1", port)}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		from, err := netip.ParseAddrPort(r.RemoteAddr)
		switch {
		case err != nil || !isOurs(from.Addr().Unmap(), network):
			http.Error(w, "this is for the containers of this machine", http.StatusForbidden)
		case !slices.Contains(hosts, r.Host):
			http.Error(w, "this is not to be called "+strconv.Quote(r.Host), http.StatusForbidden)
		case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
			http.Error(w, "this is not for browsers", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
