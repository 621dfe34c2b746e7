package images_test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
	"github.com/sandboxlabs/sandbox/pkg/state"
	content "github.com/sandboxlabs/sandbox/sandbox/stack/monitoring"
)

// TestMonitoring has the programs themselves judge what the stage monitoring
// gives them: configuration, rules with their unit tests, and the queries of the
// dashboards.
func TestMonitoring(t *testing.T) {
	files := monitoringFiles(t)
	rules := []string{"/etc/prometheus/rules/application.yml", "/etc/prometheus/rules/containers.yml", "/etc/prometheus/rules/targets.yml"}
	tests, err := filepath.Glob("../sandbox/stack/monitoring/prometheus/tests/*.yml")
	if err != nil || len(tests) != len(rules) {
		t.Fatalf("%q, %v", tests, err)
	}
	test := []string{"test", "rules"}
	for _, file := range tests {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		to := "/etc/prometheus/tests/" + filepath.Base(file)
		files[to] = string(b)
		test = append(test, to)
	}
	queries := dashboardQueries(t)
	files["/queries.yml"] = asRules(t, queries)
	// What must not pass: the check of the checks.
	broken := map[string]string{"/broken.yml": asRules(t, []string{"sum(rate(http_requests_total[5m])"})}
	wrong := map[string]string{"/etc/prometheus/tests/wrong.yml": strings.Replace(files["/etc/prometheus/tests/targets.yml"], "values: 0x20", "values: 1x20", 1)}
	for name, text := range files {
		if strings.HasPrefix(name, "/etc/prometheus/rules/") {
			wrong[name] = text
		}
	}

	s := openSuite(t)
	s.make(t, s.maker(), "prometheus", "alertmanager")
	promtool, amtool := []string{"/bin/promtool"}, []string{"/bin/amtool"}
	for _, c := range []struct {
		image string
		smoke recipe.Smoke
	}{
		{"prometheus", recipe.Smoke{Name: "configuration", Entrypoint: promtool, Args: []string{"check", "config", "/etc/prometheus/prometheus.yml"}, Files: files,
			Expect: `(?s)SUCCESS: /etc/prometheus/prometheus.yml is valid.*SUCCESS: 3 rules found`}},
		{"prometheus", recipe.Smoke{Name: "rules", Entrypoint: promtool, Args: append([]string{"check", "rules", "--lint=all", "--lint-fatal"}, rules...), Files: files, Expect: "SUCCESS"}},
		{"prometheus", recipe.Smoke{Name: "tests of rules", Entrypoint: promtool, Args: test, Files: files, Expect: "SUCCESS"}},
		{"prometheus", recipe.Smoke{Name: "queries", Entrypoint: promtool, Args: []string{"check", "rules", "--lint=none", "/queries.yml"}, Files: files, Expect: fmt.Sprintf("SUCCESS: %d rules found", len(queries))}},
		{"prometheus", recipe.Smoke{Name: "a broken query", Entrypoint: promtool, Args: []string{"check", "rules", "/broken.yml"}, Files: broken, ExitCode: 1, Expect: "unclosed left parenthesis"}},
		{"prometheus", recipe.Smoke{Name: "a rule that does not do what its test says", Entrypoint: promtool, Args: []string{"test", "rules", "/etc/prometheus/tests/wrong.yml"}, Files: wrong, ExitCode: 1, Expect: "FAILED"}},
		{"alertmanager", recipe.Smoke{Name: "configuration", Entrypoint: amtool, Args: []string{"check-config", "/etc/alertmanager/alertmanager.yml"}, Files: files, Expect: "(?s)SUCCESS.*1 receivers"}},
		{"alertmanager", recipe.Smoke{Name: "everything goes to the daemon", Entrypoint: amtool, Args: []string{"config", "routes", "test", "--config.file=/etc/alertmanager/alertmanager.yml", "alertname=HighErrorRate", "severity=critical"}, Files: files, Expect: "^sandbox\n$"}},
		{"alertmanager", recipe.Smoke{Name: "Watchdog, too", Entrypoint: amtool, Args: []string{"config", "routes", "test", "--config.file=/etc/alertmanager/alertmanager.yml", "alertname=Watchdog"}, Files: files, Expect: "^sandbox\n$"}},
	} {
		t.Run(c.image+" "+c.smoke.Name, func(t *testing.T) {
			if err := recipe.RunSmoke(t.Context(), s.Engine, c.image+":latest", &recipe.Recipe{Name: c.image, Smoke: []recipe.Smoke{c.smoke}}); err != nil {
				t.Error(err)
			}
		})
	}
}

// monitoringFiles are the stage's files as its containers see them, with those
// of a cluster.
func monitoringFiles(t *testing.T) map[string]string {
	t.Helper()
	dirs := state.Dirs{Root: filepath.Join(t.TempDir(), "lib")}
	stage := monitoring.New(monitoring.Config{
		Dirs: dirs, Content: content.Files,
		Telemetry: func() (netip.AddrPort, bool) { return netip.MustParseAddrPort("172.30.0.1:5056"), true },
	})
	if err := stage.Up(api.UpOptions{})[0].Do(t.Context(), stack.Progress{}); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{
		"/etc/prometheus/cluster/token":  "secret",
		"/etc/prometheus/cluster/ca.crt": certificate,
	}
	for _, service := range []string{"prometheus", "alertmanager"} {
		root := os.DirFS(filepath.Join(dirs.StageDir(monitoring.Name), service))
		err := fs.WalkDir(root, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			b, err := fs.ReadFile(root, name)
			files["/etc/"+service+"/"+name] = string(b)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cluster, err := monitoring.ClusterConfig(content.Files, monitoring.Reach{APIServer: "sandbox-control-plane:6443"})
	if err != nil {
		t.Fatal(err)
	}
	files["/etc/prometheus/cluster.yml"] = string(cluster)
	return files
}

// dashboardQueries are those of all panels.
func dashboardQueries(t *testing.T) (queries []string) {
	t.Helper()
	names, err := fs.Glob(content.Files, "grafana/dashboards/*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var d struct {
			Panels []struct {
				Targets []struct{ Expr string }
			}
		}
		b, err := fs.ReadFile(content.Files, name)
		if err == nil {
			err = json.Unmarshal(b, &d)
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				queries = append(queries, target.Expr)
			}
		}
	}
	if len(queries) < 20 {
		t.Fatalf("only %d queries", len(queries))
	}
	return queries
}

// asRules makes recording rules of queries: promtool parses them as it does the
// queries of rules.
func asRules(t *testing.T, queries []string) string {
	t.Helper()
	type rule struct{ Record, Expr string }
	type group struct {
		Name  string
		Rules []rule
	}
	var rules []rule
	for i, q := range queries {
		rules = append(rules, rule{fmt.Sprintf("query:%d", i), q})
	}
	b, err := yaml.Marshal(map[string][]group{"groups": {{"queries", rules}}})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// certificate is one that a check of the configuration can parse.
const certificate = `-----BEGIN CERTIFICATE-----
MIIBhTCCASugAwIBAgIQIRi6zePL6mKjOipn+dNuaTAKBggqhkjOPQQDAjASMRAw
DgYDVQQKEwdBY21lIENvMB4XDTE3MTAyMDE5NDMwNloXDTE4MTAyMDE5NDMwNlow
EjEQMA4GA1UEChMHQWNtZSBDbzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABD0d
7VNhbWvZLWPuj/RtHFjvtJBEwOkhbN/BnnE8rnZR8+sbwnc/KhCk3FhnpHZnQz7B
5aETbbIgmuvewdjvSBSjYzBhMA4GA1UdDwEB/wQEAwICpDATBgNVHSUEDDAKBggr
BgEFBQcDATAPBgNVHRMBAf8EBTADAQH/MCkGA1UdEQQiMCCCDmxvY2FsaG9zdDo1
NDUzgg4xMjcuMC4wLjE6NTQ1MzAKBggqhkjOPQQDAgNIADBFAiEA2zpJEPQyz6/l
Wf86aX6PepsntZv2GYlA5UpabfT2EZICICpJ5h/iI+i341gBmLiAFQOyTDT+/wQc
6MF9+Yw1Yy0t
-----END CERTIFICATE-----
`
