package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

func sampleStatus() api.StackStatus {
	return api.StackStatus{
		Daemon: api.Version{Version: "1.0"}, PID: 7, Took: 83 * time.Second,
		Services: []api.StatusItem{{What: "registry", Where: "127.0.0.1:5055", State: "up"}},
		Stages: []api.StageStatus{
			{Name: "internals", Status: "up", Took: 1200 * time.Millisecond, Images: []api.UsedImage{{Name: "toolbox", From: "built-in", Source: "built-in"}},
				Items: []api.StatusItem{{What: "network", Where: "sandbox0", State: "up", Note: "nftables"}}},
			{Name: "docker", Status: "down", Items: []api.StatusItem{{What: "engine", Where: "/var/run/docker.sock", State: "down", Note: "no engine runs"}}},
			{Name: "monitoring", Status: "degraded", Took: 70 * time.Second,
				Images: []api.UsedImage{
					{Name: "prometheus", From: "recipe prometheus"}, {Name: "grafana", From: "registry docker.io"}, {Name: "alertmanager", From: "recipe alertmanager"},
					{Name: "node-exporter", From: "local store", Source: "archive"}, {Name: "x", From: "archive stack.tar"},
				},
				Items: []api.StatusItem{
					{What: "grafana", Where: "http://127.0.0.1:3001", State: "up", Access: "user admin, password admin"},
					{What: "prometheus", Where: "http://127.0.0.1:9090", State: "down", Note: "exit code 1\x1b[31m"},
				}},
			{Name: "aws", Status: "degraded", Error: "it broke"},
		},
	}
}

func TestStatusTable(t *testing.T) {
	got := strings.Join(statusTable(ui.Style{}, sampleStatus()).Lines(ui.Style{}), "\n")
	want := `WHAT          WHERE                  STATE     NOTE
daemon        process 7              up        version 1.0
  registry    127.0.0.1:5055         up
internals                            up        took 1.2 s; image built-in
  network     sandbox0               up        nftables
docker                               down      no engine runs
monitoring                           degraded  took 1 min 10 s; images: 2 from recipes, 1 from registry docker.io, 1 from the local store (archive), 1 from archive stack.tar
  grafana     http://127.0.0.1:3001  up        user admin, password admin
  prometheus  http://127.0.0.1:9090  down      exit code 1\x1b[31m
aws                                  degraded  it broke`
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if f := strings.Join(statusFooter(sampleStatus()), "|"); f != "|the last up took 1 min 23 s" {
		t.Errorf("footer %q", f)
	}
	if f := statusFooter(api.StackStatus{}); f != nil {
		t.Errorf("footer of nothing %q", f)
	}
}

// TestStatusTableNarrow: nothing is wider than the terminal, and nothing is lost.
func TestStatusTableNarrow(t *testing.T) {
	table := statusTable(ui.Style{}, sampleStatus())
	table.Width = 80
	lines := table.Lines(ui.Style{})
	for _, line := range lines {
		if ui.Width(line) >= 80 {
			t.Errorf("%d cells: %s", ui.Width(line), line)
		}
	}
	got := strings.Join(strings.Fields(strings.Join(lines, " ")), " ")
	if !strings.Contains(got, "monitoring degraded took 1 min 10 s; images: 2 from recipes, 1 from registry docker.io, 1 from the local store (archive), 1 from archive stack.tar grafana") {
		t.Errorf("%s", strings.Join(lines, "\n"))
	}
}

func TestStatusNews(t *testing.T) {
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.Local)
	var n statusNews
	s := sampleStatus()
	lines := func(running bool) string {
		var out []string
		for _, c := range n.of(s, running, now) {
			out = append(out, c.line(ui.Style{}))
		}
		return strings.Join(out, "\n")
	}
	if first := lines(true); strings.Count(first, "\n") != 8 || !strings.HasPrefix(first, "12:00:00  daemon  up  process 7  version 1.0\n") {
		t.Errorf("at first:\n%s", first)
	}
	if again := lines(true); again != "" {
		t.Errorf("no news:\n%s", again)
	}
	s.Stages[2].Status = "up"
	s.Stages[2].Items[1] = api.StatusItem{What: "prometheus", Where: "http://127.0.0.1:9090", State: "up"}
	want := "12:00:00  monitoring  up  took 1 min 10 s; images: 2 from recipes, 1 from registry docker.io, 1 from the local store (archive), 1 from archive stack.tar\n" +
		"12:00:00  monitoring  prometheus  up  http://127.0.0.1:9090"
	if got := lines(true); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if got := lines(false); got != "12:00:00  daemon  down  it is not running" {
		t.Errorf("got\n%s", got)
	}
	if got := lines(true); strings.Count(got, "\n") != 8 {
		t.Errorf("when it is back:\n%s", got)
	}
}
