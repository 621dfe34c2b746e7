package cluster

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	kindcluster "sigs.k8s.io/kind/pkg/cluster"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// BenchmarkCreate compares `up` of the stage with what `kind create cluster
// --wait` does, in the same engine, with the same node image, which the engine
// has. kind waits until the control plane's node is ready, `up` until all pods
// are, add-ons included; "pods" is kind and a wait for the pods that it has.
//
//	go test ./pkg/stack/cluster -run '^$' -bench Create -benchtime 1x
func BenchmarkCreate(b *testing.B) {
	s := newSuite(b)
	s.needImages()
	img, err := s.Images.Ensure(b.Context(), nodeImage, stack.Progress{})
	if err != nil {
		b.Fatal(err)
	}
	if err := s.Docker.Pull(b.Context(), img, stack.Progress{}); err != nil {
		b.Fatal(err)
	}
	b.Run("kind", func(b *testing.B) {
		b.Setenv("DOCKER_HOST", dockertest.Host(b))
		b.Setenv("KIND_EXPERIMENTAL_DOCKER_NETWORK", "")
		p := kindcluster.NewProvider(kindcluster.ProviderWithDocker())
		kubeconfig := filepath.Join(b.TempDir(), "config")
		for b.Loop() {
			begun := time.Now()
			if err := p.Create("plain", kindcluster.CreateWithNodeImage(img.Ref), kindcluster.CreateWithKubeconfigPath(kubeconfig),
				kindcluster.CreateWithWaitForReady(5*time.Minute)); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(time.Since(begun).Seconds(), "s/ready")
			nodes, err := p.ListNodes("plain")
			if err != nil {
				b.Fatal(err)
			}
			if err := nodes[0].Command("kubectl", "wait", "--for=condition=Ready", "pod", "--all", "-A", "--timeout=5m").SetEnv("KUBECONFIG=" + adminConf).Run(); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(time.Since(begun).Seconds(), "s/pods")
			b.StopTimer()
			if err := p.Delete("plain", kubeconfig); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("sandbox", func(b *testing.B) {
		for b.Loop() {
			begun := time.Now()
			tasks, err := s.up(b.Context(), api.UpOptions{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(time.Since(begun).Seconds(), "s/pods")
			for _, task := range tasks {
				if task.Stage == Name {
					b.ReportMetric(task.Took.Seconds(), "s/step-"+strings.ReplaceAll(task.Name, " ", "-"))
				}
			}
			b.StopTimer()
			if err := s.down(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}
