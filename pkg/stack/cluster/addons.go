package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	yaml "go.yaml.in/yaml/v3"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// fieldManager owns in the API what the stack applies.
const fieldManager = "sandbox"

// addons applies what runs in the cluster besides Kubernetes.
func (u *up) addons(ctx context.Context, p stack.Progress) error {
	if u.applied.Load() {
		p.Note("while the control plane started")
		return nil
	}
	registry, err := u.registry(ctx)
	if err != nil {
		return err
	}
	// Docker's network may have been made anew, with another gateway. Containerd
	// reads the file at every pull.
	errs := each(u.have.nodes, func(n node) error { return u.writeFile(ctx, n, hostsFile, hosts(registry)) })
	if err := errors.Join(errs...); err != nil {
		return err
	}
	n, _ := u.have.controlPlane()
	begun := time.Now()
	changed, err := u.applyAddons(ctx, n)
	if err != nil {
		return err
	}
	if len(changed) == 0 {
		p.Note("already there")
		return nil
	}
	p.Note("%d objects in %.1f s", len(changed), time.Since(begun).Seconds())
	return nil
}

// applyAddons returns the names of the objects. The Gateway API comes last, since
// the pods of the others need a while.
func (u *up) applyAddons(ctx context.Context, n node) ([]string, error) {
	manifests, err := Manifests(content.Files, Name, u.images)
	if err != nil {
		return nil, err
	}
	names, err := u.apply(ctx, n, manifests)
	if err != nil {
		return nil, err
	}
	more, err := u.applyGateway(ctx, n)
	return append(names, more...), err
}

// Apply makes the objects of a YAML stream what the stream says, by server-side
// apply: what others have added to them stays.
func (s *Stage) Apply(ctx context.Context, manifests []byte) error {
	have, err := s.find(ctx)
	if err != nil {
		return err
	}
	n, ok := have.controlPlane()
	if !ok {
		return fmt.Errorf("apply manifests: there is no cluster")
	}
	_, err = s.apply(ctx, n, manifests)
	return err
}

// apply returns the names of the objects.
func (s *Stage) apply(ctx context.Context, n node, manifests []byte) ([]string, error) {
	out, err := s.kubectl(ctx, n, bytes.NewReader(manifests),
		"apply", "--server-side", "--force-conflicts", "--field-manager="+fieldManager, "--output=name", "--filename=-")
	return strings.Fields(string(out)), err
}

// Manifests returns the manifests below a folder of fsys as one YAML stream, in
// order of their file names, with the stage's label on every object and on the
// pods that it makes. Images, which the manifests name by their recipes, are
// those that nodes can pull, pinned by digest.
func Manifests(fsys fs.FS, stage string, images map[string]stack.Image) ([]byte, error) {
	names, err := fs.Glob(fsys, "manifests/*.yaml")
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	for _, name := range names {
		b, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		for d := yaml.NewDecoder(bytes.NewReader(b)); ; {
			var object yaml.Node
			if err := d.Decode(&object); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return nil, fmt.Errorf("manifest %s: %w", name, err)
			}
			if err := adapt(&object, stage, images); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", name, err)
			}
			if err := e.Encode(&object); err != nil {
				return nil, fmt.Errorf("manifest %s: %w", name, err)
			}
		}
	}
	return out.Bytes(), e.Close()
}

// adapt labels an object, and puts images in place of recipes' names.
func adapt(document *yaml.Node, stage string, images map[string]stack.Image) error {
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: not an object", document.Line)
	}
	object := document.Content[0]
	metadata := field(object, "metadata")
	if metadata == nil {
		return fmt.Errorf("line %d: an object without metadata", object.Line)
	}
	label(metadata, stage)
	if pod := field(object, "spec", "template", "metadata"); pod != nil {
		label(pod, stage)
	}
	return walk(object, func(key string, value *yaml.Node) error {
		if key != "image" || value.Kind != yaml.ScalarNode {
			return nil
		}
		img, ok := images[value.Value]
		if !ok {
			return fmt.Errorf("line %d: image %q is no recipe that the stage brings in", value.Line, value.Value)
		}
		pinned, err := pin(img)
		if err != nil {
			return err
		}
		value.Value = pinned
		return nil
	})
}

// pin is how nodes call an image: with the host and the digest.
func pin(img stack.Image) (string, error) {
	named, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil {
		return "", fmt.Errorf("image %q: %w", img.Name, err)
	}
	d, err := digest.Parse(img.Digest)
	if err != nil {
		return "", fmt.Errorf("image %s: digest %q: %w", img.Name, img.Digest, err)
	}
	pinned, err := reference.WithDigest(reference.TagNameOnly(named), d)
	if err != nil {
		return "", fmt.Errorf("image %s: %w", img.Name, err)
	}
	return pinned.String(), nil
}

// field returns what is at a path of keys, or nil.
func field(n *yaml.Node, keys ...string) *yaml.Node {
	for _, key := range keys {
		var found *yaml.Node
		for i := 0; n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				found = n.Content[i+1]
			}
		}
		if found == nil {
			return nil
		}
		n = found
	}
	return n
}

func label(metadata *yaml.Node, stage string) {
	labels := field(metadata, "labels")
	if labels == nil {
		labels = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		metadata.Content = append(metadata.Content, scalar("labels"), labels)
	}
	labels.Content = append(labels.Content, scalar(docker.LabelStage), scalar(stage))
}

func scalar(s string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s} }

// walk calls f for every field below n.
func walk(n *yaml.Node, f func(key string, value *yaml.Node) error) error {
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if err := f(n.Content[i].Value, n.Content[i+1]); err != nil {
				return err
			}
		}
	}
	for _, child := range n.Content {
		if err := walk(child, f); err != nil {
			return err
		}
	}
	return nil
}
