package cluster

import (
	"io/fs"
	"strings"
	"testing"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"
)

// TestDefined: one that is missing, or of another release, has all applied.
func TestDefined(t *testing.T) {
	definitions, err := fs.ReadFile(content.Files, "gateway/definitions.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var have []string
	for _, kind := range []string{"backendtlspolicies", "gatewayclasses", "gateways", "grpcroutes", "httproutes", "referencegrants"} {
		have = append(have, kind+".gateway.networking.k8s.io=v1.4.0\n")
	}
	all := "others.example.org=\n" + strings.Join(have, "")
	if !defined(all, definitions) {
		t.Error("all are there")
	}
	for i := range have {
		if defined(strings.Replace(all, have[i], "", 1), definitions) {
			t.Errorf("without %s", have[i])
		}
		if defined(strings.Replace(all, have[i], strings.Replace(have[i], "v1.4.0", "v1.3.0", 1), 1), definitions) {
			t.Errorf("with an older %s", have[i])
		}
	}
	if defined("", definitions) {
		t.Error("none is there")
	}
}
