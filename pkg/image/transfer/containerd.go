package transfer

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// containerd is a namespace of containerd. It is asked by ctr, which comes with
// every containerd and is of its version; to link containerd's own client would
// add 5 MB to this program, and 3 ms to the start of each of its commands.
// CONTAINERD_ADDRESS and CONTAINERD_NAMESPACE are ctr's, and so ours.
type containerd struct {
	namespace string // "" for ctr's default
}

// killDelay is how long ctr may take to end when it is interrupted.
const killDelay = 5 * time.Second

func (c *containerd) Save(ctx context.Context, names []string, w io.Writer) error {
	args := []string{"images", "export", "--platform", runtime.GOOS + "/" + runtime.GOARCH, "-"}
	refs := make([]string, len(names))
	for i, name := range names {
		ref, err := whole(name)
		if err != nil {
			return err
		}
		refs[i] = ref
	}
	if err := c.find(ctx, refs); err != nil {
		return err
	}
	return c.ctr(ctx, "take images from containerd", nil, w, append(args, refs...)...)
}

// find looks for the images: ctr would write the beginning of an archive before
// it misses one.
func (c *containerd) find(ctx context.Context, refs []string) error {
	var out bytes.Buffer
	if err := c.ctr(ctx, "list the images of containerd", nil, &out, "images", "list", "--quiet"); err != nil {
		return err
	}
	have := map[string]bool{}
	for line := range strings.Lines(out.String()) {
		have[strings.TrimSpace(line)] = true
	}
	for _, ref := range refs {
		if !have[ref] {
			return &hinted{
				fmt.Errorf("take image %s from containerd%s: it has none of that name: %w", ref, c.in(), errdefs.ErrNotFound),
				"see: ctr --namespace NAME images ls; Kubernetes uses the namespace k8s.io, Docker moby",
			}
		}
	}
	return nil
}

func (c *containerd) in() string {
	if c.namespace == "" {
		return ""
	}
	return ", namespace " + c.namespace
}

func (c *containerd) Load(ctx context.Context, r io.Reader) ([]string, error) {
	var out bytes.Buffer
	err := c.ctr(ctx, "give images to containerd", r, &out, "images", "import", "--platform", runtime.GOOS+"/"+runtime.GOARCH, "-")
	var loaded []string
	lines := bufio.NewScanner(&out)
	for lines.Scan() {
		// unpacking docker.io/library/app:latest (sha256:…)...done
		if text, ok := strings.CutPrefix(lines.Text(), "unpacking "); ok {
			name, _, _ := strings.Cut(text, " ")
			loaded = append(loaded, name)
		}
	}
	return loaded, err
}

// ctr runs the program between two streams.
func (c *containerd) ctr(ctx context.Context, what string, r io.Reader, w io.Writer, args ...string) error {
	if c.namespace != "" {
		args = append([]string{"--namespace", c.namespace}, args...)
	}
	cmd := exec.CommandContext(ctx, "ctr", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = w, &limited{w: &said, left: 64 << 10}
	cmd.WaitDelay = killDelay
	err := start(cmd, r)
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case err == nil:
		return nil
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(err, exec.ErrNotFound):
		return &hinted{
			fmt.Errorf("%s: there is no ctr, the command that comes with containerd: %w", what, errdefs.ErrFailedPrecondition),
			"install containerd, or pass archives by hand: ctr images export - NAME | sandbox image import -",
		}
	}
	return c.explain(what, strings.TrimSpace(said.String()), err)
}

// start starts a command that reads r. Its end does not wait for r, which may
// have nothing to say for a long time.
func start(cmd *exec.Cmd, r io.Reader) error {
	if r == nil {
		return cmd.Start()
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(stdin, r) // half an archive is refused
		stdin.Close()
	}()
	return nil
}

// explain makes an error of what ctr says on stderr.
func (c *containerd) explain(what, said string, err error) error {
	lines := strings.Split(said, "\n")
	message := strings.TrimPrefix(lines[len(lines)-1], "ctr: ")
	if message == "" {
		return fmt.Errorf("%s: ctr: %w", what, err)
	}
	switch {
	case strings.Contains(message, "failed to dial"), strings.Contains(message, "connection error"):
		hint := "is it running? CONTAINERD_ADDRESS names another socket"
		if strings.Contains(message, "permission denied") {
			hint = "its socket is root's: run with sudo"
		}
		return &hinted{fmt.Errorf("%s: containerd is not in reach: %s: %w", what, message, errdefs.ErrUnavailable), hint}
	case strings.Contains(message, "permission denied"):
		return &hinted{fmt.Errorf("%s: %s: %w", what, message, errdefs.ErrPermissionDenied), "its socket is root's: run with sudo"}
	}
	return fmt.Errorf("%s: %w", what, &engineError{message})
}

// limited keeps the beginning of what is written.
type limited struct {
	w    *bytes.Buffer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.left)
	l.left -= n
	l.w.Write(b[:n])
	return len(b), nil
}
