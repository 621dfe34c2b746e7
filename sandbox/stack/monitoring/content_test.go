package monitoring

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := fs.ReadFile(Files, name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dashboard is Grafana's JSON model, as far as it is used here:
// https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
type dashboard struct {
	UID           string         `json:"uid"`
	Title         string         `json:"title"`
	Description   string         `json:"description"`
	Tags          []string       `json:"tags"`
	SchemaVersion int            `json:"schemaVersion"`
	Version       int            `json:"version"`
	Editable      bool           `json:"editable"`
	GraphTooltip  int            `json:"graphTooltip"`
	Refresh       string         `json:"refresh"`
	Time          map[string]any `json:"time"`
	Timezone      string         `json:"timezone"`
	Templating    any            `json:"templating"`
	Annotations   any            `json:"annotations"`
	Links         []any          `json:"links"`
	Panels        []panel        `json:"panels"`
}

type panel struct {
	ID          int    `json:"id"`
	Type        string `json:"type"`
	Title       string `json:"title"`
	Description string `json:"description"`
	Collapsed   *bool  `json:"collapsed"`
	Datasource  source `json:"datasource"`
	GridPos     struct {
		X, Y, W, H int
	} `json:"gridPos"`
	Targets []struct {
		RefID        string `json:"refId"`
		Datasource   source `json:"datasource"`
		Expr         string `json:"expr"`
		LegendFormat string `json:"legendFormat"`
		Instant      bool   `json:"instant"`
	} `json:"targets"`
	FieldConfig struct {
		Defaults  map[string]any `json:"defaults"`
		Overrides []any          `json:"overrides"`
	} `json:"fieldConfig"`
	Options map[string]any `json:"options"`
	Panels  []panel        `json:"panels"`
}

type source struct{ Type, UID string }

// sources are the data sources that are provisioned, by uid.
func sources(t *testing.T) map[string]string {
	t.Helper()
	var file struct {
		Datasources []struct{ UID, Type, URL string }
	}
	if err := yaml.Unmarshal(read(t, "grafana/provisioning/datasources/prometheus.yml"), &file); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, d := range file.Datasources {
		if !strings.HasPrefix(d.URL, "http://") {
			t.Errorf("data source %s has URL %q", d.UID, d.URL)
		}
		found[d.UID] = d.Type
	}
	return found
}

func TestDashboards(t *testing.T) {
	known := sources(t)
	files, err := fs.Glob(Files, "grafana/dashboards/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, file := range files {
		var d dashboard
		dec := json.NewDecoder(strings.NewReader(string(read(t, file))))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&d); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if d.UID+".json" != filepath.Base(file) || d.Title == "" || d.SchemaVersion < 39 || len(d.Panels) == 0 {
			t.Errorf("%s: uid %q, title %q, schema %d, %d panels", file, d.UID, d.Title, d.SchemaVersion, len(d.Panels))
		}
		ids, taken := map[int]bool{}, map[[2]int]string{}
		for _, p := range d.Panels {
			where := file + ": panel " + p.Title
			if p.ID == 0 || ids[p.ID] || p.Title == "" {
				t.Errorf("%s: no ID of its own, or no title", where)
			}
			ids[p.ID] = true
			g := p.GridPos
			if g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
				t.Errorf("%s is at %+v: a dashboard has 24 columns", where, g)
			}
			for x := g.X; x < g.X+g.W; x++ {
				for y := g.Y; y < g.Y+g.H; y++ {
					if other := taken[[2]int{x, y}]; other != "" {
						t.Fatalf("%s covers %s", where, other)
					}
					taken[[2]int{x, y}] = p.Title
				}
			}
			if p.Type == "row" {
				if len(p.Targets) > 0 || len(p.Panels) > 0 {
					t.Errorf("%s: a row that is open has neither queries nor panels", where)
				}
				continue
			}
			if p.Description == "" || p.FieldConfig.Defaults["unit"] == nil {
				t.Errorf("%s: what it shows, and in which unit, must be said", where)
			}
			if known[p.Datasource.UID] != p.Datasource.Type || p.Datasource.Type != "prometheus" {
				t.Errorf("%s: data source %+v is not provisioned", where, p.Datasource)
			}
			refs := map[string]bool{}
			for _, target := range p.Targets {
				if target.RefID == "" || refs[target.RefID] || target.Datasource != p.Datasource || strings.TrimSpace(target.Expr) == "" || strings.Contains(target.Expr, "$") {
					t.Errorf("%s: query %+v", where, target)
				}
				refs[target.RefID] = true
			}
			if len(refs) == 0 {
				t.Errorf("%s has no query", where)
			}
		}
		// Those that the curriculum lists (M3).
		for _, want := range []string{"Request rate", "Error rate", "Latency percentiles", "CPU usage of containers", "Memory usage of containers", "Pod restarts"} {
			if !slices.ContainsFunc(d.Panels, func(p panel) bool { return p.Title == want }) {
				t.Errorf("%s has no panel %q", file, want)
			}
		}
	}
}

func TestProvisioning(t *testing.T) {
	var file struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Type    string
			Options struct{ Path string }
		}
	}
	if err := yaml.Unmarshal(read(t, "grafana/provisioning/dashboards/sandbox.yml"), &file); err != nil {
		t.Fatal(err)
	}
	if file.APIVersion != 1 || len(file.Providers) != 1 || file.Providers[0].Type != "file" || file.Providers[0].Options.Path != "/etc/grafana/dashboards" {
		t.Errorf("%+v", file)
	}
}

// TestRulesAreTested: each alert has a test in which it fires, and, but for
// Watchdog, one in which it does not. promtool runs them: see images.
func TestRulesAreTested(t *testing.T) {
	rules, err := fs.Glob(Files, "prometheus/rules/*.yml")
	if err != nil || len(rules) == 0 {
		t.Fatalf("%v, %v", rules, err)
	}
	for _, file := range rules {
		var groups struct {
			Groups []struct {
				Rules []struct {
					Alert       string
					Labels      map[string]string
					Annotations map[string]string
				}
			}
		}
		if err := yaml.Unmarshal(read(t, file), &groups); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		// The tests are no part of what is embedded.
		b, err := os.ReadFile(filepath.Join("prometheus", "tests", filepath.Base(file)))
		if err != nil {
			t.Fatal(err)
		}
		var tests struct {
			Tests []struct {
				AlertRuleTest []struct {
					Alertname string
					ExpAlerts []any `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
			}
		}
		if err := yaml.Unmarshal(b, &tests); err != nil {
			t.Fatal(err)
		}
		fires, rests := map[string]bool{}, map[string]bool{}
		for _, test := range tests.Tests {
			for _, a := range test.AlertRuleTest {
				if len(a.ExpAlerts) > 0 {
					fires[a.Alertname] = true
				} else {
					rests[a.Alertname] = true
				}
			}
		}
		for _, g := range groups.Groups {
			for _, r := range g.Rules {
				if !fires[r.Alert] || !rests[r.Alert] && r.Alert != "Watchdog" {
					t.Errorf("%s: %s fires in a test: %t; does not in another: %t", file, r.Alert, fires[r.Alert], rests[r.Alert])
				}
				if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" || r.Annotations["runbook"] == "" && r.Alert != "Watchdog" {
					t.Errorf("%s: %s lacks a severity, or what a reader needs: %v", file, r.Alert, slices.Collect(maps.Keys(r.Annotations)))
				}
			}
		}
	}
}
