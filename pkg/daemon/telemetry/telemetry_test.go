package telemetry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
}

// startServer returns a server on a free port of the loopback interface, and
// its URL.
func startServer(t *testing.T, discover Discover) (*Server, string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s := &Server{Metrics: say("daemon"), Containers: say("containers"), Alerts: say("alerts"), Discover: discover, Log: zap.NewNop()}
	s.Start(ctx)
	if err := s.ServeAt(netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Fatal(err)
	}
	at, ok := s.Address()
	if !ok {
		t.Fatal("no address")
	}
	return s, "http://" + at.String()
}

func fetch(t *testing.T, url string, edit ...func(*http.Request)) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range edit {
		e(req)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error(), nil
	}
	return resp.StatusCode, string(b), resp.Header
}

func TestRoutes(t *testing.T) {
	s, url := startServer(t, nil)
	for path, want := range map[string]string{"/metrics": "daemon", "/metrics/cadvisor": "containers", "/alerts": "alerts"} {
		if code, body, _ := fetch(t, url+path); code != 200 || body != want {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
	for _, path := range []string{"/", "/targets", "/metrics/", "/v1/containers"} {
		if code, _, _ := fetch(t, url+path); code != 404 {
			t.Errorf("%s: %d", path, code)
		}
	}
	if code, _, _ := fetch(t, url+"/metrics", func(r *http.Request) { r.Method = http.MethodPost }); code != 405 {
		t.Errorf("POST: %d", code)
	}
	at, _ := s.Address()
	for name, edit := range map[string]func(*http.Request){
		"rebound name":   func(r *http.Request) { r.Host = "evil.example:" + fmt.Sprint(at.Port()) },
		"other port":     func(r *http.Request) { r.Host = "127.0.0.1:1" },
		"no port":        func(r *http.Request) { r.Host = "127.0.0.1" },
		"web page":       func(r *http.Request) { r.Header.Set("Origin", "http://evil.example") },
		"null origin":    func(r *http.Request) { r.Header.Set("Origin", "null") },
		"browser's page": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-origin") },
	} {
		if code, body, _ := fetch(t, url+"/metrics", edit); code != 403 || strings.Contains(body, "daemon") {
			t.Errorf("%s: %d %q", name, code, body)
		}
	}
	if code, _, _ := fetch(t, url+"/metrics", func(r *http.Request) { r.Host = "localhost:" + fmt.Sprint(at.Port()) }); code != 200 {
		t.Errorf("localhost: %d", code)
	}
}

// TestNetwork: only this machine and the address's network are let in.
func TestNetwork(t *testing.T) {
	s := &Server{Metrics: say("daemon")}
	at, network := netip.MustParseAddrPort("172.30.0.1:5056"), netip.MustParsePrefix("172.30.0.0/16")
	h := s.guard(at, network, s.routes(at))
	ours := "127.0.0.1:1"
	if addrs, err := net.InterfaceAddrs(); err == nil {
		ours = netip.AddrPortFrom(netip.MustParsePrefix(addrs[len(addrs)-1].String()).Addr(), 1).String()
	}
	for from, want := range map[string]int{
		ours: 200, "172.30.0.7:1000": 200, "172.30.0.1:1": 200, "127.0.0.9:1": 200, "[::ffff:172.30.255.1]:9": 200,
		"172.31.0.1:1": 403, "10.0.0.1:1": 403, "[2001:db8::1]:1": 403, "": 403, "@": 403,
	} {
		r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
		r.RemoteAddr, r.Host = from, at.String()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %q: %d, want %d", from, w.Code, want)
		}
	}
}

func TestServeAt(t *testing.T) {
	s := &Server{Metrics: say("x")}
	if err := s.ServeAt(netip.MustParseAddr("127.0.0.1")); err == nil {
		t.Error("it serves before its start")
	}
	if _, ok := s.Status(); ok {
		t.Error("it has a status that nobody asked for")
	}
	ctx, stop := context.WithCancel(t.Context())
	s.Start(ctx)
	if err := s.ServeAt(netip.MustParseAddr("203.0.113.9")); err == nil || !strings.Contains(err.Error(), "no link of this host") {
		t.Errorf("an address of others: %v", err)
	}
	for range 2 {
		if err := s.ServeAt(netip.MustParseAddr("127.0.0.1")); err != nil {
			t.Fatal(err)
		}
	}
	at, _ := s.Address()
	if item, ok := s.Status(); !ok || item.State != "up" || item.Where != at.String() {
		t.Errorf("%+v, %t", item, ok)
	}
	// The network that was made anew has another gateway, and then the first one again.
	for _, now := range []string{"127.0.0.2", "127.0.0.1"} {
		if err := s.ServeAt(netip.MustParseAddr(now)); err != nil {
			t.Fatal(err)
		}
		if at, _ := s.Address(); at.Addr().String() != now {
			t.Errorf("the address is %s, want %s", at, now)
		}
	}
	// A second one finds the port taken, and says by whom.
	second := &Server{Port: at.Port(), Metrics: say("y")}
	second.Start(ctx)
	if err := second.ServeAt(at.Addr()); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("(pid %d)", os.Getpid())) {
		t.Errorf("a port that is taken: %v", err)
	}
	if item, ok := second.Status(); !ok || item.State != "degraded" || !strings.Contains(item.Note, "taken by") {
		t.Errorf("%+v, %t", item, ok)
	}
	stop()
	for range 500 {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			return
		}
		conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("it serves after its end")
}

func TestTargets(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/metrics":
			w.Header().Set("Content-Type", "text/plain; version=0.0.4")
			fmt.Fprintf(w, "accept %s\n", r.Header.Get("Accept"))
		case "/elsewhere":
			http.Redirect(w, r, "http://203.0.113.1/", http.StatusFound)
		case "/endless":
			for range 20 {
				if _, err := w.Write(make([]byte, 1<<20)); err != nil {
					return
				}
			}
		default:
			http.Error(w, "no", http.StatusTeapot)
		}
	}))
	defer app.Close()
	var found []Target
	var failed atomic.Value
	_, url := startServer(t, func(context.Context) ([]Target, error) {
		err, _ := failed.Load().(error)
		return found, err
	})
	list := func() (code int, groups []group) {
		code, body, _ := fetch(t, url+"/targets")
		if code == 200 {
			if err := json.Unmarshal([]byte(body), &groups); err != nil {
				t.Fatalf("%s: %v", body, err)
			}
		}
		return code, groups
	}
	if code, body, h := fetch(t, url+"/targets"); code != 200 || strings.TrimSpace(body) != "[]" || h.Get("Content-Type") != "application/json" {
		t.Errorf("nothing: %d %q %v", code, body, h)
	}
	found = []Target{
		{Job: "app", Instance: "web", URL: app.URL + "/metrics", Labels: map[string]string{"container": "web", "__address__": "evil:1", "job": "x"}},
		{Job: "app", Instance: "away", URL: app.URL + "/elsewhere"},
		{Job: "app", Instance: "endless", URL: app.URL + "/endless"},
		{Job: "app", Instance: "broken", URL: app.URL + "/nothing"},
		{Job: "app", Instance: "dead", URL: "http://127.0.0.1:1/metrics"},
	}
	code, groups := list()
	if code != 200 || len(groups) != 5 {
		t.Fatalf("%d, %+v", code, groups)
	}
	path := map[string]string{}
	for _, g := range groups {
		path[g.Labels["instance"]] = g.Labels["__metrics_path__"]
		if len(g.Targets) != 1 || "http://"+g.Targets[0] != url || g.Labels["job"] != "app" || g.Labels["__address__"] != "" {
			t.Errorf("%+v", g)
		}
	}
	accept := func(r *http.Request) { r.Header.Set("Accept", "application/openmetrics-text") }
	if code, body, h := fetch(t, url+path["web"], accept); code != 200 || body != "accept application/openmetrics-text\n" || h.Get("Content-Type") != "text/plain; version=0.0.4" {
		t.Errorf("%d %q %v", code, body, h)
	}
	for instance, want := range map[string]int{"away": 302, "broken": 418, "dead": 502, "endless": 0} {
		if code, body, _ := fetch(t, url+path[instance]); code != want {
			t.Errorf("%s: %d %.80q, want %d", instance, code, body, want)
		}
	}
	found = found[1:]
	if code, _, _ := fetch(t, url+path["web"]); code != 404 {
		t.Errorf("one that is gone: %d", code)
	}
	// With a part of the truth Prometheus gets that, with none it keeps what it has.
	failed.Store(errors.New("no Docker"))
	if code, groups := list(); code != 200 || len(groups) != 4 {
		t.Errorf("%d, %+v", code, groups)
	}
	found = nil
	if code, _ := list(); code != 503 {
		t.Errorf("no truth: %d", code)
	}
	if code, _, _ := fetch(t, url+path["web"]); code != 503 {
		t.Errorf("one that may be gone: %d", code)
	}
	failed = atomic.Value{}
	for i := range 3 * maxTargets {
		found = append(found, Target{Job: "many", Instance: fmt.Sprint(i), URL: app.URL})
	}
	if code, groups := list(); code != 200 || len(groups) != maxTargets {
		t.Errorf("%d, %d targets", code, len(groups))
	}
}

func TestLocalStack(t *testing.T) {
	answer := `{"services": {"s3": "running", "dynamodb": "available", "ec2": "error", "ses": "disabled"}, "edition": "community", "version": "4.14.0"}`
	status := 200
	stack := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/_localstack/health" {
			http.NotFound(w, r)
			return
		}
		w.WriteHeader(status)
		fmt.Fprint(w, answer)
	}))
	defer stack.Close()
	target := LocalStack(strings.TrimPrefix(stack.URL, "http://"))
	_, url := startServer(t, func(context.Context) ([]Target, error) { return []Target{target}, nil })
	get := func() string {
		t.Helper()
		code, body, h := fetch(t, url+"/targets/"+target.key())
		if code != 200 || !strings.HasPrefix(h.Get("Content-Type"), "text/plain; version=0.0.4") {
			t.Fatalf("%d %s %v", code, body, h)
		}
		return body
	}
	body := get()
	for _, want := range []string{
		"# TYPE localstack_service_up gauge\n", "localstack_service_up{service=\"dynamodb\"} 1\n", "localstack_service_up{service=\"ec2\"} 0\n",
		"localstack_service_up{service=\"s3\"} 1\n", "localstack_info{edition=\"community\",version=\"4.14.0\"} 1\n", "probe_success 1\n", "\nprobe_duration_seconds 0",
	} {
		if strings.Count(body, want) != 1 {
			t.Errorf("%q is not there once:\n%s", want, body)
		}
	}
	if strings.Contains(body, "ses") {
		t.Errorf("disabled, but told of:\n%s", body)
	}
	status = 500
	if body := get(); !strings.Contains(body, "probe_success 0\n") || strings.Contains(body, "localstack_") {
		t.Error(body)
	}
	status, answer = 200, "{"
	if body := get(); !strings.Contains(body, "probe_success 1\n") || strings.Contains(body, "localstack_") {
		t.Error(body)
	}
	stack.Close()
	if body := get(); !strings.Contains(body, "probe_success 0\n") {
		t.Error(body)
	}
}

func TestContainers(t *testing.T) {
	labelled := func(more ...string) map[string]string {
		labels := map[string]string{"prometheus.io/scrape": "true"}
		for i := 0; i+1 < len(more); i += 2 {
			labels[more[i]] = more[i+1]
		}
		return labels
	}
	running := func(ip string, labels map[string]string) api.Container {
		return api.Container{Name: "web", Engine: "raw", Status: api.StatusRunning, IP: ip, Spec: api.ContainerSpec{Labels: labels}}
	}
	host := running("", labelled("prometheus.io/port", "9000"))
	host.Spec.Network.Mode = "host"
	exited := running("198.19.0.2", labelled())
	exited.Status = api.StatusExited
	for _, c := range []struct {
		name string
		in   api.Container
		url  string // "" for no target
	}{
		{"usual", running("198.19.0.2", labelled()), "http://198.19.0.2:8080/metrics"},
		{"port and path", running("198.19.0.2", labelled("prometheus.io/port", "81", "prometheus.io/path", "m/x")), "http://198.19.0.2:81/m/x"},
		{"host's network", host, "http://127.0.0.1:9000/metrics"},
		{"IPv6", running("fd00::2", labelled()), "http://[fd00::2]:8080/metrics"},
		{"no wish", running("198.19.0.2", nil), ""},
		{"no network", running("", labelled()), ""},
		{"exited", exited, ""},
		{"port of another host", running("198.19.0.2", labelled("prometheus.io/port", "80@evil")), ""},
		{"port 0", running("198.19.0.2", labelled("prometheus.io/port", "0")), ""},
		{"path of another host", running("198.19.0.2", labelled("prometheus.io/path", "@evil.example/")), "http://198.19.0.2:8080/@evil.example/"},
	} {
		got, err := Containers(func(context.Context) ([]api.Container, error) { return []api.Container{c.in}, nil })(t.Context())
		if err != nil || (len(got) == 1) != (c.url != "") || len(got) == 1 && (got[0].URL != c.url || got[0].Job != "web" || got[0].Labels["engine"] != "raw") {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	got, err := Join(
		func(context.Context) ([]Target, error) { return nil, errors.New("one") },
		func(context.Context) ([]Target, error) { return []Target{{Job: "a"}}, nil },
	)(t.Context())
	if err == nil || !slices.EqualFunc(got, []string{"a"}, func(g Target, job string) bool { return g.Job == job }) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestFormat(t *testing.T) {
	got := format([]Reading{{Name: "x", Help: "h", Labels: map[string]string{"b": "1\n\"\\", "a": "\xff"}, Value: 1.5}})
	if want := "# HELP x h\n# TYPE x gauge\nx{a=\"\uFFFD\",b=\"1\\n\\\"\\\\\"} 1.5\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
