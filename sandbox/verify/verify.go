// Package verify holds the manifests that `sandbox verify` applies. Images are
// named by their recipes.
package verify

import "embed"

// Files are folders with manifests/ in each: app, policy and volume.
//
//go:embed app policy volume
var Files embed.FS
