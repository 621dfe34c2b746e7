package dockertest

import (
	"fmt"
	"os"
	"path/filepath"
)

// Kept is the state folder that the tests of the recipes build into, and leave:
// SANDBOX_TEST_IMAGES, or a folder below the user's caches.
func Kept() (string, error) { return kept("SANDBOX_TEST_IMAGES", filepath.Join("sandbox", "images")) }

// Providers is a mirror of Terraform's providers with AWS's in it: the folder
// that SANDBOX_TEST_TERRAFORM_MIRROR names, or terraform-mirror in the user's
// caches.
//
// https://opentofu.org/docs/cli/config/config-file/#provider-installation
func Providers() (string, error) {
	dir, err := kept("SANDBOX_TEST_TERRAFORM_MIRROR", "terraform-mirror")
	if err != nil {
		return "", err
	}
	found, err := filepath.Glob(filepath.Join(dir, "registry.opentofu.org/hashicorp/aws/*"))
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no mirror with the provider hashicorp/aws is in %s (SANDBOX_TEST_TERRAFORM_MIRROR names one)", dir)
	}
	return dir, err
}

// kept is the folder that a variable names, or one of the user's caches.
func kept(variable, cached string) (string, error) {
	if dir := os.Getenv(variable); dir != "" {
		return filepath.Abs(dir)
	}
	cache, err := os.UserCacheDir()
	return filepath.Join(cache, cached), err
}
