package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// adminConf is the administrator's kubeconfig in the control plane's node.
const adminConf = "/etc/kubernetes/admin.conf"

// fileLimit is above the size of any file that is read from a node.
const fileLimit = 1 << 20 // bytes

// Kubectl runs the node's own kubectl, which is of the cluster's version, as the
// cluster's administrator, and returns what it writes to stdout. Its error has
// what it says.
func (s *Stage) Kubectl(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	have, err := s.find(ctx)
	if err != nil && !noEngine(err) {
		return nil, err
	}
	n, ok := have.controlPlane()
	if !ok || !have.complete {
		return nil, errNone()
	}
	return s.kubectl(ctx, n, stdin, args...)
}

// errNone says that there is no cluster, perhaps for want of a Docker engine.
func errNone() error {
	return stack.WithHint(fmt.Errorf("there is no cluster: %w", errdefs.ErrFailedPrecondition), "sudo sandbox up --only "+Name)
}

func (s *Stage) kubectl(ctx context.Context, n node, stdin io.Reader, args ...string) ([]byte, error) {
	out, err := s.exec(ctx, n, stdin, append([]string{"kubectl", "--kubeconfig", adminConf}, args...)...)
	if err != nil {
		return out, fmt.Errorf("kubectl %s: %w", strings.Join(args[:min(len(args), 3)], " "), err)
	}
	return out, nil
}

// exec runs a command in a node. Its error has what it wrote to stderr.
func (s *Stage) exec(ctx context.Context, n node, stdin io.Reader, command ...string) ([]byte, error) {
	c, err := s.Docker.Client()
	if err != nil {
		return nil, err
	}
	made, err := c.ContainerExecCreate(ctx, n.ID, container.ExecOptions{
		Cmd: command, AttachStdin: stdin != nil, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		return nil, fmt.Errorf("exec in node %s: %w", n.Name, err)
	}
	stream, err := c.ContainerExecAttach(ctx, made.ID, container.ExecAttachOptions{})
	if err != nil {
		return nil, fmt.Errorf("exec in node %s: %w", n.Name, err)
	}
	defer stream.Close()
	// Neither reading nor writing heeds the context.
	defer context.AfterFunc(ctx, stream.Close)()
	if stdin != nil {
		go func() {
			_, _ = io.Copy(stream.Conn, stdin) // what it missed, the command complains about
			_ = stream.CloseWrite()
		}()
	}
	var stdout, stderr bytes.Buffer
	if _, err := stdcopy.StdCopy(&stdout, &stderr, stream.Reader); err != nil {
		return nil, fmt.Errorf("exec in node %s: %w", n.Name, errors.Join(context.Cause(ctx), err))
	}
	for { // the end of its output comes a moment before its end
		have, err := c.ContainerExecInspect(ctx, made.ID)
		switch {
		case err != nil:
			return nil, fmt.Errorf("exec in node %s: %w", n.Name, err)
		case have.Running:
			time.Sleep(5 * time.Millisecond)
		case have.ExitCode != 0:
			return stdout.Bytes(), fmt.Errorf("exit code %d: %s", have.ExitCode, tail(strings.TrimSpace(stderr.String()), 12))
		default:
			return stdout.Bytes(), nil
		}
	}
}

// readFile reads a file of a node, running or not.
func (s *Stage) readFile(ctx context.Context, n node, name string) ([]byte, error) {
	c, err := s.Docker.Client()
	if err != nil {
		return nil, err
	}
	content, _, err := c.CopyFromContainer(ctx, n.ID, name)
	if err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", name, n.Name, err)
	}
	defer content.Close()
	r := tar.NewReader(content)
	if _, err := r.Next(); err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", name, n.Name, err)
	}
	b, err := io.ReadAll(io.LimitReader(r, fileLimit))
	if err != nil {
		return nil, fmt.Errorf("read %s of node %s: %w", name, n.Name, err)
	}
	return b, nil
}

func (s *Stage) writeFile(ctx context.Context, n node, name string, content []byte) error {
	c, err := s.Docker.Client()
	if err != nil {
		return err
	}
	packed, err := pack(file{name, 0o644, content})
	if err != nil {
		return err
	}
	if err := c.CopyToContainer(ctx, n.ID, "/", packed, container.CopyToContainerOptions{}); err != nil {
		return fmt.Errorf("write %s of node %s: %w", name, n.Name, err)
	}
	return nil
}

// lastWords is the end of a container's log, to be put behind an error.
func lastWords(ctx context.Context, c *client.Client, id string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	// Nodes have a terminal, so there are no frames.
	log, err := c.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, ShowStderr: true, Tail: "15"})
	if err != nil {
		return ""
	}
	defer log.Close()
	b, _ := io.ReadAll(io.LimitReader(log, fileLimit))
	if len(b) == 0 {
		return ""
	}
	return "; the end of its log:\n" + strings.TrimRight(strings.ReplaceAll(string(b), "\r", ""), "\n")
}

// each calls f for all, side by side.
func each[T any](all []T, f func(T) error) []error {
	errs := make([]error, len(all))
	done := make(chan int)
	for i, v := range all {
		go func() {
			errs[i] = f(v)
			done <- i
		}()
	}
	for range all {
		<-done
	}
	return errs
}

// list is "2 local store, 1 recipe".
func list(counts map[string]int) string {
	var parts []string
	for what, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, what))
	}
	slices.Sort(parts)
	slices.Reverse(parts)
	return strings.Join(parts, ", ")
}

func splitPort(address string) (host string, port uint16, err error) {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(number, 10, 16)
	return host, uint16(n), err
}

func joinPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}
