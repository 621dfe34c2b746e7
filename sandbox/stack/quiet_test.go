package stack_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// quietFor is how long a stack that nobody touches is to raise no alert.
const quietFor = 5 * time.Minute

// quiet waits until Prometheus has run that long, and asks it for every alert of
// the time: only Watchdog may have fired, and that of verify, which is its own.
func (s *sandbox) quiet() {
	s.t.Helper()
	c, err := dockertest.Client(s.t).ContainerInspect(s.t.Context(), "sandbox-prometheus")
	if err != nil {
		s.t.Fatal(err)
	}
	since, err := time.Parse(time.RFC3339Nano, c.State.StartedAt)
	if err != nil {
		s.t.Fatal(err)
	}
	begun := time.Now()
	time.Sleep(time.Until(since.Add(quietFor)))
	waited := time.Since(begun)
	window := fmt.Sprintf("[%ds]", int(time.Since(since).Seconds()))
	for _, alert := range s.query(`max_over_time(ALERTS{alertname!~"Watchdog|SandboxVerify"}` + window + `)`) {
		s.t.Logf("%s: %v", alert.Metric["alertstate"], alert.Metric)
		if alert.Metric["alertstate"] == "firing" {
			s.t.Errorf("in %s fired %v", window, alert.Metric)
		}
	}
	// Rules were evaluated all the time.
	watchdog := s.query(`count_over_time(ALERTS{alertname="Watchdog",alertstate="firing"}` + window + `)`)
	every := s.query(`prometheus_rule_group_interval_seconds{rule_group=~".*targets.*"}`)
	if len(watchdog) != 1 || len(every) != 1 {
		s.t.Fatalf("Watchdog: %v, every %v", watchdog, every)
	}
	if lasted := time.Duration(watchdog[0].number(s) * every[0].number(s) * float64(time.Second)); lasted < quietFor-30*time.Second {
		s.t.Errorf("Watchdog fired for %v only", lasted)
	}
	s.t.Logf("measured: nothing but Watchdog fires in the %.0f s after the start (of which %.0f s only for this)", time.Since(since).Seconds(), waited.Seconds())
}

// sample is one of an instant vector.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (v sample) number(s *sandbox) float64 {
	s.t.Helper()
	f, err := strconv.ParseFloat(fmt.Sprint(v.Value[1]), 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return f
}

// query asks Prometheus.
func (s *sandbox) query(q string) []sample {
	s.t.Helper()
	resp, err := http.Get("http://127.0.0.1:9090/api/v1/query?query=" + url.QueryEscape(q))
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Error string
		Data  struct{ Result []sample }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Error != "" {
		s.t.Fatalf("%s: %v, %s", q, err, answer.Error)
	}
	return answer.Data.Result
}
