// Package terraform points a folder of Terraform's at the sandbox's AWS: by an
// override file, so that what is in the folder stays as it is and runs as it is.
//
// https://developer.hashicorp.com/terraform/language/files/override
package terraform

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// FileName is the file that InitDir writes.
const FileName = "sandbox_override.tf"

// mark is how a file of InitDir begins, whichever version has written it.
const mark = "# Written by `sandbox tf init-dir`"

// Options are the AWS that a folder is pointed at.
type Options struct {
	Endpoint string // URL
	Region   string
	Bucket   string // of the state
	Table    string // of the locks
	// UseLockfile has the state locked by a file beside it, whatever the
	// configuration says; without it DynamoDB locks it, unless the
	// configuration has use_lockfile.
	UseLockfile bool
}

// InitDir writes the override file of a folder. It is errdefs.ErrNotFound
// without that folder, ErrAlreadyExists when another has written the file,
// ErrFailedPrecondition when the state is kept in something else than S3, and
// ErrInvalidArgument for what is no HCL, with file and line.
func InitDir(dir string, o Options) (api.TerraformDir, error) {
	var none api.TerraformDir
	abs, err := filepath.Abs(dir)
	if err != nil {
		return none, err
	}
	fi, err := os.Stat(abs)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return none, stack.WithHint(fmt.Errorf("folder %s does not exist: %w", dir, errdefs.ErrNotFound), "it is to be the folder that you run tofu or terraform in")
	case err != nil:
		return none, err
	case !fi.IsDir():
		return none, fmt.Errorf("%s is no folder: %w", dir, errdefs.ErrInvalidArgument)
	}
	path := filepath.Join(abs, FileName)
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return none, err
	case !bytes.HasPrefix(have, []byte(mark)):
		return none, stack.WithHint(
			fmt.Errorf("%s is there, and sandbox has not written it: %w", filepath.Join(dir, FileName), errdefs.ErrAlreadyExists),
			"rename it: every file whose name ends in _override.tf counts",
		)
	}
	c, err := read(abs, dir)
	if err != nil {
		return none, err
	}
	if c.backend != nil && c.backend.kind != "s3" {
		return none, stack.WithHint(
			fmt.Errorf("%s: the state is kept in %s, and only the backend s3 can be pointed at the sandbox: %w", c.backend.where, c.backend.kind, errdefs.ErrFailedPrecondition),
			"remove that block to have the state in the sandbox's bucket",
		)
	}
	text, result := render(c, filepath.Base(abs), o)
	result.File = path
	if bytes.Equal(have, text) {
		return result, nil
	}
	result.Changed = true
	if err := state.WriteFile(path, text, 0o644); err != nil {
		return none, fmt.Errorf("write %s: %w", path, err)
	}
	return result, own(path, fi)
}

// quote writes a string as HCL does.
func quote(s string) string {
	s = fmt.Sprintf("%q", s)
	return strings.NewReplacer("${", "$${", "%{", "%%{").Replace(s)
}
