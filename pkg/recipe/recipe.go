// Package recipe knows the folders that images are built from: what their
// recipe.yaml says, what is wrong with it, in which order they are built, and
// how to tell that an image works.
package recipe

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/docker/go-units"
	"go.yaml.in/yaml/v3"
)

// FileName is the file that makes a folder a recipe.
const FileName = "recipe.yaml"

// Recipe is a recipe.yaml. The doc tags are the JSON schema's descriptions.
type Recipe struct {
	Name        string `yaml:"name" doc:"The image's name, and the folder's."`
	Version     string `yaml:"version" doc:"The version of what is in the image. It becomes the image's tag beside latest."`
	Description string `yaml:"description" doc:"What the image is, in one line."`
	Licence     string `yaml:"licence" doc:"The licence of what is in the image, as an SPDX expression."`
	Upstream    string `yaml:"upstream,omitempty" doc:"The image that this one stands in for, with its digest: it takes the same arguments, ports and volumes."`
	// Platforms are as in image indexes, "linux/amd64"; none means any.
	Platforms []string           `yaml:"platforms,omitempty" doc:"What the image can be built for; without it, for whatever machine it is built on."`
	Contexts  map[string]Context `yaml:"contexts,omitempty" doc:"What the Dockerfile can copy from by name, beside its own folder."`
	Caches    []string           `yaml:"caches,omitempty" doc:"The IDs of the cache mounts that the Dockerfile uses. Recipes that name the same one share it."`
	Args      map[string]string  `yaml:"args,omitempty" doc:"Values for the Dockerfile's ARGs."`
	// Created is the time that everything in the image claims to be from.
	Created time.Time `yaml:"created" doc:"The date of this version. Nothing in the image is newer, so that two builds are the same."`
	Stage   string    `yaml:"stage,omitempty" doc:"The stage of the sandbox that uses the image."`
	Size    string    `yaml:"size,omitempty" doc:"How large the image's layers may be, compressed, as in 150MB. A larger image is an error."`
	// UpstreamOnly says that there is no Dockerfile.
	UpstreamOnly bool    `yaml:"upstream_only,omitempty" doc:"There is nothing to build: the image is upstream's. Say why in the description."`
	Smoke        []Smoke `yaml:"smoke,omitempty" doc:"How to tell that the image works."`

	Dir   string   `yaml:"-"` // the recipe's folder, absolute
	Needs []string `yaml:"-"` // recipes that must be built before, sorted; see Catalogue
}

// Context is a further build context. Exactly one of its fields is set.
type Context struct {
	Dir    string  `yaml:"dir,omitempty" doc:"A folder inside of the recipe's."`
	Recipe string  `yaml:"recipe,omitempty" doc:"The image of another recipe."`
	Debian *Debian `yaml:"debian,omitempty" doc:"A root file system made of Debian's packages."`
}

// Debian is a root file system as mmdebstrap makes it.
type Debian struct {
	Suite    string   `yaml:"suite" doc:"A release's name, such as trixie."`
	Variant  string   `yaml:"variant,omitempty" doc:"How much of a system it is, as in mmdebstrap(1). Default: minbase."`
	Packages []string `yaml:"packages,omitempty" doc:"Packages to install beside the variant's."`
}

// Smoke is one test of an image: a container is started and, in this order,
// asked over HTTP, made to execute a command, and waited for.
type Smoke struct {
	Name       string            `yaml:"name" doc:"What works if this passes."`
	Args       []string          `yaml:"args,omitempty" doc:"The container's command; without it, the image's."`
	Entrypoint []string          `yaml:"entrypoint,omitempty" doc:"Instead of the image's."`
	Env        []string          `yaml:"env,omitempty" doc:"KEY=VALUE."`
	Mounts     []string          `yaml:"mounts,omitempty" doc:"Where to mount an empty tmpfs."`
	Files      map[string]string `yaml:"files,omitempty" doc:"Files to be there, by their paths in the container."`
	ExitCode   int               `yaml:"exit_code,omitempty" doc:"How a container that ends must have ended."`
	Expect     string            `yaml:"expect,omitempty" doc:"A regular expression to be found in the output of exec or, without exec, of a container that ends."`
	Port       int               `yaml:"port,omitempty" doc:"The TCP port to ask for path. Asking is repeated until the timeout."`
	Path       string            `yaml:"path,omitempty" doc:"What to GET over HTTP. Without it, port must only accept connections."`
	Status     int               `yaml:"status,omitempty" doc:"The status that the answer must have. Default: 200."`
	Body       string            `yaml:"body,omitempty" doc:"A regular expression to be found in the answer's body."`
	Exec       []string          `yaml:"exec,omitempty" doc:"A command to run in the container, repeated until it succeeds or the timeout."`
	Timeout    Duration          `yaml:"timeout,omitempty" doc:"How long the test may take from the container's start, as in 90s. Default: 60s."`
}

// Duration is a time.Duration that is written as 90s or 1m30s.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil || v <= 0 {
		return fmt.Errorf("line %d: %q is no duration, such as 90s", n.Line, n.Value)
	}
	*d = Duration(v)
	return nil
}

// MarshalYAML implements yaml.Marshaler.
func (d Duration) MarshalYAML() (any, error) { return time.Duration(d).String(), nil }

// Dockerfile is where the recipe's Dockerfile is.
func (r *Recipe) Dockerfile() string { return filepath.Join(r.Dir, "Dockerfile") }

// ImageName is what the image is called, beside NAME:VERSION. The name without a
// version of an image that every store has is that image's: what is built FROM
// it does not depend on whether its recipe was built before.
func (r *Recipe) ImageName() string {
	if slices.Contains(builtin, r.Name) {
		return r.Name + ":" + r.Version
	}
	return r.Name + ":latest"
}

// Budget is what Size allows, in bytes; 0 without a limit.
func (r *Recipe) Budget() (int64, error) {
	if r.Size == "" {
		return 0, nil
	}
	n, err := units.FromHumanSize(r.Size)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("%q is no size, such as 150MB", r.Size)
	}
	return n, nil
}

// kinds counts which of the three kinds a context is.
func (c Context) kinds() (n int) {
	for _, is := range []bool{c.Dir != "", c.Recipe != "", c.Debian != nil} {
		if is {
			n++
		}
	}
	return n
}

// variants are those of mmdebstrap(1), the default first.
var variants = []string{
	"minbase", "apt", "essential", "extract", "custom", "required", "buildd", "important", "debootstrap", "standard",
}

// stringSet returns the strings sorted, each once.
func stringSet(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
