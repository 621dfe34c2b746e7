package api

import (
	"encoding/json"
	"time"
)

// ImageDetail is GET /v1/images/{ref}: one image, whatever name it was asked
// for by.
type ImageDetail struct {
	ID           string            `json:"id"` // digest of the config
	Names        []string          `json:"names"`
	Digest       string            `json:"digest"` // of the manifest
	MediaType    string            `json:"media_type"`
	Platform     string            `json:"platform"` // "linux/amd64"
	Size         int64             `json:"size"`     // bytes of the layers' blobs
	Created      time.Time         `json:"created,omitzero"`
	Source       string            `json:"source"`
	Annotations  map[string]string `json:"annotations,omitempty"` // of the manifest
	LayerDigests []string          `json:"layers"`                // of the blobs, bottom first
	Config       json.RawMessage   `json:"config"`                // image-spec, config.md
	UsedBy       []string          `json:"used_by,omitempty"`     // names of containers
}

// ImagePull is the body of POST /v1/pull.
type ImagePull struct {
	Name     string `json:"name"`
	Platform string `json:"platform,omitempty"` // "linux/amd64"; empty: this machine's
	// ConfigDir is the folder of the docker configuration that has the
	// credentials.
	ConfigDir string `json:"config_dir,omitempty"`
	Insecure  bool   `json:"insecure,omitempty"` // allow plain HTTP
	// Resolve asks for the image from wherever it is to be had: the local
	// store, then a registry, then a recipe.
	Resolve bool `json:"resolve,omitempty"`
	// Recipes is the folder of recipes to use, absolute; empty: those that
	// sandbox comes with.
	Recipes string `json:"recipes,omitempty"`
	// Offline keeps Resolve to this machine: no registry, and no recipe that
	// needs the network.
	Offline bool `json:"offline,omitempty"`
}

// Pulled answers a pull.
type Pulled struct {
	Image Image  `json:"image"`
	From  string `json:"from"`            // local store, or what it came from, for people
	Fresh bool   `json:"fresh,omitempty"` // it was not in the store before
}

// ImageBuild is the body of POST /v1/build. Paths are absolute: the daemon has
// another working folder than who asks.
type ImageBuild struct {
	// Names of recipes to build, with what they need.
	Names []string `json:"names,omitempty"`
	All   bool     `json:"all,omitempty"` // every recipe
	// Recipes is the folder of recipes to use; empty: those that sandbox comes
	// with.
	Recipes string `json:"recipes,omitempty"`
	// Dir is one folder to build instead: a recipe, or just a Dockerfile's
	// context.
	Dir string `json:"dir,omitempty"`

	Dockerfile     []byte            `json:"dockerfile,omitempty"`      // its content, in place of Dir's
	DockerfileName string            `json:"dockerfile_name,omitempty"` // its path, for messages and NAME.dockerignore
	Tags           []string          `json:"tags,omitempty"`
	Args           map[string]string `json:"args,omitempty"`
	Target         string            `json:"target,omitempty"`
	Contexts       map[string]string `json:"contexts,omitempty"` // name -> folder, or image:REF
	Secrets        map[string]string `json:"secrets,omitempty"`  // id -> file
	NoCache        bool              `json:"no_cache,omitempty"`
	NoSmoke        bool              `json:"no_smoke,omitempty"`
	Explain        bool              `json:"explain,omitempty"`
	ConfigDir      string            `json:"config_dir,omitempty"` // as in ImagePull, for FROM
}

// BuildReport answers a build.
type BuildReport struct {
	Images []BuildResult `json:"images"` // in the order of building
	Took   time.Duration `json:"took_ns"`
}

// BuildResult is what has become of one image of a build.
type BuildResult struct {
	Recipe string `json:"recipe,omitempty"`
	Image  *Image `json:"image,omitempty"` // nil if it failed, or is upstream's only
	Digest string `json:"digest,omitempty"`
	// Took does not count the wait for what it needs. Smoked is of it, for the
	// smoke tests.
	Took   time.Duration `json:"took_ns,omitempty"`
	Smoked time.Duration `json:"smoked_ns,omitempty"`
	Note   string        `json:"note,omitempty"` // why there is no image, where that is no error
	Error  *Error        `json:"error,omitempty"`
}

// What a BuildEvent's Status says.
const (
	BuildRunning   = "running"
	BuildTesting   = "testing" // a smoke test begins
	BuildCached    = "cached"
	BuildDone      = "done"
	BuildFailed    = "failed"
	BuildCancelled = "cancelled" // by its client, or by the failure of another
)

// ImagePrune is the body of POST /v1/prune.
type ImagePrune struct {
	All        bool `json:"all,omitempty"`         // also images with names that no container uses
	BuildCache bool `json:"build_cache,omitempty"` // also all of the build cache, not only what is old
	DryRun     bool `json:"dry_run,omitempty"`     // only say which images would go
}

// Pruned answers a prune.
type Pruned struct {
	Images []string `json:"images"` // names, or digests of what had none
	Blobs  int      `json:"blobs"`
	Layers int      `json:"layers"`
	Bytes  int64    `json:"bytes"`       // of disk space, all in all
	Cache  int64    `json:"cache_bytes"` // of it, what the build cache had
}

// ImageSBOM is GET /v1/images/{ref}/sbom.
type ImageSBOM struct {
	MediaType string          `json:"media_type"`
	Digest    string          `json:"digest"` // of the document's manifest
	Document  json.RawMessage `json:"document"`
	// Licences are those of the packages, the most frequent first.
	Licences []Licence `json:"licences"`
}

// Licence is an SPDX expression, and what is under it.
type Licence struct {
	Licence  string   `json:"licence"`
	Packages []string `json:"packages"`
}

// RecipeProblem is one thing to put right in a recipe.
type RecipeProblem struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // counted from 1
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Warning bool   `json:"warning,omitempty"` // it can be built nevertheless
}

// Recipe is one row of the recipes that can be built.
type Recipe struct {
	Name         string `json:"name"`
	Version      string `json:"version"`
	Description  string `json:"description"`
	Upstream     string `json:"upstream,omitempty"`
	UpstreamOnly bool   `json:"upstream_only,omitempty"`
	Stage        string `json:"stage,omitempty"` // that uses the image
}

// Media types of image archives, and the trailer that ends an export: empty,
// or why the archive is not whole, as the JSON of an [Error].
const (
	TarType       = "application/x-tar"
	ExportTrailer = "Sandbox-Export-Error"
)
