package cluster

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	yaml "go.yaml.in/yaml/v3"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

func TestKindConfig(t *testing.T) {
	c, err := kindConfig(spec{Nodes: 3, HTTP: 80, HTTPS: 8443}, "sandbox-node:1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := yaml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "kind.yaml")
	if os.Getenv("UPDATE") != "" {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("got\n%s\nwant (%s; UPDATE=1 writes it)\n%s", got, golden, want)
	}
	if names := nodeNames(3); !slices.Equal(names, []string{"sandbox-control-plane", "sandbox-worker", "sandbox-worker2"}) {
		t.Errorf("nodes %v", names)
	}
}

func TestChoices(t *testing.T) {
	have := spec{Nodes: 3, HTTP: 8080, HTTPS: 8443}
	for _, tt := range []struct {
		opts api.Settings
		want spec
		fits string // error beside what is there
	}{
		{api.Settings{}, spec{Nodes: 1, HTTP: 8080, HTTPS: 8443}, ""},
		{api.Settings{Nodes: 3, Ports: map[string]uint16{"grafana": 1, "ingress": 8080, "ingress-tls": 8443}}, have, ""},
		{api.Settings{Nodes: 2}, spec{Nodes: 2, HTTP: 8080, HTTPS: 8443}, "has 3 nodes, not 2"},
		{api.Settings{Ports: map[string]uint16{"ingress": 80}}, spec{Nodes: 1, HTTP: 80, HTTPS: 8443}, "its ingress at port 8080, not 80"},
		{api.Settings{Ports: map[string]uint16{"ingress-tls": 443}}, spec{Nodes: 1, HTTP: 8080, HTTPS: 443}, "its TLS ingress at port 8443, not 443"},
	} {
		opts := api.UpOptions{Settings: tt.opts}
		if got := wanted(opts); got != tt.want {
			t.Errorf("%+v: %+v, want %+v", tt.opts, got, tt.want)
		}
		err := have.fits(opts)
		if (err == nil) != (tt.fits == "") || err != nil && !strings.Contains(err.Error(), tt.fits) {
			t.Errorf("%+v: error %v, want %q", tt.opts, err, tt.fits)
		}
		if hint, ok := err.(interface{ Hint() string }); err != nil && (!ok || hint.Hint() == "") {
			t.Errorf("%+v: no hint", tt.opts)
		}
	}
}

// TestManifests: what the stage applies is labelled, and its images are those of
// recipes, pinned.
func TestManifests(t *testing.T) {
	catalogue, err := recipe.LoadAll("../../../images")
	if err != nil {
		t.Fatal(err)
	}
	const d = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	images := map[string]stack.Image{}
	for _, name := range addonImages {
		if catalogue.Recipes[name] == nil {
			t.Errorf("there is no recipe %s", name)
		}
		images[name] = stack.Image{Name: name + ":v1", Digest: d}
	}
	out, err := Manifests(content.Files, "stage-x", images)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for decoder := yaml.NewDecoder(bytes.NewReader(out)); ; {
		var object struct {
			APIVersion, Kind string
			Metadata         struct {
				Name, Namespace string
				Labels          map[string]string
			}
			Spec struct {
				Template struct {
					Metadata struct{ Labels map[string]string }
					Spec     struct{ Containers []struct{ Image string } }
				}
			}
		}
		var node yaml.Node
		if err := decoder.Decode(&node); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		// Kubernetes' names, which are not in lower case as yaml's are.
		lower(&node)
		if err := node.Decode(&object); err != nil {
			t.Fatal(err)
		}
		id := object.Kind + " " + object.Metadata.Namespace + "/" + object.Metadata.Name
		if seen[id] || object.APIVersion == "" || object.Kind == "" || object.Metadata.Name == "" {
			t.Errorf("%s: twice, or incomplete", id)
		}
		seen[id] = true
		if object.Metadata.Labels["io.sandboxlabs.stage"] != "stage-x" {
			t.Errorf("%s: labels %v", id, object.Metadata.Labels)
		}
		if ns := object.Metadata.Namespace; ns != "" && !slices.Contains(systemNamespaces, ns) {
			t.Errorf("%s: the stage does not wait for what is in namespace %s", id, ns)
		}
		for _, c := range object.Spec.Template.Spec.Containers {
			if !strings.HasPrefix(c.Image, "docker.io/library/") || !strings.HasSuffix(c.Image, ":v1@"+d) {
				t.Errorf("%s: image %s", id, c.Image)
			}
			if object.Spec.Template.Metadata.Labels["io.sandboxlabs.stage"] != "stage-x" {
				t.Errorf("%s: its pods' labels are %v", id, object.Spec.Template.Metadata.Labels)
			}
		}
	}
	for _, id := range []string{"Deployment kube-system/metrics-server", "Deployment traefik/traefik", "IngressClass /traefik"} {
		if !seen[id] {
			t.Errorf("no %s", id)
		}
	}
}

func lower(n *yaml.Node) {
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); i += 2 {
			n.Content[i].Value = strings.ToLower(n.Content[i].Value)
		}
	}
	for _, c := range n.Content {
		lower(c)
	}
}

func TestManifestsRefused(t *testing.T) {
	good := stack.Image{Name: "a", Digest: "sha256:" + strings.Repeat("0", 64)}
	for _, tt := range []struct {
		manifest, err string
		img           stack.Image
	}{
		{"a: [", "manifests/x.yaml: yaml", good},
		{"- a", "line 1: not an object", good},
		{"kind: Pod", "without metadata", good},
		{"metadata: {}\nspec: {containers: [{image: docker.io/library/a}]}", `line 2: image "docker.io/library/a" is no recipe`, good},
		{"metadata: {}\nimage: a", "digest", stack.Image{Name: "a", Digest: "x"}},
		{"metadata: {}\nimage: a", `image "A"`, stack.Image{Name: "A", Digest: good.Digest}},
	} {
		_, err := Manifests(fstest.MapFS{"manifests/x.yaml": {Data: []byte(tt.manifest)}}, "s", map[string]stack.Image{"a": tt.img})
		if err == nil || !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%q: error %v, want %s", tt.manifest, err, tt.err)
		}
	}
}

func TestPin(t *testing.T) {
	d := "sha256:" + strings.Repeat("0", 64)
	for name, want := range map[string]string{
		"traefik:latest":                     "docker.io/library/traefik:latest@" + d,
		"traefik":                            "docker.io/library/traefik:latest@" + d,
		"registry.k8s.io/a/metrics:v1":       "registry.k8s.io/a/metrics:v1@" + d,
		"docker.io/rancher/local-path:v0.30": "docker.io/rancher/local-path:v0.30@" + d,
	} {
		if got, err := pin(stack.Image{Name: name, Digest: d}); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
}

func TestHosts(t *testing.T) {
	const want = `# sandbox's own registry, on this machine.
[host."http://172.18.0.1:5055"]
  capabilities = ["pull", "resolve"]
`
	if got := string(hosts("172.18.0.1:5055")); got != want {
		t.Errorf("got\n%s", got)
	}
}

func TestPack(t *testing.T) {
	b, err := pack(file{"/a/b/c", 0o644, []byte("content")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(r)
		got = append(got, fmt.Sprintf("%s %o %s", h.Name, h.Mode, content))
	}
	if want := []string{"a/ 755 ", "a/b/ 755 ", "a/b/c 644 content"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestWords(t *testing.T) {
	if got := list(map[string]int{"recipe": 1, "local store": 2}); got != "2 local store, 1 recipe" {
		t.Error(got)
	}
	if got := tail("a\nb\nc\n", 2); got != "b\nc" {
		t.Errorf("%q", got)
	}
	if got := documents("# x\na: b\n---\nc: d\n"); len(got) != 2 || got[1] != "c: d\n" {
		t.Errorf("%q", got)
	}
}

func TestJoinConfig(t *testing.T) {
	for version, args := range map[string]string{
		"v1beta3": `        node-ip: 172.18.0.3
        node-labels: io.sandboxlabs.stage=cluster
        provider-id: kind://docker/sandbox/sandbox-worker
`,
		"v1beta4": `        - name: node-ip
          value: 172.18.0.3
        - name: node-labels
          value: io.sandboxlabs.stage=cluster
        - name: provider-id
          value: kind://docker/sandbox/sandbox-worker
`,
	} {
		want := `apiVersion: kubeadm.k8s.io/` + version + `
discovery:
    bootstrapToken:
        apiServerEndpoint: sandbox-control-plane:6443
        token: a.b
        unsafeSkipCAVerification: true
kind: JoinConfiguration
nodeRegistration:
    criSocket: unix:///run/containerd/containerd.sock
    kubeletExtraArgs:
` + args + `skipPhases:
    - preflight
`
		conf := "apiServer: {}\napiVersion: kubeadm.k8s.io/" + version + "\n---\napiVersion: kubelet.config.k8s.io/v1beta1\n"
		got, err := joinConfig(conf, "sandbox-control-plane", "sandbox-worker", "172.18.0.3", "a.b")
		if err != nil || string(got) != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	if _, err := joinConfig("apiVersion: kubelet.config.k8s.io/v1beta1\n", "a", "b", "c", "d"); err == nil {
		t.Error("no error without kubeadm's version")
	}
}

func TestMissing(t *testing.T) {
	f := found{spec: spec{Nodes: 3}, nodes: []node{{Name: "sandbox-control-plane"}, {Name: "sandbox-worker2"}}}
	if got := f.missing(); !slices.Equal(got, []string{"sandbox-worker"}) {
		t.Errorf("missing %v", got)
	}
}
