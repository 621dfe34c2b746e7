// Package verify holds what `sandbox verify` applies: manifests, whose images are
// named by their recipes, and configurations of Terraform.
package verify

import "embed"

// Files are folders with manifests/ in each (app, policy and volume), and
// terraform/ with a folder for each configuration (state and vpc).
//
//go:embed app policy volume terraform
var Files embed.FS
