package cluster

import (
	"fmt"
	"io/fs"
	"strings"

	"sigs.k8s.io/kind/pkg/apis/config/v1alpha4"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// labelIngress is the Kubernetes label of the node whose ports 80 and 443 this
// machine publishes.
const labelIngress = "io.sandboxlabs.ingress"

// kindConfig is what kind makes the cluster by: one control plane, the rest
// workers, each from image.
func kindConfig(s spec, image string) (*v1alpha4.Cluster, error) {
	patches, err := fs.ReadFile(content.Files, "kubeadm.yaml")
	if err != nil {
		return nil, err
	}
	c := &v1alpha4.Cluster{
		TypeMeta: v1alpha4.TypeMeta{Kind: "Cluster", APIVersion: "kind.x-k8s.io/v1alpha4"},
		Name:     clusterName,
		Networking: v1alpha4.Networking{
			IPFamily:         v1alpha4.IPv4Family,
			APIServerAddress: loopback.String(), // and a free port, which stays
		},
		KubeadmConfigPatches: documents(string(patches)),
	}
	for i := range s.Nodes {
		n := v1alpha4.Node{Role: v1alpha4.WorkerRole, Image: image, Labels: map[string]string{docker.LabelStage: Name}}
		if i == 0 {
			n.Role = v1alpha4.ControlPlaneRole
			n.Labels[labelIngress] = "true"
			n.ExtraPortMappings = []v1alpha4.PortMapping{
				{ContainerPort: 80, HostPort: int32(s.HTTP), ListenAddress: loopback.String(), Protocol: v1alpha4.PortMappingProtocolTCP},
				{ContainerPort: 443, HostPort: int32(s.HTTPS), ListenAddress: loopback.String(), Protocol: v1alpha4.PortMappingProtocolTCP},
			}
		}
		c.Nodes = append(c.Nodes, n)
	}
	v1alpha4.SetDefaultsCluster(c)
	return c, nil
}

// documents takes a YAML stream apart.
func documents(stream string) []string {
	var out []string
	for doc := range strings.SplitSeq(stream, "\n---\n") {
		if strings.TrimSpace(doc) != "" {
			out = append(out, doc)
		}
	}
	return out
}

// nodeNames are the names that kind gives to the nodes, the control plane's
// first (pkg/cluster/internal/providers/common, MakeNodeNamer).
func nodeNames(n int) []string {
	names := []string{clusterName + "-control-plane"}
	for i := 1; i < n; i++ {
		name := clusterName + "-worker"
		if i > 1 {
			name += fmt.Sprint(i)
		}
		names = append(names, name)
	}
	return names
}
