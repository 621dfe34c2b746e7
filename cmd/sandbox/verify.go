package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw"
	"github.com/sandboxlabs/sandbox/pkg/host"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/monitoring"
	"github.com/sandboxlabs/sandbox/pkg/state"
	"github.com/sandboxlabs/sandbox/pkg/verify"
	"go.uber.org/zap"
)

// tried is what a walk goes through.
type tried struct {
	dirs       state.Dirs
	host       *host.Host
	engine     *raw.Engine
	images     *image.Store
	containers *docker.Engine
	cluster    *cluster.Stage
	monitoring *monitoring.Stage
	observed   observation
}

// newWalk returns what tries the promises of this machine's stack.
func newWalk(t tried, log *zap.Logger) *verify.Walk {
	return verify.New(verify.Config{
		Engine: t.engine, Images: t.containers.Images, Docker: t.containers, Cluster: t.cluster, Monitoring: t.monitoring,
		Alerts: t.observed.alerts.List, Log: log.Named("verify"),
		NoMemoryLimit: func() string { return t.host.Lacks("memory") },
		Tofu:          tofu(t.dirs, t.images), Folder: t.dirs.StageDir("verify"), Plugins: t.dirs.Providers(),
		Terraform: func() (terraform.Options, error) {
			settings, err := stack.Kept(t.dirs)
			return terraform.Options{
				Endpoint: aws.Endpoint(settings), Region: aws.DefaultRegion, Bucket: aws.DefaultBucket, Table: aws.DefaultTable,
			}, err
		},
	})
}

// tofu finds OpenTofu, or Terraform: what is installed, or else the one of the
// image tools, if that is in the store already: to build it takes minutes.
func tofu(dirs state.Dirs, store *image.Store) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		for _, name := range []string{"tofu", "terraform"} {
			if path, err := exec.LookPath(name); err == nil {
				return path, nil
			}
		}
		img, err := store.Resolve("tools")
		if errdefs.IsNotFound(err) {
			return "", fmt.Errorf("there is neither tofu nor terraform; sandbox tools install brings tofu: %w", errdefs.ErrNotFound)
		}
		if err != nil {
			return "", err
		}
		from, err := store.OpenFile(ctx, img, "/usr/local/bin/tofu")
		if err != nil {
			return "", err
		}
		defer from.Close()
		to := filepath.Join(dirs.Root, "bin", "tofu")
		if have, err := os.Stat(to); err == nil {
			if want, err := from.Stat(); err == nil && have.Size() == want.Size() && !have.ModTime().Before(want.ModTime()) {
				return to, nil
			}
		}
		program, err := io.ReadAll(from)
		if err != nil {
			return "", err
		}
		return to, state.WriteFile(to, program, 0o755)
	}
}
