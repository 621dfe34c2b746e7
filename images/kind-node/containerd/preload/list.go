package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// entry is an image to be made.
type entry struct {
	// Names as Kubernetes spells them: with registry and tag.
	Names []string `json:"names"`
	// Trees are folders, each the image's whole root file system up to there,
	// the last one being the image's: a layer holds what a tree changes in the
	// one before it. Images whose lists start alike share those layers.
	Trees  []string          `json:"trees"`
	Config ispec.ImageConfig `json:"config"`
}

// readList reads and checks a list of images.
func readList(path string) ([]entry, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open list of images: %w", err)
	}
	defer f.Close()
	dec := json.NewDecoder(f)
	dec.DisallowUnknownFields()
	var list []entry
	if err := dec.Decode(&list); err != nil {
		return nil, fmt.Errorf("read list of images %s: %w", path, err)
	}
	seen := map[string]bool{}
	for i, e := range list {
		if err := e.check(seen); err != nil {
			return nil, fmt.Errorf("image %d of %s: %w", i+1, path, err)
		}
	}
	return list, nil
}

// check says what is wrong with e, and remembers its names in seen.
func (e entry) check(seen map[string]bool) error {
	if len(e.Names) == 0 || len(e.Trees) == 0 {
		return errors.New("it needs names and trees")
	}
	for _, name := range e.Names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("name %q: %w", name, err)
		}
		// The kubelet asks containerd for the whole name.
		if tagged, ok := ref.(reference.NamedTagged); !ok || tagged.String() != name {
			return fmt.Errorf("name %q: it must be whole, as in registry.k8s.io/pause:3.10", name)
		}
		if seen[name] {
			return fmt.Errorf("name %q: it is listed twice", name)
		}
		seen[name] = true
	}
	for _, tree := range e.Trees {
		if !filepath.IsLocal(tree) {
			return fmt.Errorf("tree %q: it must be within the folder of trees", tree)
		}
	}
	return nil
}

// checkRequired says which names of a file are not among the images'. The
// file is what kubeadm prints, so that a new version of Kubernetes that wants
// another etcd ends the build, and not a cluster's start.
func checkRequired(path string, list []entry) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open required names: %w", err)
	}
	defer f.Close()
	var have, missing []string
	for _, e := range list {
		have = append(have, e.Names...)
	}
	lines := bufio.NewScanner(f)
	n := 0
	for lines.Scan() {
		name := strings.TrimSpace(lines.Text())
		if name == "" {
			continue
		}
		n++
		if !slices.Contains(have, name) {
			missing = append(missing, name)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read required names %s: %w", path, err)
	}
	if n == 0 {
		return fmt.Errorf("required names %s: there are none", path)
	}
	if len(missing) > 0 {
		return fmt.Errorf("required images are not in the list: %s", strings.Join(missing, ", "))
	}
	return nil
}
