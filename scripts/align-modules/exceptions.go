package main

import "strings"

// Recipes that decide what version others have of more than their programs: the
// modules that Kubernetes' own go.mod replaces, and the parts of etcd.
const (
	kubernetes = "kind-node/kubernetes"
	etcd       = "kind-node/etcd"
)

// leftOut reports whether a folder has no part in it: tools are compiled when
// they are first asked for, and go with the newest of everything. But kubectl is
// what nodes have, too.
func leftOut(recipe string) bool {
	return strings.HasPrefix(recipe, "tools/") && recipe != "tools/kubectl" || strings.HasPrefix(recipe, "toolbox")
}

// exceptions are what a recipe has of its own.
var exceptions = []struct{ recipe, prefix, reason string }{
	{kubernetes, "github.com/opencontainers/cgroups", "the kubelet does not compile with v0.1.0, which runc asks for"},
	{"kind-node/containerd", "k8s.io/", "it speaks a newer version of the runtime interface"},
	{"alertmanager", "github.com/prometheus/", "it does not compile with common v0.62 and later"},
	{"prometheus", "github.com/prometheus/", "promtool does not compile with client_golang v1.24 and later"},
	{"metrics-server", "github.com/prometheus/prometheus", "it uses an interface that Prometheus 3.5 has changed"},
	{"kind-node/coredns", "github.com/quic-go/", "it does not compile with v0.55.0, which traefik asks for"},
}

func excepted(recipe, path string) bool {
	for _, e := range exceptions {
		if e.recipe == recipe && strings.HasPrefix(path, e.prefix) {
			return true
		}
	}
	return false
}
