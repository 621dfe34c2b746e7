package raw

import (
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// TestSmoke runs recipes' smoke tests on this engine, those that pass and those
// that must not.
func TestSmoke(t *testing.T) {
	e, _ := newEngine(t)
	serve := shell("mkdir -p /www && echo welcome >/www/index.html && exec httpd -f -p 8080 -h /www")
	for _, tt := range []struct {
		smoke recipe.Smoke
		wrong string // in the error
	}{
		{recipe.Smoke{Name: "output", Args: shell("echo hello; echo there >&2"), Expect: "^hello\nthere\n$|^there\nhello\n$"}, ""},
		{recipe.Smoke{Name: "exit code", Args: shell("exit 3"), ExitCode: 3}, ""},
		{recipe.Smoke{Name: "other exit code", Args: shell("echo why; exit 3")}, "exited with 3, want 0\nit wrote:\n\twhy"},
		{recipe.Smoke{Name: "other output", Args: shell("echo why"), Expect: "because"}, `no match for "because"`},
		{recipe.Smoke{Name: "files", Args: shell("cat /etc/app/config; touch /data/x && test -x /data"), Files: map[string]string{"/etc/app/config": "a: b"}, Mounts: []string{"/data"}, Expect: "^a: b$"}, ""},
		{recipe.Smoke{Name: "environment", Args: shell("echo $A"), Env: []string{"A=b c"}, Expect: "^b c\n$"}, ""},
		{recipe.Smoke{Name: "HTTP", Args: serve, Port: 8080, Path: "/", Body: "^welcome"}, ""},
		{recipe.Smoke{Name: "HTTP status", Args: serve, Port: 8080, Path: "/none", Status: 404}, ""},
		{recipe.Smoke{Name: "HTTP other status", Args: serve, Port: 8080, Path: "/none", Timeout: recipe.Duration(3 * time.Second)}, "within 3s: GET /none: status 404, want 200"},
		{recipe.Smoke{Name: "port", Args: serve, Port: 8080}, ""},
		{recipe.Smoke{Name: "crash", Args: shell("echo broken; exit 1"), Port: 8080}, "the container exited with 1"},
		{recipe.Smoke{Name: "exec", Args: shell("sleep 0.3; touch /ready; sleep 1000"), Exec: shell("test -e /ready && echo yes"), Expect: "yes"}, ""},
		{recipe.Smoke{Name: "exec in vain", Args: shell("sleep 1000"), Exec: shell("echo no; exit 7"), Timeout: recipe.Duration(3 * time.Second)}, "exit code 7"},
		{recipe.Smoke{Name: "never ends", Args: shell("sleep 1000"), Timeout: recipe.Duration(500 * time.Millisecond)}, "within 500ms"},
	} {
		err := recipe.RunSmoke(t.Context(), e, testImage, &recipe.Recipe{Name: "x", Smoke: []recipe.Smoke{tt.smoke}})
		if (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
			t.Errorf("%s: %v", tt.smoke.Name, err)
		}
	}
	nothingLeft(t, e)
}
