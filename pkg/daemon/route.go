package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"go.uber.org/zap"
)

// access is what a route does to the machine. Whoever may use the socket may
// do both; a write is logged with who asked for it, and is refused while the
// daemon stops.
type access int

const (
	read access = iota
	write
)

// How long a route takes.
type length int

const (
	// short: the daemon waits for it when it stops.
	short length = iota
	// long: it ends when the daemon stops, at any point. Streams are long, and
	// so is waiting for something.
	long
	// bulk is long, and has a body of any size, which may take its time.
	bulk
)

// route is one line of the API.
type route struct {
	method, path string
	access       access
	length       length
	query        []string // the parameters it knows; others are refused
	handle       func(*Daemon, http.ResponseWriter, *http.Request) error
}

// routes is the whole API, under api.Prefix. A path's {ref} is a container's
// ID, a unique prefix of it, or its name.
var routes = []route{
	{"GET", "/version", read, short, nil, (*Daemon).getVersion},
	{"GET", "/status", read, short, nil, (*Daemon).getStatus},
	{"GET", "/events", read, long, nil, (*Daemon).getEvents},
	{"GET", "/alerts", read, long, []string{"follow"}, (*Daemon).getAlerts},

	// A path's {ref} is an image's name, or an ID or digest, escaped.
	{"GET", "/images", read, short, nil, (*Daemon).getImages},
	{"GET", "/images/{ref}", read, short, nil, (*Daemon).getImage},
	{"DELETE", "/images/{ref}", write, short, []string{"force"}, (*Daemon).deleteImage},
	{"POST", "/images/{ref}/tag", write, short, []string{"name"}, (*Daemon).postImageTag},
	{"GET", "/images/{ref}/layers", read, long, []string{"tree"}, (*Daemon).getImageLayers},
	{"GET", "/images/{ref}/sbom", read, long, nil, (*Daemon).getImageSBOM},
	{"GET", "/images/{ref}/files", read, long, []string{"folder"}, (*Daemon).getImageFiles},
	{"GET", "/images/{ref}/file", read, long, []string{"path"}, (*Daemon).getImageFile},
	{"GET", "/recipes", read, short, []string{"folder"}, (*Daemon).getRecipes},
	{"POST", "/pull", write, long, nil, (*Daemon).postPull},
	{"POST", "/build", write, long, nil, (*Daemon).postBuild},
	{"POST", "/import", write, bulk, []string{"name"}, (*Daemon).postImport},
	{"GET", "/export", read, long, []string{"name", "format"}, (*Daemon).getExport},
	{"POST", "/prune", write, long, nil, (*Daemon).postPrune},

	{"GET", "/containers", read, short, nil, (*Daemon).getContainers},
	{"POST", "/containers", write, short, nil, (*Daemon).postContainers},
	{"GET", "/containers/{ref}", read, short, nil, (*Daemon).getContainer},
	{"DELETE", "/containers/{ref}", write, short, []string{"force"}, (*Daemon).deleteContainer},
	{"POST", "/containers/{ref}/start", write, short, nil, (*Daemon).postStart},
	{"POST", "/containers/{ref}/stop", write, long, []string{"grace"}, (*Daemon).postStop},
	{"POST", "/containers/{ref}/kill", write, short, []string{"signal"}, (*Daemon).postKill},
	{"POST", "/containers/{ref}/pause", write, short, nil, (*Daemon).postPause},
	{"POST", "/containers/{ref}/unpause", write, short, nil, (*Daemon).postUnpause},
	{"POST", "/containers/{ref}/wait", read, long, nil, (*Daemon).postWait},
	{"GET", "/containers/{ref}/logs", read, long, []string{"follow", "tail", "since", "until"}, (*Daemon).getLogs},
	{"GET", "/containers/{ref}/stats", read, long, []string{"stream"}, (*Daemon).getStats},

	// Both switch to a byte stream; see api.StreamProtocol.
	{"POST", "/containers/{ref}/attach", write, long, nil, (*Daemon).postAttach},
	{"POST", "/containers/{ref}/exec", write, long, nil, (*Daemon).postExec},
	{"POST", "/sessions/{id}/resize", write, short, []string{"rows", "cols"}, (*Daemon).postResize},
	{"POST", "/sessions/{id}/kill", write, short, []string{"signal"}, (*Daemon).postSessionKill},
	{"POST", "/sessions/{id}/wait", read, long, nil, (*Daemon).postSessionWait},

	{"POST", "/up", write, short, nil, (*Daemon).postUp},
	{"POST", "/down", write, short, nil, (*Daemon).postDown},
	{"POST", "/verify", write, short, nil, (*Daemon).postVerify},
	{"GET", "/changes", read, short, nil, (*Daemon).getChanges},
	{"GET", "/changes/{id}", read, long, []string{"follow"}, (*Daemon).getChange},
	{"POST", "/changes/{id}/abort", write, long, []string{"alone"}, (*Daemon).postAbort},
}

// Bounds of one request.
const (
	maxBody     = 4 << 20          // bytes; a seccomp profile is the largest thing in one
	bodyTimeout = 10 * time.Second // for the body to arrive
	sendTimeout = 10 * time.Second // for an answer that is not a stream to be taken
)

// handler assembles the table into what serves a connection's requests.
func (d *Daemon) handler() http.Handler {
	mux := http.NewServeMux()
	methods := map[string][]string{}
	for _, rt := range routes {
		mux.Handle(rt.method+" "+api.Prefix+rt.path, d.serve(rt))
		methods[rt.path] = append(methods[rt.path], rt.method)
	}
	for p, allowed := range methods {
		mux.HandleFunc(api.Prefix+p, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Allow", strings.Join(allowed, ", "))
			refuse(w, http.StatusMethodNotAllowed, &api.Error{
				Class:   api.ClassInvalidArgument,
				Message: fmt.Sprintf("%s is not a method of %s: it has %s", r.Method, r.URL.Path, strings.Join(allowed, ", ")),
			})
		})
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		respondError(w, fmt.Errorf("no such route: %s %s: %w", r.Method, r.URL.Path, errdefs.ErrNotFound))
	})
	return d.guard(mux)
}

// guard keeps out whom the API is not for, before any route is looked at.
func (d *Daemon) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, _ := r.Context().Value(peerKey{}).(peerResult)
		switch {
		case who.err != nil:
			respondError(w, fmt.Errorf("%w: %w", who.err, errdefs.ErrPermissionDenied))
		case !who.mayUse(d.gid):
			refuse(w, http.StatusForbidden, &api.Error{
				Class:   api.ClassPermissionDenied,
				Message: fmt.Sprintf("user %d may not use the sandbox daemon: it is for root and the group %s", who.uid, d.Group),
				Hint:    fmt.Sprintf("run with sudo, or join the group: sudo usermod -aG %s $USER, then log in again (the group is equal to root)", d.Group),
			})
		// A browser reaches a unix socket only through somebody's proxy; then
		// it names itself by Origin, and a rebound DNS name by Host.
		case r.Header.Get("Origin") != "" || r.Header.Get("Sec-Fetch-Site") != "":
			respondError(w, fmt.Errorf("requests from web pages are refused: %w", errdefs.ErrPermissionDenied))
		case r.Host != api.Host && r.Host != "localhost":
			respondError(w, fmt.Errorf("host %q is refused: it must be %q: %w", r.Host, api.Host, errdefs.ErrPermissionDenied))
		case path.Clean(r.URL.Path) != r.URL.Path: // the mux would redirect
			respondError(w, fmt.Errorf("no such route: %s: %w", r.URL.Path, errdefs.ErrNotFound))
		default:
			next.ServeHTTP(w, r)
		}
	})
}

// serve makes the handler of one route.
func (d *Daemon) serve(rt route) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w := &response{ResponseWriter: rw}
		start := time.Now()
		defer func() {
			if v := recover(); v != nil {
				d.Log.Error("panic in a request", zap.String("route", rt.method+" "+rt.path),
					zap.Any("panic", v), zap.ByteString("stack", debug.Stack()))
				if w.status != 0 {
					panic(http.ErrAbortHandler) // too late to answer: break the connection off
				}
				refuse(w, http.StatusInternalServerError, &api.Error{
					Class:   api.ClassInternal,
					Message: "the daemon met an error in its own code",
					Hint:    "its log has the details: " + d.Dirs.DaemonLog(),
				})
			}
			if rt.access == write {
				who := r.Context().Value(peerKey{}).(peerResult)
				d.Log.Info("request", zap.String("method", r.Method), zap.String("path", r.URL.Path),
					zap.Uint32("uid", who.uid), zap.Int("pid", who.pid),
					zap.Int("status", w.status), zap.Duration("took", time.Since(start)))
			}
		}()
		for name := range r.URL.Query() {
			if !slices.Contains(rt.query, name) {
				respondError(w, fmt.Errorf("unknown query parameter %q: %w", name, errdefs.ErrInvalidArgument))
				return
			}
		}
		if rt.access == write && d.stopping.Err() != nil {
			respondError(w, fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable))
			return
		}
		if rt.length != short {
			ctx, cancel := context.WithCancelCause(r.Context())
			defer cancel(nil)
			defer context.AfterFunc(d.stopping, func() { cancel(errStopping) })()
			r = r.WithContext(ctx)
		}
		rc := http.NewResponseController(w)
		// The answer to an earlier request on this connection had a deadline
		// (respond), which must not end this one's.
		if err := rc.SetWriteDeadline(time.Time{}); err != nil {
			respondError(w, err)
			return
		}
		if r.ContentLength != 0 && rt.length != bulk {
			// Until decodeBody has read it. A body that no handler reads is held
			// to the same by the server, which discards it.
			if err := rc.SetReadDeadline(start.Add(bodyTimeout)); err != nil {
				respondError(w, err)
				return
			}
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		}
		if err := rt.handle(d, w, r); err != nil {
			if cause := context.Cause(r.Context()); cause == errStopping {
				err = fmt.Errorf("%w: %w", errStopping, errdefs.ErrUnavailable)
			}
			if w.status == 0 {
				respondError(w, err)
			} else {
				// The answer is under way and cannot carry it.
				d.Log.Debug("stream ends", zap.String("path", r.URL.Path), zap.Error(err))
			}
		}
	})
}

// response knows whether an answer has begun.
type response struct {
	http.ResponseWriter
	status int
}

func (w *response) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// respond answers with v as JSON, or with nothing if v is nil.
func respond(w http.ResponseWriter, status int, v any) error {
	// A client that does not read its answer must not keep the handler. Not
	// every writer can have a deadline (one that was hijacked): then it is
	// not needed either.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(sendTimeout))
	if v == nil {
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(b, '\n'))
	return err
}

func respondError(w http.ResponseWriter, err error) {
	e, status := wireError(err)
	refuse(w, status, e)
}

func refuse(w http.ResponseWriter, status int, e *api.Error) {
	_ = respond(w, status, e) // it encodes, and a client that is gone needs no answer
}
