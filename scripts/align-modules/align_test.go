package main

import (
	"slices"
	"strings"
	"testing"
)

func modules(t *testing.T, files map[string]string) (list []module) {
	t.Helper()
	for recipe, text := range files {
		m, err := parse(recipe, recipe+"/go.mod", []byte("module example.com/"+recipe+"\n\ngo 1.26.0\n"+text))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b module) int { return strings.Compare(a.recipe, b.recipe) })
	return list
}

func TestAlign(t *testing.T) {
	list := modules(t, map[string]string{
		"a":        "require example.org/x v1.9.0\nrequire k8s.io/api v0.35.0\nrequire example.org/b v1.1.0",
		"b":        "tool example.org/b/cmd/b\nrequire example.org/x v1.10.0\nrequire example.org/b v1.0.0",
		kubernetes: "require k8s.io/api v0.34.4\nrequire k8s.io/cri-client v0.0.0\nreplace k8s.io/api => k8s.io/api v0.34.4\nreplace k8s.io/cri-client => k8s.io/cri-client v0.34.4",
		etcd:       "require go.etcd.io/etcd/client/v3 v3.6.5\ntool go.etcd.io/etcd/server/v3",
		"z":        "require go.etcd.io/etcd/client/v3 v3.6.11",
	})
	var got []string
	for _, c := range align(list) {
		got = append(got, c.String())
	}
	want := []string{
		"a: example.org/x v1.9.0, others have v1.10.0",
		"a: k8s.io/api v0.35.0, others have v0.34.4",
		"a: example.org/b v1.1.0, others have v1.0.0", // b is the recipe for it
		kubernetes + ": k8s.io/cri-client v0.0.0, others have v0.34.4",
		"z: go.etcd.io/etcd/client/v3 v3.6.11, others have v3.6.5",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// A version that others do not have is excluded, or what is required would ask
// for it again.
func TestEdit(t *testing.T) {
	list := modules(t, map[string]string{"a": "require (\n\texample.org/x v1.9.0 // indirect\n\tk8s.io/api v0.35.0 // indirect\n)"})
	text, err := list[0].edit([]change{{"a", "example.org/x", "v1.9.0", "v1.10.0"}, {"a", "k8s.io/api", "v0.35.0", "v0.34.4"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"example.org/x v1.10.0 // indirect", "k8s.io/api v0.34.4 // indirect", "exclude k8s.io/api v0.35.0"} {
		if !strings.Contains(string(text), line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

func TestExceptions(t *testing.T) {
	for _, e := range exceptions {
		if e.reason == "" {
			t.Errorf("%s: %s: no reason", e.recipe, e.prefix)
		}
	}
	if e := exceptions[0]; !excepted(e.recipe, e.prefix) || excepted("a", e.prefix) {
		t.Error("an exception is of one recipe alone")
	}
}
