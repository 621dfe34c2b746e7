package internals

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	// selfTestLabel marks the self-test's containers, so that one which a
	// crash has left is found.
	selfTestLabel   = "sandbox.self-test"
	selfTestTimeout = 30 * time.Second
	// selfTestCode is unlike what a broken shell or runtime would give.
	selfTestCode = 7
)

// selfTest runs one container through its whole life: it echoes what it is
// told, in namespaces of its own, and ends with the code that it should.
func (s *Stage) selfTest(ctx context.Context, p stack.Progress) (err error) {
	if err := s.removeSelfTests(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, selfTestTimeout)
	defer cancel()
	start := time.Now()
	c, err := s.Engine.Create(ctx, api.ContainerSpec{
		Name:      "sandbox-self-test",
		Image:     s.Toolbox,
		Command:   []string{"sh", "-c", fmt.Sprintf("cat; exit %d", selfTestCode)},
		OpenStdin: true,
		Labels:    map[string]string{selfTestLabel: "true"},
	}, nil)
	if err != nil {
		return fmt.Errorf("create: %w", err)
	}
	// On failure the step's Undo removes it.
	session, err := s.Engine.Attach(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("attach: %w", err)
	}
	defer session.Close()
	// Reading a session does not heed the context.
	defer context.AfterFunc(ctx, func() { session.Close() })()
	if err := s.Engine.Start(ctx, c.ID, nil); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if c, err = s.Engine.Inspect(ctx, c.ID); err != nil {
		return fmt.Errorf("inspect: %w", err)
	}
	if err := ownNamespaces(c.PID); err != nil {
		return err
	}
	const text = "echo from a container\n"
	if _, err := io.WriteString(session, text); err != nil {
		return fmt.Errorf("write to stdin: %w", err)
	}
	if err := session.CloseWrite(); err != nil {
		return fmt.Errorf("end stdin: %w", err)
	}
	got, err := readStdout(session)
	if err != nil {
		return errors.Join(ctx.Err(), fmt.Errorf("read stdout: %w", err))
	}
	if got != text {
		return fmt.Errorf("the container's output is %q instead of %q", got, text)
	}
	exit, err := s.Engine.Wait(ctx, c.ID)
	if err != nil {
		return fmt.Errorf("wait: %w", err)
	}
	if exit.Code != selfTestCode {
		return fmt.Errorf("the container's exit code is %d instead of %d: %s", exit.Code, selfTestCode, exit.Message)
	}
	if err := s.Engine.Remove(ctx, c.ID, false); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	p.Note("a container ran in its own namespaces, in %v", time.Since(start).Round(time.Millisecond))
	return nil
}

// ownNamespaces checks that the process pid shares none of the namespaces that
// a container gets by default with us (namespaces(7)).
func ownNamespaces(pid int) error {
	for _, ns := range []string{"pid", "mnt", "net", "uts", "ipc"} {
		ours, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			return err
		}
		theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
		if err != nil {
			return fmt.Errorf("namespaces of the container's first process: %w", err)
		}
		if ours == theirs {
			return fmt.Errorf("the container is in the host's %s namespace, %s", ns, ours)
		}
	}
	return nil
}

// readStdout collects stdout from a session's frames, to the end.
func readStdout(r io.Reader) (string, error) {
	const most = 64 << 10
	var out []byte
	for {
		var header [8]byte
		if _, err := io.ReadFull(r, header[:]); err == io.EOF {
			return string(out), nil
		} else if err != nil {
			return "", err
		}
		n := binary.BigEndian.Uint32(header[4:])
		if n > most {
			return "", fmt.Errorf("a frame of %d bytes", n)
		}
		data := make([]byte, n)
		if _, err := io.ReadFull(r, data); err != nil {
			return "", err
		}
		if header[0] == 1 {
			out = append(out, data...)
		}
	}
}

// removeSelfTests removes every self-test container, however far it came.
func (s *Stage) removeSelfTests(ctx context.Context) error {
	all, err := s.Engine.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range all {
		if c.Spec.Labels[selfTestLabel] == "" {
			continue
		}
		if err := s.Engine.Remove(ctx, c.ID, true); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove the self-test's container: %w", err))
		}
	}
	return errors.Join(errs...)
}
