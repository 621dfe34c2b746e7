package daemon

import (
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// eventBuffer is how many events a subscriber may be behind before it is cut
// off: it must not hold up the work that the events are about.
const eventBuffer = 256

// events hands container events to whoever listens.
type events struct {
	mu   sync.Mutex
	subs map[chan api.Event]struct{}
}

func newEvents() *events { return &events{subs: map[chan api.Event]struct{}{}} }

// subscribe returns a channel of events from now on, which is closed if its
// reader falls behind, and the function that ends the subscription.
func (e *events) subscribe() (<-chan api.Event, func()) {
	ch := make(chan api.Event, eventBuffer)
	e.mu.Lock()
	e.subs[ch] = struct{}{}
	e.mu.Unlock()
	return ch, func() {
		e.mu.Lock()
		delete(e.subs, ch)
		e.mu.Unlock()
	}
}

// publish stamps and sends an event about a container.
func (e *events) publish(action string, c api.Container, more ...func(*api.Event)) {
	ev := api.Event{Time: time.Now().UTC(), Action: action, ID: c.ID, Name: c.Name, Image: c.Image}
	for _, m := range more {
		m(&ev)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for ch := range e.subs {
		select {
		case ch <- ev:
		default:
			delete(e.subs, ch)
			close(ch)
		}
	}
}
