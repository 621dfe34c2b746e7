// Package cluster holds what the stage cluster gives to a Kubernetes cluster:
// patches of its configuration, and manifests of what runs in it besides
// Kubernetes. In manifests images are named by their recipes; the stage puts in
// their place what nodes can pull.
package cluster

import "embed"

// Files are kubeadm.yaml, the patches; getent, which nodes get; in manifests/ what
// is applied first; and in gateway/ the definitions of the Gateway API, and what
// they define.
//
//go:embed kubeadm.yaml getent manifests gateway
var Files embed.FS
