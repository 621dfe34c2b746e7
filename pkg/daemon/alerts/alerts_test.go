package alerts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// sent is what Alertmanager 0.28 posts, as it was received.
const sent = `{"receiver":"sandbox","status":"firing","alerts":[
 {"status":"firing","labels":{"alertname":"HighErrorRate","severity":"critical"},"annotations":{"summary":"High error rate detected"},"startsAt":"2026-11-26T00:10:00.123Z","endsAt":"0001-01-01T00:00:00Z","generatorURL":"http://127.0.0.1:9090/graph?g0.expr=x","fingerprint":"c2d4d0e5b6d1f0aa"},
 {"status":"resolved","labels":{"alertname":"TargetDown","severity":"warning","job":"node"},"annotations":{},"startsAt":"2026-11-26T00:00:00Z","endsAt":"2026-11-26T00:09:00Z","generatorURL":"","fingerprint":"aa01"}],
 "groupLabels":{"alertname":"HighErrorRate"},"commonLabels":{},"commonAnnotations":{},"externalURL":"http://127.0.0.1:9093","version":"4","groupKey":"{}:{alertname=\"HighErrorRate\"}","truncatedAlerts":0}`

func newStore(t *testing.T) *Store {
	t.Helper()
	return &Store{Path: filepath.Join(t.TempDir(), "alerts.json")}
}

func post(s *Store, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/alerts", strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestReceive(t *testing.T) {
	s := newStore(t)
	for range 3 { // Alertmanager reminds
		if w := post(s, sent); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
	}
	again := &Store{Path: s.Path} // after a restart
	list := again.List()
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	a, b := list[0], list[1]
	if a.Name != "HighErrorRate" || a.Status != api.AlertFiring || a.Labels["severity"] != "critical" || a.Annotations["summary"] != "High error rate detected" ||
		!a.EndsAt.IsZero() || !a.StartsAt.Equal(time.Date(2026, 11, 26, 0, 10, 0, 123e6, time.UTC)) || a.Repeated != 2 || a.LastReceived.Before(a.Received) || a.Received.IsZero() {
		t.Errorf("%+v", a)
	}
	if b.Status != api.AlertResolved || b.EndsAt.IsZero() || b.Fingerprint != "aa01" {
		t.Errorf("%+v", b)
	}
	if again.Last() != a.LastReceived {
		t.Errorf("last: %v", again.Last())
	}
	// What has ended and fires again is news.
	if w := post(again, strings.ReplaceAll(sent, `"resolved"`, `"firing"`)); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	if w := post(again, sent); w.Code != http.StatusOK {
		t.Fatal(w.Code, w.Body)
	}
	var states []string
	for _, x := range again.List() {
		if x.Fingerprint == "aa01" {
			states = append(states, x.Status)
		}
	}
	if fmt.Sprint(states) != "[resolved firing resolved]" {
		t.Error(states)
	}
}

func TestRefused(t *testing.T) {
	s := newStore(t)
	big := strings.Replace(sent, "High error rate detected", strings.Repeat("x", maxAlert), 1)
	many := `{"version":"4","alerts":[` + strings.Repeat(`{"status":"firing"},`, maxAlerts) + `{}]}`
	for name, c := range map[string]struct {
		got  *httptest.ResponseRecorder
		code int
		text string
	}{
		"not JSON":    {post(s, "{"), 400, "notification"},
		"version":     {post(s, strings.Replace(sent, `"version":"4"`, `"version":"5"`, 1)), 400, `"5"`},
		"no version":  {post(s, `{"alerts":[]}`), 400, "version"},
		"status":      {post(s, strings.Replace(sent, `"resolved"`, `"maybe"`, 1)), 400, "maybe"},
		"no name":     {post(s, strings.Replace(sent, `"alertname":"HighErrorRate",`, "", 1)), 400, "alert 0 lacks"},
		"large alert": {post(s, big), 400, "bytes"},
		"many":        {post(s, many), 400, "501 alerts"},
		"endless":     {post(s, `{"version":"4","x":"`+strings.Repeat("x", maxBody)), 413, "too large"},
		"web form":    {post(s, sent, "Content-Type", "text/plain"), 415, "application/json"},
		"another verb": {func() *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			s.ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
			return w
		}(), 405, "posted"},
		"wrong type":    {post(s, `{"version":4}`), 400, "notification"},
		"deep nesting":  {post(s, strings.Repeat(`{"x":`, 20000)), 400, "notification"},
		"null as alert": {post(s, `{"version":"4","alerts":[null]}`), 400, "status"},
	} {
		if c.got.Code != c.code || !strings.Contains(c.got.Body.String(), c.text) {
			t.Errorf("%s: %d %q, want %d with %q", name, c.got.Code, c.got.Body, c.code, c.text)
		}
	}
	if list := s.List(); len(list) != 0 {
		t.Errorf("refused, but kept: %+v", list)
	}
	if w := post(s, `{"version":"4","alerts":[],"truncatedAlerts":7}`); w.Code != 200 {
		t.Errorf("an empty one: %d", w.Code)
	}
}

func alert(i int) api.Alert {
	now := time.Date(2026, 1, 1, 0, 0, i, 0, time.UTC)
	return api.Alert{Status: api.AlertFiring, Name: "A", Labels: map[string]string{"alertname": "A"}, Fingerprint: fmt.Sprint(i), StartsAt: now, Received: now}
}

func TestKeep(t *testing.T) {
	s := newStore(t)
	s.Keep = 5
	for i := range 12 {
		if err := s.Add([]api.Alert{alert(i), alert(100 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	list := (&Store{Path: s.Path, Keep: 5}).List()
	if len(list) != 5 || list[4].Fingerprint != "111" || list[0].Fingerprint != "109" {
		t.Errorf("%+v", list)
	}
}

// TestNotKept: what is not on disk has not been received.
func TestNotKept(t *testing.T) {
	dir := t.TempDir()
	blocked := filepath.Join(dir, "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Store{Path: filepath.Join(blocked, "alerts.json")}
	if w := post(s, sent); w.Code != http.StatusInternalServerError {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if list := s.List(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	// Alertmanager tries again, with room by then.
	if err := os.Remove(blocked); err != nil {
		t.Fatal(err)
	}
	if w := post(s, sent); w.Code != http.StatusOK || len(s.List()) != 2 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestBrokenFile(t *testing.T) {
	s := newStore(t)
	if err := os.WriteFile(s.Path, []byte(`[{"status":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Add([]api.Alert{alert(1)}); err != nil {
		t.Fatal(err)
	}
	if list := (&Store{Path: s.Path}).List(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}

func TestFollow(t *testing.T) {
	s := newStore(t)
	if err := s.Add([]api.Alert{alert(1)}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got, ended := make(chan api.Alert, 10), make(chan error, 1)
	go func() { ended <- s.Follow(ctx, func(a api.Alert) error { got <- a; return nil }) }()
	if a := <-got; a.Fingerprint != "1" {
		t.Errorf("kept: %+v", a)
	}
	if err := s.Add([]api.Alert{alert(1), alert(2)}); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a.Fingerprint != "2" { // not the reminder
		t.Errorf("news: %+v", a)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	boom := errors.New("boom")
	if err := s.Follow(t.Context(), func(api.Alert) error { return boom }); !errors.Is(err, boom) {
		t.Error(err)
	}
	if len(s.subs) != 0 {
		t.Errorf("%d listeners are left", len(s.subs))
	}
}

// TestSlowListener: it does not hold up what arrives.
func TestSlowListener(t *testing.T) {
	s := newStore(t)
	block, ended := make(chan struct{}), make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		first := true
		ended <- s.Follow(t.Context(), func(api.Alert) error {
			if first {
				first = false
				close(begun)
			}
			<-block
			return nil
		})
	}()
	var batch []api.Alert
	for i := range 2 * behind {
		batch = append(batch, alert(i))
	}
	for {
		if err := s.Add(batch[:1]); err != nil {
			t.Fatal(err)
		}
		s.mu.Lock()
		n := len(s.subs)
		s.mu.Unlock()
		if n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := s.Add(batch); err != nil {
		t.Fatal(err)
	}
	<-begun
	close(block)
	if err := <-ended; !errors.Is(err, ErrBehind) {
		t.Error(err)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(sent)
	f.Add(`{"version":"4","alerts":[{}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		s := newStore(t)
		w := post(s, body)
		if w.Code == http.StatusInternalServerError {
			t.Fatal(w.Body)
		}
		list := s.List()
		if w.Code != http.StatusOK && len(list) > 0 {
			t.Fatalf("%d, but kept", w.Code)
		}
		if again := (&Store{Path: s.Path}).List(); len(again) != len(list) {
			t.Fatalf("%d of %d on disk", len(again), len(list))
		}
		if _, err := json.Marshal(list); err != nil {
			t.Fatal(err)
		}
	})
}
