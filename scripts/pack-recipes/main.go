// Command pack-recipes writes the recipes in a folder as the archive that
// travels inside the sandbox binary:
//
//	go run ./scripts/pack-recipes images pkg/embedded/files/recipes.tar.gz
//
// The same recipes give the same bytes.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/sandboxlabs/sandbox/pkg/recipe/bundle"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: pack-recipes FOLDER OUT")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "pack-recipes:", err)
		os.Exit(1)
	}
}

func run(dir, out string) error {
	var b bytes.Buffer
	if err := bundle.Pack(dir, &b); err != nil {
		return err
	}
	return os.WriteFile(out, b.Bytes(), 0o644) //nolint:gosec // it becomes part of a program
}
