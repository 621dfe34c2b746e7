// Package embedded holds the files that are built before the sandbox binary
// and travel inside it.
package embedded

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
)

//go:embed files
var files embed.FS

// Names of the embedded files.
const (
	Runtime = "sandbox-runtime"
	Toolbox = "toolbox.tar.gz"
	Recipes = "recipes.tar.gz"
)

// Open returns an embedded file. A binary that was built by a bare
// `go build`, without `make`, lacks them; the error says so.
func Open(name string) (fs.File, error) {
	f, err := files.Open("files/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s is not inside this binary: it was built without `make build`: %w", name, err)
	}
	return f, err
}
