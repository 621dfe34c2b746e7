package recipe

import (
	"strings"
	"testing"
)

func TestNetwork(t *testing.T) {
	root := t.TempDir()
	add := func(name, dockerfile, more string) {
		write(t, root, map[string]string{
			name + "/" + FileName: strings.Replace(minimal, "web", name, 1) + more, name + "/Dockerfile": dockerfile,
		})
	}
	add("files", "FROM scratch AS one\nCOPY a /\nADD b.tar /\nFROM toolbox\nCOPY --from=one / /\n", "")
	add("layered", "FROM files:latest\nRUN --network=none true\n", "")
	add("runs", "FROM toolbox\nRUN true\n", "")
	add("needs", "FROM scratch\nCOPY --from=other / /\n", "contexts: {other: {recipe: runs}}\n")
	add("adds", "FROM scratch\nADD --chmod=644 https://example.org/x /\n", "")
	add("packages", "FROM root\n", "contexts: {root: {debian: {suite: trixie}}}\n")
	add("foreign", "FROM example.org/base:1\n", "")
	c, err := LoadAll(root)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{"toolbox": true}
	for name, want := range map[string]string{
		"files": "", "layered": "",
		"runs":     "recipe runs runs or fetches something (line 2 of its Dockerfile)",
		"needs":    "recipe runs runs or fetches",
		"adds":     "recipe adds runs or fetches",
		"packages": "recipe packages takes packages of Debian trixie",
		"foreign":  "recipe foreign is built from example.org/base:1, which is not here",
	} {
		why, err := c.Network(name, func(image string) bool { return has[image] })
		if err != nil || want == "" && why != "" || !strings.HasPrefix(why, want) {
			t.Errorf("%s: %q, %v, want %q", name, why, err, want)
		}
	}
	has["example.org/base:1"] = true
	if why, err := c.Network("foreign", func(image string) bool { return has[image] }); why != "" || err != nil {
		t.Errorf("what is here: %q, %v", why, err)
	}
	if _, err := c.Network("none", nil); err == nil {
		t.Error("an unknown recipe")
	}
}
