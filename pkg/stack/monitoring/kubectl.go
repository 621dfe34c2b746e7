package monitoring

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
	"go.yaml.in/yaml/v3"
)

// Kubectl is a Cluster that is asked by kubectl: as its administrator, with
// stdin if it is not nil. It returns what kubectl writes to stdout, and
// errdefs.ErrFailedPrecondition where there is no cluster.
type Kubectl func(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error)

// rolloutTimeout is how long a Deployment may take: its image is pulled from
// this machine.
const rolloutTimeout = "3m"

// Reach implements Cluster: kubectl's own configuration knows the way, if it
// leads to a name that containers in Docker's network know.
func (k Kubectl) Reach(ctx context.Context) (Reach, error) {
	out, err := k(ctx, nil, "config", "view", "--raw", "--minify", "-o", "json")
	if errdefs.IsFailedPrecondition(err) {
		return Reach{}, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return Reach{}, err
	}
	// A control plane that is starting, after a reboot, has its configuration
	// long before it answers.
	if _, err := k(ctx, nil, "get", "--raw=/readyz", "--request-timeout=5s"); err != nil {
		return Reach{}, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	var config struct {
		Clusters []struct {
			Cluster struct {
				Server string `json:"server"`
				CA     []byte `json:"certificate-authority-data"`
			} `json:"cluster"`
		} `json:"clusters"`
	}
	if err := json.Unmarshal(out, &config); err != nil || len(config.Clusters) != 1 {
		return Reach{}, fmt.Errorf("kubectl's configuration has %d clusters: %w", len(config.Clusters), errors.Join(err, errdefs.ErrInvalidArgument))
	}
	c := config.Clusters[0].Cluster
	server, err := url.Parse(c.Server)
	if err != nil || server.Scheme != "https" || server.Port() == "" {
		return Reach{}, fmt.Errorf("the API server's address %q is not https://HOST:PORT: %w", c.Server, errdefs.ErrInvalidArgument)
	}
	return Reach{APIServer: server.Host, CA: c.CA}, nil
}

// Apply implements Cluster.
func (k Kubectl) Apply(ctx context.Context, manifests []byte) error {
	// By the server, so that what others have added to an object stays.
	if _, err := k(ctx, bytes.NewReader(manifests), "apply", "--server-side", "--force-conflicts", "--field-manager=sandbox", "-f", "-"); err != nil {
		return err
	}
	for d := yaml.NewDecoder(bytes.NewReader(manifests)); ; {
		var object struct {
			Kind     string
			Metadata struct{ Name, Namespace string }
		}
		err := d.Decode(&object)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if object.Kind != "Deployment" {
			continue
		}
		m := object.Metadata
		if _, err := k(ctx, nil, "rollout", "status", "--timeout="+rolloutTimeout, "-n", m.Namespace, "deployment/"+m.Name); err != nil {
			return fmt.Errorf("%w%s", err, k.why(ctx, m.Namespace))
		}
	}
}

// why are a namespace's warnings, to be put behind an error.
func (k Kubectl) why(ctx context.Context, namespace string) string {
	out, err := k(ctx, nil, "get", "events", "-n", namespace, "--field-selector=type=Warning", "-o", "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}")
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if last := lines[len(lines)-1]; err == nil && last != "" {
		return "; its last warning: " + last
	}
	return ""
}

// Secret implements Cluster.
func (k Kubectl) Secret(ctx context.Context, namespace, name string) (map[string][]byte, error) {
	out, err := k(ctx, nil, "get", "secret", "-n", namespace, name, "--ignore-not-found", "-o", "json")
	if err != nil {
		return nil, err
	}
	if len(bytes.TrimSpace(out)) == 0 {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, errdefs.ErrNotFound)
	}
	var secret struct{ Data map[string][]byte }
	if err := json.Unmarshal(out, &secret); err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", namespace, name, err)
	}
	return secret.Data, nil
}
