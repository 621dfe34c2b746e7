package monitoring

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// followed is the stage cluster with the step by which Prometheus learns of it.
type followed struct {
	stack.Stage
	last stack.Step
}

func (f followed) Up(opts api.UpOptions) []stack.Step { return append(f.Stage.Up(opts), f.last) }

// apps ask to be scraped: one by its pod, one by its Service.
const apps = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
      annotations: {prometheus.io/scrape: "true", prometheus.io/port: "8080"}
    spec:
      containers:
        - name: web
          image: demo-app
          imagePullPolicy: IfNotPresent
          env: [{name: ERROR_RATE, value: "0.5"}]
          ports: [{containerPort: 8080}]
          resources: {limits: {cpu: 100m, memory: 64Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: behind}
spec:
  selector: {matchLabels: {app: behind}}
  template:
    metadata: {labels: {app: behind}}
    spec:
      containers:
        - {name: app, image: demo-app, imagePullPolicy: IfNotPresent, ports: [{containerPort: 8080}]}
---
apiVersion: v1
kind: Service
metadata:
  name: behind
  annotations: {prometheus.io/scrape: "true"}
spec:
  selector: {app: behind}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
    - name: client
      image: toolbox
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "while :; do wget -q -O /dev/null http://web/; wget -q -O /dev/null http://behind/; sleep 0.2; done"]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`

// hungry is killed at its memory limit.
const hungry = `
apiVersion: v1
kind: Pod
metadata: {name: hungry}
spec:
  containers:
    - name: hungry
      image: toolbox
      imagePullPolicy: IfNotPresent
      command: [sh, -c, "sleep 20; x=x; while :; do x=$x$x; done"]
      resources: {limits: {memory: 16Mi}}
`

// TestWholeStack: with a cluster, everything in it is watched, nothing fires
// that should not, and what goes wrong does.
func TestWholeStack(t *testing.T) {
	w := newWorld(t)
	openRecipes(t, "kube-state-metrics", "kind-node", "metrics-server", "traefik", "demo-app", "toolbox")
	nodes := cluster.New(cluster.Config{Dirs: w.Dirs, Docker: w.Docker, Images: w.Images})
	w.Cluster = Kubectl(nodes.Kubectl)
	var err error
	if w.graph, err = stack.New(docker.NewStage(w.Docker), w.Stage, followed{nodes, stack.Step{Name: "monitoring", Do: w.Connect}}); err != nil {
		t.Fatal(err)
	}
	w.mustUp(api.UpOptions{})
	jobs := func(extra ...string) string {
		all := append([]string{"alertmanager", "apiserver", "app", "cadvisor", "containers", "coredns", "coredns", "etcd", "kube-controller-manager", "kube-proxy",
			"kube-scheduler", "kube-state-metrics", "kubelet", "node", "prometheus", "sandbox", "services" /* Traefik */}, extra...)
		slices.Sort(all)
		return fmt.Sprint(all)
	}
	w.checkJobs(jobs())
	series, err := w.query(`prometheus_tsdb_head_series`)
	t.Logf("measured: series of a fresh stack: %v, %v", series, err)
	slow, err := w.query(`topk(5, scrape_duration_seconds)`)
	t.Logf("measured: slowest scrapes: %v, %v", slow, err)
	big, err := w.query(`topk(8, scrape_samples_post_metric_relabeling)`)
	t.Logf("measured: largest scrapes: %v, %v", big, err)

	if _, err := nodes.Kubectl(t.Context(), strings.NewReader(apps), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	w.checkJobs(jobs("pods", "services"))
	requests, err := w.query(`count by (job, app, namespace, service) (http_requests_total)`)
	t.Logf("requests: %v, %v", requests, err)
	eventually(t, "every panel has data", 3*time.Minute, func() (bool, any) {
		empty := w.emptyPanels()
		return len(empty) == 0, empty
	})

	// Nothing has fired so far but the errors that the app was told to make.
	if fired, err := w.query(`count by (alertname) (max_over_time(ALERTS{alertstate="firing", alertname!~"Watchdog|HighErrorRate"}[10m]))`); err != nil || len(fired) > 0 {
		t.Errorf("fired: %v, %v", fired, err)
	}
	if _, err := nodes.Kubectl(t.Context(), strings.NewReader(hungry), "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the OOM kill arrives", 3*time.Minute, func() (bool, any) {
		names := map[string]string{}
		for _, a := range w.alerts.List() {
			names[a.Name+" "+a.Labels["pod"]] = a.Annotations["summary"]
		}
		return names["PodOOMKilled hungry"] != "" || names["ContainerOOMKilled hungry"] != "", names
	})
}
