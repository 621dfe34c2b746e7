package images_test

import (
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// others are the engines that are not ours, by name.
var others = map[string]func(*testing.T, *image.Store) engine.Engine{
	"docker": newDocker, "containerd": newContainerd,
}

// TestEngines: each recipe's image passes its smoke tests under Docker and
// under containerd, which take it straight from the store.
func TestEngines(t *testing.T) {
	s := openSuite(t)
	for name, open := range others {
		t.Run(name, func(t *testing.T) {
			e := open(t, s.Store)
			for _, name := range s.names() {
				r := s.Catalogue.Recipes[name]
				if r.UpstreamOnly {
					continue
				}
				t.Run(name, func(t *testing.T) {
					results := s.make(t, s.maker(), name) // nothing to do after TestRecipes
					last := results[len(results)-1]
					if last.Err != nil {
						return // make has said it
					}
					if err := recipe.RunSmoke(t.Context(), e, last.Image.Name, r); err != nil {
						t.Error(err)
					}
				})
			}
		})
	}
}

// TestSmoke: smoke tests mean in the other engines what they mean in ours
// (pkg/engine/raw has the same test), where they pass and where they must not.
func TestSmoke(t *testing.T) {
	s := openSuite(t)
	shell := func(script string) []string { return []string{"sh", "-c", script} }
	serve := shell("mkdir -p /www && echo welcome >/www/index.html && exec httpd -f -p 8080 -h /www")
	for name, open := range others {
		t.Run(name, func(t *testing.T) {
			e := open(t, s.Store)
			for _, tt := range []struct {
				smoke recipe.Smoke
				wrong string // in the error
			}{
				{recipe.Smoke{Name: "output", Args: shell("echo hello; echo there >&2"), Expect: "^hello\nthere\n$|^there\nhello\n$"}, ""},
				{recipe.Smoke{Name: "exit code", Args: shell("exit 3"), ExitCode: 3}, ""},
				{recipe.Smoke{Name: "other exit code", Args: shell("echo why; exit 3")}, "exited with 3, want 0\nit wrote:\n\twhy"},
				{recipe.Smoke{Name: "entrypoint", Entrypoint: []string{"echo", "a"}, Args: []string{"b"}, Expect: "^a b\n$"}, ""},
				{recipe.Smoke{Name: "files", Args: shell("cat /etc/app/config; touch /data/x && test -x /data"), Files: map[string]string{"/etc/app/config": "a: b"}, Mounts: []string{"/data"}, Expect: "^a: b$"}, ""},
				{recipe.Smoke{Name: "a file in a mount", Args: shell("cat /data/sub/file"), Files: map[string]string{"/data/sub/file": "here"}, Mounts: []string{"/data"}, Expect: "^here$"}, ""},
				{recipe.Smoke{Name: "environment", Args: shell("echo $A"), Env: []string{"A=b c"}, Expect: "^b c\n$"}, ""},
				{recipe.Smoke{Name: "names", Args: shell("ping -c 1 -w 1 localhost && hostname -i"), Expect: `(?m)^198\.19\.`}, ""},
				{recipe.Smoke{Name: "HTTP", Args: serve, Port: 8080, Path: "/", Body: "^welcome"}, ""},
				{recipe.Smoke{Name: "port", Args: serve, Port: 8080}, ""},
				{recipe.Smoke{Name: "HTTP other status", Args: serve, Port: 8080, Path: "/none", Timeout: recipe.Duration(3 * time.Second)}, "within 3s: GET /none: status 404, want 200"},
				{recipe.Smoke{Name: "crash", Args: shell("echo broken; exit 1"), Port: 8080}, "the container exited with 1"},
				{recipe.Smoke{Name: "exec", Args: shell("sleep 0.3; touch /ready; sleep 1000"), Exec: shell("test -e /ready && echo yes"), Expect: "yes"}, ""},
				{recipe.Smoke{Name: "exec in vain", Args: shell("sleep 1000"), Exec: shell("echo no; exit 7"), Timeout: recipe.Duration(2 * time.Second)}, "within 2s"},
				{recipe.Smoke{Name: "never ends", Args: shell("sleep 1000"), Timeout: recipe.Duration(time.Second)}, "within 1s"},
			} {
				begun := time.Now()
				err := recipe.RunSmoke(t.Context(), e, "toolbox:latest", &recipe.Recipe{Name: "x", Smoke: []recipe.Smoke{tt.smoke}})
				if (err != nil) != (tt.wrong != "") || err != nil && !strings.Contains(err.Error(), tt.wrong) {
					t.Errorf("%s: %v", tt.smoke.Name, err)
				}
				t.Logf("%s: %.2f s", tt.smoke.Name, time.Since(begun).Seconds())
			}
		})
	}
}
