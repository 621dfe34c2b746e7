// Package aws has the files of the stage aws: LocalStack's add-on, as its
// container sees it in /etc/localstack/init.
package aws

import (
	"embed"
	"io/fs"
)

//go:embed init/start.d/*.py init/keep/*.py
var files embed.FS

// Init returns the folder.
func Init() fs.FS {
	sub, err := fs.Sub(files, "init")
	if err != nil {
		panic(err) // the name is a constant, and valid
	}
	return sub
}
