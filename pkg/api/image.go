package api

import "time"

// Image is one row of `image ls`.
type Image struct {
	Name    string    `json:"name"`
	ID      string    `json:"id"` // digest of the config
	Size    int64     `json:"size"`
	Created time.Time `json:"created,omitzero"`
	Source  string    `json:"source"` // built-in, archive, registry, recipe, Dockerfile
}

// ImageLayer is what one instruction of a build did; see `image layers`.
type ImageLayer struct {
	Digest      string `json:"digest,omitempty"` // of the blob, as stored
	DiffID      string `json:"diff_id,omitempty"`
	Instruction string `json:"instruction"`
	Size        int64  `json:"size"`     // bytes of the blob
	Unpacked    int64  `json:"unpacked"` // bytes of its files
	// Wasted is how many of those bytes a later layer replaces or removes.
	Wasted  int64 `json:"wasted"`
	Added   int   `json:"added"`
	Changed int   `json:"changed"`
	Removed int   `json:"removed"`
	// Empty marks an instruction that only changed the configuration.
	Empty bool        `json:"empty,omitempty"`
	Tree  []ImageFile `json:"tree,omitempty"`
}

// ImageFile is one entry of a layer.
type ImageFile struct {
	Path   string `json:"path"`
	Change string `json:"change"` // added, changed, removed
	Size   int64  `json:"size"`
	Mode   string `json:"mode"` // as ls shows it
	Wasted bool   `json:"wasted,omitempty"`
}

// ImageProgress is one line of a pull, import or export.
type ImageProgress struct {
	Item   string `json:"item"` // a blob, a file, an image
	Status string `json:"status"`
	Done   int64  `json:"done,omitempty"` // bytes
	Total  int64  `json:"total,omitempty"`
	Note   string `json:"note,omitempty"`
}

// BuildEvent is one step of an image build as it begins, speaks or ends.
type BuildEvent struct {
	Recipe      string        `json:"recipe,omitempty"`
	Stage       string        `json:"stage,omitempty"`
	Step        string        `json:"step,omitempty"` // "2/7"
	Instruction string        `json:"instruction,omitempty"`
	Status      string        `json:"status,omitempty"`
	Stream      string        `json:"stream,omitempty"` // stdout, stderr: of Output
	Output      string        `json:"output,omitempty"`
	Cached      bool          `json:"cached,omitempty"`
	Took        time.Duration `json:"took_ns,omitempty"`
	Layer       *ImageLayer   `json:"layer,omitempty"`
	Error       string        `json:"error,omitempty"`
}

// ImageEntry is a regular file of a folder in an image.
type ImageEntry struct {
	Name string `json:"name"` // without the folder
	Size int64  `json:"size"` // bytes
	Mode uint32 `json:"mode"` // permission bits
}
