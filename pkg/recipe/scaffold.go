package recipe

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// New makes the folder of a recipe in dir, to start from: it lints clean, can
// be built without any other recipe, and passes its smoke test. It returns the
// folder. One that exists is errdefs.ErrAlreadyExists.
func New(dir, name string) (string, error) {
	if !namePattern.MatchString(name) || len(name) > 63 {
		return "", fmt.Errorf("new recipe %q: use small letters and digits, joined by - . or _: %w", name, errdefs.ErrInvalidArgument)
	}
	folder := filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	// Built beside its place: nothing half made is taken for a recipe.
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil { //nolint:gosec // a source folder
		return "", err
	}
	fill := strings.NewReplacer("@NAME@", name, "@DATE@", time.Now().UTC().Format(time.DateOnly))
	for file, content := range scaffold {
		if err := os.WriteFile(filepath.Join(tmp, file), []byte(fill.Replace(content)), 0o644); err != nil { //nolint:gosec // likewise
			return "", err
		}
	}
	if _, err := os.Lstat(folder); err == nil {
		return "", fmt.Errorf("new recipe %s: %s exists: %w", name, folder, errdefs.ErrAlreadyExists)
	}
	return folder, os.Rename(tmp, folder)
}

var scaffold = map[string]string{
	FileName: `# yaml-language-server: $schema=../recipe.schema.json
name: @NAME@
version: 0.1.0
description: Says hello; put here what the image is, in one line.
licence: Apache-2.0
created: @DATE@
size: 20MB
# upstream: registry.example/@NAME@:0.1.0@sha256:…   the image that this one stands in for
# contexts: {rootfs: {debian: {suite: trixie, packages: [ca-certificates]}}}
# caches: [gomod, gobuild]
smoke:
  - name: says hello
    expect: '^hello from @NAME@\n$'
`,
	"Dockerfile": `FROM toolbox AS build
RUN echo "hello from @NAME@" > /greeting

FROM toolbox
COPY --from=build /greeting /greeting
ENTRYPOINT ["cat"]
CMD ["/greeting"]
`,
	".dockerignore": "recipe.yaml\nDockerfile\n.dockerignore\n",
}
