package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBoundingSet(t *testing.T) {
	// All of Linux 6.18's but CAP_SYS_RESOURCE, which is number 24.
	got, err := boundingSet([]byte("Name:\tx\nCapBnd:\t000001fffeffffff\nCapAmb:\t0000000000000000\n"))
	if err != nil {
		t.Fatal(err)
	}
	for name, inside := range got {
		if inside != (name != "CAP_SYS_RESOURCE") {
			t.Errorf("%s: %v", name, inside)
		}
	}
	if len(got) != 41 {
		t.Errorf("%d capabilities, want 41", len(got))
	}
	for _, status := range []string{"", "CapBnd:\tx\n"} {
		if _, err := boundingSet([]byte(status)); err == nil {
			t.Errorf("%q: no error", status)
		}
	}
}

func TestBind(t *testing.T) {
	bounds := map[string]bool{"CAP_CHOWN": true, "CAP_SYS_RESOURCE": false}
	const (
		spec    = `{"ociVersion":"1.0.2","process":{"args":["a"],"capabilities":{"bounding":["CAP_CHOWN","CAP_SYS_RESOURCE","CAP_NEW"],"ambient":null},"rlimits":[{"hard":18446744073709551615}]},"linux":{}}`
		bound   = `{"linux":{},"ociVersion":"1.0.2","process":{"args":["a"],"capabilities":{"ambient":null,"bounding":["CAP_CHOWN","CAP_NEW"]},"rlimits":[{"hard":18446744073709551615}]}}`
		process = `{"args":["b"],"capabilities":{"effective":["CAP_SYS_RESOURCE"]}}`
		lesser  = `{"args":["b"],"capabilities":{"effective":[]}}`
	)
	for _, tt := range []struct {
		args             func(dir string) []string
		config, execFile string
	}{
		{func(dir string) []string {
			return []string{"--root", "/r", "create", "--bundle", dir, "--pid-file", "/p", "id"}
		}, bound, process},
		{func(dir string) []string { return []string{"run", "-b", dir, "id"} }, bound, process},
		{func(dir string) []string { return []string{"create", "--bundle=" + dir, "id"} }, bound, process},
		{func(dir string) []string { return []string{"exec", "--process", dir + "/process", "id"} }, spec, lesser},
		{func(dir string) []string { return []string{"exec", "-p", dir + "/process", "id"} }, spec, lesser},
		{func(string) []string { return []string{"delete", "--force", "id"} }, spec, process},
	} {
		dir := t.TempDir()
		for name, content := range map[string]string{"config.json": spec, "process": process} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := tt.args(dir)
		if err := bind(args, bounds); err != nil {
			t.Errorf("%v: %v", args, err)
		}
		for name, want := range map[string]string{"config.json": tt.config, "process": tt.execFile} {
			if got, _ := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
				t.Errorf("%v: %s is\n%s, want\n%s", args, name, got, want)
			}
		}
	}
	for _, args := range [][]string{
		{"create", "--bundle", t.TempDir(), "id"},
		{"exec", "--process", os.DevNull, "id"},
	} {
		if err := bind(args, bounds); err == nil {
			t.Errorf("%v: no error", args)
		}
	}
}
