package recipe

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// write makes files below dir.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const minimal = `name: web
version: 1.2.3
description: A web server.
licence: MIT
created: 2026-01-02
smoke: [{name: starts, args: ["true"]}]
`

func TestLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	write(t, dir, map[string]string{FileName: minimal + `
contexts:
  rootfs: {debian: {suite: trixie, packages: [ca-certificates]}}
  go: {recipe: go}
size: 150MB
`})
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.Budget(); err != nil || n != 150e6 {
		t.Errorf("budget %d, %v", n, err)
	}
	if r.Dir != dir || r.Contexts["rootfs"].Debian.Suite != "trixie" || !r.Created.Equal(time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v", r)
	}
	for name, content := range map[string]string{
		"unknown field":   minimal + "licenze: MIT\n",
		"duplicate key":   minimal + "name: again\n",
		"second document": minimal + "---\nname: x\n",
		"empty":           "# nothing\n",
		"no YAML":         "name: [\n",
		"wrong type":      minimal + "contexts: [a]\n",
		"wrong duration":  strings.Replace(minimal, "smoke: [{", "smoke: [{timeout: soon, ", 1),
	} {
		write(t, dir, map[string]string{FileName: content})
		if _, err := Load(dir); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "recipe.yaml:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLint: each recipe has one thing wrong, which is found where it is.
func TestLint(t *testing.T) {
	const dockerfile = "FROM toolbox\nRUN true\n"
	for _, tt := range []struct {
		name             string
		recipe, docker   string
		file             string
		line             int
		message          string
		warning, perfect bool
	}{
		{name: "nothing", perfect: true},
		{name: "unknown field", recipe: minimal + "licenze: MIT\n", line: 7, message: `no field "licenze"`},
		{name: "unknown field of a context", recipe: minimal + "contexts:\n  a:\n    folder: x\n", line: 9, message: `no field "folder"`},
		{name: "missing", recipe: strings.Replace(minimal, "licence: MIT\n", "", 1), line: 1, message: `"licence" is missing`},
		{name: "name", recipe: strings.Replace(minimal, "web", "Web", 1), line: 1, message: "no name"},
		{name: "other name", recipe: strings.Replace(minimal, "web", "wob", 1), line: 1, message: "folder's"},
		{name: "version", recipe: strings.Replace(minimal, "1.2.3", "1/2", 1), line: 2, message: "tag"},
		{name: "licence", recipe: strings.Replace(minimal, "MIT", "MIT or so", 1), line: 4, message: `"or" is not expected`},
		{name: "no date", recipe: strings.Replace(minimal, "created: 2026-01-02\n", "", 1), line: 1, message: `"created" is missing`},
		{name: "future", recipe: strings.Replace(minimal, "2026-01-02", "2999-01-02", 1), line: 5, message: "future"},
		{name: "no smoke test", recipe: minimal[:strings.Index(minimal, "smoke")], line: 1, message: "no smoke test"},
		{name: "smoke test of nothing", recipe: strings.Replace(minimal, `, args: ["true"]`, "", 1), line: 6, message: "tests nothing"},
		{name: "smoke regexp", recipe: strings.Replace(minimal, "starts", "x, expect: '('", 1), line: 6, message: "missing closing )"},
		{name: "path without port", recipe: strings.Replace(minimal, "starts", "x, path: /", 1), line: 6, message: "no port"},
		{name: "size", recipe: minimal + "size: big\n", line: 7, message: "no size"},
		{name: "upstream", recipe: minimal + "upstream: nginx:1.27\n", line: 7, message: "no digest", warning: true},
		{name: "upstream with digest", recipe: minimal + "upstream: nginx@sha256:" + strings.Repeat("a", 64) + "\n", perfect: true},
		{name: "upstream nonsense", recipe: minimal + "upstream: 'a b'\n", line: 7, message: "invalid reference"},
		{name: "platform", recipe: minimal + "platforms:\n- linux/amd64\n- windows/amd64\n", line: 9, message: "no platform"},
		{name: "unknown recipe", recipe: minimal + "contexts:\n  x: {recipe: nix}\n", docker: "FROM x\n", line: 8, message: "no recipe"},
		{name: "two kinds", recipe: minimal + "contexts:\n  x: {recipe: other, dir: .}\n", docker: "FROM x\n", line: 8, message: "2 sources"},
		{name: "folder outside", recipe: minimal + "contexts:\n  x: {dir: ../other}\n", docker: "FROM x\n", line: 8, message: "outside"},
		{name: "unused context", recipe: minimal + "contexts:\n  x: {recipe: other}\n", line: 8, message: "not used"},
		{name: "variant", recipe: minimal + "contexts:\n  x:\n    debian:\n      suite: trixie\n      variant: tiny\n", docker: "FROM x\n", line: 11, message: "no variant"},
		{name: "unknown source", docker: "FROM toolbox\nCOPY --from=nobody \\\n  /a /b\n", file: "Dockerfile", line: 2, message: "no stage, no context"},
		{name: "other recipe", docker: "FROM other\nCOPY --from=0 / /\n", perfect: true},
		{name: "stage", docker: "FROM toolbox AS one\nFROM one\nCOPY --from=ONE / /\n", perfect: true},
		{name: "no digest", docker: "FROM docker.io/library/nginx:1\n", file: "Dockerfile", line: 1, message: "no digest", warning: true},
		{name: "undeclared cache", docker: "FROM toolbox\n# why\nRUN --mount=type=cache,id=gomod,target=/go \\\n   true\n", file: "Dockerfile", line: 3, message: `"gomod" is not declared`},
		{name: "unused cache", recipe: minimal + "caches: [gomod]\n", line: 7, message: "not used", warning: true},
		{name: "unknown arg", recipe: minimal + "args: {V: '1'}\n", line: 7, message: "no ARG"},
		{name: "arg", recipe: minimal + "args: {V: '1'}\n", docker: "ARG V\nFROM toolbox\n", perfect: true},
		{name: "arg in from", recipe: minimal + "args: {V: other}\n", docker: "ARG V=nobody\nFROM ${V}\n", perfect: true},
		{name: "upstream only with a Dockerfile", recipe: minimal + "upstream_only: true\nupstream: nginx@sha256:" + strings.Repeat("a", 64) + "\n", line: 7, message: "there is a Dockerfile"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			if tt.recipe == "" {
				tt.recipe = minimal
			}
			if tt.docker == "" {
				tt.docker = dockerfile
			}
			if tt.file == "" {
				tt.file = FileName
			}
			write(t, root, map[string]string{
				"web/" + FileName: tt.recipe, "web/Dockerfile": tt.docker,
				"other/" + FileName: strings.Replace(minimal, "web", "other", 1), "other/Dockerfile": dockerfile,
			})
			problems, err := Lint(filepath.Join(root, "web"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.perfect {
				if len(problems) > 0 {
					t.Errorf("%v", problems)
				}
				return
			}
			if len(problems) != 1 {
				t.Fatalf("%d problems: %v", len(problems), problems)
			}
			p := problems[0]
			if filepath.Base(p.File) != tt.file || p.Line != tt.line || !strings.Contains(p.Message, tt.message) || p.Warning != tt.warning {
				t.Errorf("%s (warning: %v)", p, p.Warning)
			}
		})
	}
}

func TestLintDockerfileIsChecked(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "web")
	write(t, dir, map[string]string{FileName: minimal, "Dockerfile": "FROM toolbox\n"})
	problems, err := Lint(dir, func([]byte) ([]Problem, error) { return []Problem{{Line: 1, Message: "no good"}}, nil })
	if err != nil || len(problems) != 1 || problems[0].File != filepath.Join(dir, "Dockerfile") {
		t.Errorf("%v, %v", problems, err)
	}
}

func TestLicence(t *testing.T) {
	for expression, valid := range map[string]bool{
		"MIT": true, "Apache-2.0": true, "GPL-2.0+": true, "GPL-2.0-only WITH Classpath-exception-2.0": true,
		"(MIT OR Apache-2.0) AND BSD-3-Clause": true, "LicenseRef-Own": true, "DocumentRef-a:LicenseRef-b": true,
		"": false, "MIT AND": false, "(MIT": false, "MIT)": false, "AND": false, "MIT Apache-2.0": false, "MIT/X11": false, "Apache 2.0": false,
	} {
		if err := checkLicence(expression); (err == nil) != valid {
			t.Errorf("%q: %v", expression, err)
		}
	}
}

// TestSchema: the schema that editors use is the one of the Go types. To renew
// it: SANDBOX_UPDATE=1 go test -run TestSchema ./pkg/recipe
func TestSchema(t *testing.T) {
	const file = "../../images/recipe.schema.json"
	if os.Getenv("SANDBOX_UPDATE") != "" {
		if err := os.WriteFile(file, Schema(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(file)
	if err != nil || !bytes.Equal(b, Schema()) {
		t.Errorf("%s is not what the types say (%v); renew it with SANDBOX_UPDATE=1", file, err)
	}
}

func TestNew(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "images")
	folder, err := New(dir, "hello")
	if err != nil {
		t.Fatal(err)
	}
	if problems, err := Lint(folder, nil); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := New(dir, "hello"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	for _, name := range []string{"", "..", "a/b", "A", "-a"} {
		if _, err := New(dir, name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestOrder(t *testing.T) {
	root := t.TempDir()
	add := func(name, dockerfile, more string) {
		write(t, root, map[string]string{
			name + "/" + FileName: strings.Replace(minimal, "web", name, 1) + more, name + "/Dockerfile": dockerfile,
		})
	}
	add("debian", "FROM scratch\n", "")
	add("go", "FROM debian:latest\n", "")
	add("app", "FROM debian AS build\nRUN --mount=type=bind,from=tools,target=/t true\nFROM scratch\nCOPY --from=build / /\n", "contexts: {tools: {recipe: go}}\n")
	// Its recipe is none that others need: the image is in every store.
	add("toolbox", "FROM debian\n", "")
	add("game", "FROM toolbox AS a\nFROM toolbox:latest\nCOPY --from=toolbox / /\n", "")
	write(t, root, map[string]string{"README.md": "", "nothing/README": ""})
	c, err := LoadAll(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ names, want []string }{
		{nil, []string{"debian", "go", "app", "game", "toolbox"}},
		{[]string{"game"}, []string{"game"}},
		{[]string{"toolbox"}, []string{"debian", "toolbox"}},
		{[]string{"app"}, []string{"debian", "go", "app"}},
		{[]string{"go"}, []string{"debian", "go"}},
	} {
		order, err := c.Order(tt.names...)
		var got []string
		for _, r := range order {
			got = append(got, r.Name)
		}
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%v: %v, %v", tt.names, got, err)
		}
	}
	if _, err := c.Order("nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("unknown: %v", err)
	}
	add("debian", "FROM app\n", "")
	if c, err = LoadAll(root); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Order("app"); err == nil || !strings.Contains(err.Error(), "app → debian → app") {
		t.Errorf("circle: %v", err)
	}
}

// TestImageName: a recipe does not take the place of an image that every store
// has.
func TestImageName(t *testing.T) {
	for name, want := range map[string]string{"web": "web:latest", "toolbox": "toolbox:1.2"} {
		if got := (&Recipe{Name: name, Version: "1.2"}).ImageName(); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}
