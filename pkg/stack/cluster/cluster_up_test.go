package cluster

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// workload is a web server with a volume, behind a Service and an Ingress, and a
// client whom a policy may let in.
const workload = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 10Mi}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: web
          image: toolbox
          imagePullPolicy: IfNotPresent
          command: [sh, -c, "test -e /data/index.html || echo hello >/data/index.html; exec httpd -f -p 8080 -h /data"]
          readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
          volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec:
  rules:
    - host: web.example
      http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: client, image: toolbox, imagePullPolicy: IfNotPresent, command: [sleep, infinity]}]
`

const policy = `
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from:
        - podSelector: {matchLabels: {friend: "yes"}}
        - namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: traefik}}
`

// fetch asks the web server from the client: the cluster's DNS for its address,
// and that for the page.
func (s *suite) fetch() error {
	out, err := s.kubectl("", "exec", "client", "--", "sh", "-c", `
		ip=$(nslookup -type=a web.default.svc.cluster.local | sed -n '/^Name/,$s/^Address: //p')
		exec timeout 3 wget -q -O - "http://$ip/"`)
	if err == nil && out != "hello" {
		err = fmt.Errorf("it says %q", out)
	}
	return err
}

// visit asks for the Ingress at the port of this machine.
func visit(url string) error {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Host = "web.example"
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
	}}
	answer, err := client.Do(r)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || string(body) != "hello\n" {
		return fmt.Errorf("%s: %q", answer.Status, body)
	}
	return nil
}

// works checks, on a cluster that is up, what it is for.
func (s *suite) works(t *testing.T) {
	t.Helper()
	eventually(t, 30*time.Second, s.pods)
	eventually(t, 30*time.Second, s.fetch) // DNS, Service, and pods on several nodes
	eventually(t, 30*time.Second, func() error { return visit("http://127.0.0.1:8080/") })
	eventually(t, 30*time.Second, func() error { return visit("https://127.0.0.1:8443/") })
	eventually(t, time.Minute, s.top)
}

// pods: all run, and none is a stranger's. The helper that has made a volume
// needs a moment to be gone.
func (s *suite) pods() error {
	out, err := s.kubectl("", "get", "pods", "-A", "--no-headers")
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "Running" && f[3] != "Completed" || !slices.Contains(systemNamespaces, f[0]) && f[0] != "default" {
			err = errors.Join(err, fmt.Errorf("pod %s", line))
		}
	}
	return err
}

// top: there are figures of each node; metrics-server answers when it has those
// of one, and asks for more every 15 s.
func (s *suite) top() error {
	out, err := s.kubectl("", "top", "nodes", "--no-headers")
	if err != nil {
		return err
	}
	if strings.Contains(out, "unknown") || !strings.Contains(out, "sandbox-control-plane") {
		return fmt.Errorf("kubectl top nodes: %s", out)
	}
	return nil
}

func (s *suite) ids() []string {
	have, err := s.find(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	var ids []string
	for _, n := range have.nodes {
		ids = append(ids, n.ID)
	}
	return ids
}

func TestCluster(t *testing.T) {
	s := newSuite(t)
	s.needImages()
	const before = "apiVersion: v1\nclusters: []\ncontexts:\n- context:\n    cluster: c\n    user: u\n  name: mine\ncurrent-context: mine\nkind: Config\nusers: []\n"
	if err := errors.Join(os.Mkdir(home(s)+"/.kube", 0o755), os.WriteFile(s.user.Path, []byte(before), 0o600), os.Chown(home(s)+"/.kube", s.user.UID, s.user.GID), os.Chown(s.user.Path, s.user.UID, s.user.GID)); err != nil {
		t.Fatal(err)
	}
	opts := api.UpOptions{Settings: api.Settings{Nodes: 2}}
	begun := time.Now()
	s.must(opts, 5*time.Minute)
	t.Logf("up took %v", time.Since(begun))
	nodes := s.ids()

	conf, err := os.ReadFile(s.user.Path)
	if err != nil || !strings.Contains(string(conf), "current-context: sandbox") || !strings.Contains(string(conf), "name: mine") {
		t.Errorf("kubeconfig: %v\n%s", err, conf)
	}
	if kubectl, err := exec.LookPath("kubectl"); err == nil {
		cmd := exec.Command(kubectl, "--cache-dir", t.TempDir(), "--kubeconfig", s.user.Path, "get", "nodes")
		if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), " Ready ") != 2 {
			t.Errorf("kubectl on this machine: %v\n%s", err, out)
		}
	}
	s.mustKubectl(workload, "apply", "-f", "-")
	s.mustKubectl("", "wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	s.works(t)
	t.Run("policy", s.policy)
	t.Run("metrics", s.metrics)
	t.Run("status", func(t *testing.T) { s.status(t, stack.StateUp, "2 nodes") })

	t.Run("up again", func(t *testing.T) {
		begun := time.Now()
		tasks := s.must(opts, 20*time.Second)
		t.Logf("up again took %v", time.Since(begun))
		for _, name := range []string{"nodes", "kubeconfig"} {
			if note := tasks["cluster "+name].Note; !strings.Contains(note, "already there") {
				t.Errorf("%s: %s", name, note)
			}
		}
		if again := s.ids(); !slices.Equal(again, nodes) {
			t.Errorf("nodes %v, were %v", again, nodes)
		}
	})
	t.Run("other choices", func(t *testing.T) {
		for _, other := range []api.Settings{{Nodes: 3}, {Ports: map[string]uint16{ServiceIngress: 9080}}} {
			_, err := s.up(t.Context(), api.UpOptions{Settings: other})
			hint, ok := errors.AsType[interface {
				error
				Hint() string
			}](err)
			if !errdefs.IsFailedPrecondition(err) || !ok || !strings.Contains(hint.Hint(), "sudo sandbox down") {
				t.Errorf("%+v: %v", other, err)
			}
		}
		s.must(api.UpOptions{}, time.Minute) // any number of nodes
	})
	t.Run("addresses move", func(t *testing.T) { s.addressesMove(t, opts, nodes) })
	t.Run("repair", func(t *testing.T) {
		s.mustKubectl("", "delete", "namespace", "traefik", "--wait")
		s.mustKubectl("", "delete", "deployment", "-n", "kube-system", "metrics-server")
		s.must(opts, 2*time.Minute)
		s.works(t)
	})
	t.Run("a worker is lost", func(t *testing.T) {
		if err := dockertest.Client(t).ContainerRemove(t.Context(), nodes[1], container.RemoveOptions{Force: true, RemoveVolumes: true}); err != nil {
			t.Fatal(err)
		}
		s.status(t, stack.StateDegraded, "only 1 of 2 nodes")
		tasks := s.must(opts, 3*time.Minute)
		if note := tasks["cluster nodes"].Note; !strings.Contains(note, "made anew: sandbox-worker") {
			t.Errorf("note %q", note)
		}
		if again := s.ids(); len(again) != 2 || again[0] != nodes[0] {
			t.Errorf("nodes %v, were %v", again, nodes)
		}
		if out := s.mustKubectl("", "get", "nodes", "--no-headers"); strings.Count(out, " Ready ") != 2 {
			t.Errorf("nodes:\n%s", out)
		}
	})
	t.Run("down", func(t *testing.T) {
		if err := s.down(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := s.left(); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
		if conf, err := os.ReadFile(s.user.Path); err != nil || string(conf) != before {
			t.Errorf("kubeconfig: %v\n%s", err, conf)
		}
		s.status(t, stack.StateDown, "")
	})
}

func home(s *suite) string { return strings.TrimSuffix(s.user.Path, "/.kube/config") }

func (s *suite) status(t *testing.T, state, note string) {
	t.Helper()
	items, err := s.Status(t.Context())
	if err != nil || len(items) == 0 || items[0].State != state || !strings.Contains(items[0].Note, note) {
		t.Errorf("status %+v, %v; want %s, %s", items, err, state, note)
	}
}

// policy: one that admits friends keeps others out, at once and no longer than
// it is there.
func (s *suite) policy(t *testing.T) {
	s.mustKubectl(policy, "apply", "-f", "-")
	eventually(t, 30*time.Second, func() error {
		if s.fetch() == nil {
			return errors.New("a stranger is let in")
		}
		return nil
	})
	s.mustKubectl("", "label", "pod", "client", "friend=yes")
	eventually(t, 30*time.Second, s.fetch)
	s.mustKubectl("", "label", "pod", "client", "friend-")
	eventually(t, 30*time.Second, func() error {
		if s.fetch() == nil {
			return errors.New("a stranger is let in")
		}
		return nil
	})
	s.mustKubectl("", "delete", "networkpolicy", "web")
	eventually(t, 30*time.Second, s.fetch)
}

// metrics: Prometheus, which is in Docker's network, reaches those of the
// control plane.
func (s *suite) metrics(t *testing.T) {
	have, err := s.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := dockertest.Client(t)
	n, err := c.ContainerInspect(t.Context(), have.nodes[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	ip := n.NetworkSettings.Networks[docker.NetworkName].IPAddress
	e, err := s.entry(t.Context(), have.nodes[0])
	if err != nil {
		t.Fatal(err)
	}
	admin, err := tls.X509KeyPair(e.ClientCert, e.ClientKey)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{admin}},
	}}
	for url, metric := range map[string]string{
		"http://" + ip + ":2381/metrics":   "etcd_server_has_leader 1",
		"http://" + ip + ":10249/metrics":  "kubeproxy_sync_proxy_rules",
		"https://" + ip + ":10257/metrics": "workqueue_depth",
		"https://" + ip + ":10259/metrics": "scheduler_schedule_attempts_total",
		"https://" + ip + ":10250/metrics": "kubelet_node_name",
	} {
		answer, err := client.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		body, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || answer.StatusCode != http.StatusOK || !strings.Contains(string(body), metric) {
			t.Errorf("%s: %s, %v, %d bytes without %s", url, answer.Status, err, len(body), metric)
		}
	}
}
