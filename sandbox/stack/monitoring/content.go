// Package monitoring holds what the stage of the same name is made of, other
// than images: configuration of Prometheus, Alertmanager and Grafana, and
// manifests for the cluster. The files are what a person who knows these
// programs expects; those that say so are templates.
package monitoring

import "embed"

// Files are this folder's, but for the rules' tests.
//
//go:embed prometheus/*.yml prometheus/rules alertmanager grafana cluster
var Files embed.FS
