package daemon

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// wantsStream reports whether the client asked for a line per value.
func wantsStream(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), api.NDJSON)
}

// lines writes a streamed answer: one JSON value per line.
type lines struct {
	w     http.ResponseWriter
	rc    *http.ResponseController
	enc   *json.Encoder
	begun bool
}

func newLines(w http.ResponseWriter) *lines {
	return &lines{w: w, rc: http.NewResponseController(w), enc: json.NewEncoder(w)}
}

// begin sends the header, so that the client knows that the stream is open.
func (l *lines) begin() error {
	if !l.begun {
		l.begun = true
		l.w.Header().Set("Content-Type", api.NDJSON)
		l.w.WriteHeader(http.StatusOK)
		return l.rc.Flush()
	}
	return nil
}

// put writes one value; flush sends what was put.
func (l *lines) put(v any) error {
	if err := l.begin(); err != nil {
		return err
	}
	return l.enc.Encode(v)
}

func (l *lines) flush() error { return l.rc.Flush() }

// copyLines puts what comes from in until it is closed. It flushes whenever
// there is nothing more at hand: a burst goes out in large pieces, and a
// single line at once.
func copyLines[T any](l *lines, in <-chan T) error {
	for v := range in {
		if err := l.put(v); err != nil {
			return err
		}
		if len(in) == 0 {
			if err := l.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// frames streams what a request does while it does it. Senders of what a create
// or start does never wait for the client: an operation that is being explained,
// and timed, must not be held up by whoever reads about it.
type frames struct {
	mu     sync.Mutex
	queue  []api.Frame
	wake   chan struct{} // holds one token when there may be something in queue
	taken  chan struct{} // holds one token when there may be room in queue
	closed bool
	done   chan struct{} // closed when the writer has ended
}

// maxQueue is how many frames post lets a client fall behind.
const maxQueue = 1024

func newFrames(w http.ResponseWriter) *frames {
	f := &frames{wake: make(chan struct{}, 1), taken: make(chan struct{}, 1), done: make(chan struct{})}
	go f.write(newLines(w))
	return f
}

func (f *frames) send(frame api.Frame) {
	f.mu.Lock()
	if !f.closed {
		f.queue = append(f.queue, frame)
	}
	f.mu.Unlock()
	f.kick()
}

// post is send for what may be much, the output of a build: it waits for a
// client that is slow.
func (f *frames) post(ctx context.Context, frame api.Frame) {
	for {
		f.mu.Lock()
		full := len(f.queue) >= maxQueue && !f.closed
		room := len(f.queue) < maxQueue-1
		if !full && !f.closed {
			f.queue = append(f.queue, frame)
		}
		f.mu.Unlock()
		if !full {
			f.kick()
			if room {
				signalOne(f.taken) // for another who waits
			}
			return
		}
		select {
		case <-f.taken:
		case <-f.done:
			return
		case <-ctx.Done():
			return
		}
	}
}

func signalOne(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (f *frames) kick() { signalOne(f.wake) }

// tracer returns a Tracer whose events go out as frames.
func (f *frames) tracer() *explain.Tracer {
	return explain.New("engine", os.Getpid(), func(ev explain.Event) {
		wire := api.Explain(ev)
		f.send(api.Frame{Explain: &wire})
	})
}

// end waits until everything is written. Until then the handler must not
// return: the ResponseWriter is in use.
func (f *frames) end() {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.kick()
	<-f.done
}

func (f *frames) write(l *lines) {
	defer func() {
		f.mu.Lock()
		f.closed, f.queue = true, nil // nobody will read it
		f.mu.Unlock()
		close(f.done)
	}()
	for range f.wake {
		f.mu.Lock()
		batch, closed := f.queue, f.closed
		f.queue = nil
		f.mu.Unlock()
		signalOne(f.taken)
		for _, frame := range batch {
			if l.put(frame) != nil {
				return // the client is gone, and its context tells the engine so
			}
		}
		if l.flush() != nil || closed {
			return
		}
	}
}
