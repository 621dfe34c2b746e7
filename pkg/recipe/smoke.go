package recipe

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

const (
	smokeTimeout = time.Minute
	smokeRetry   = 200 * time.Millisecond
	// maxOutput bounds what is kept of a container's output, in bytes: its end.
	maxOutput = 1 << 20
)

// LabelSmoke marks the containers of smoke tests, which are gone afterwards.
const LabelSmoke = "io.sandboxlabs.smoke"

// RunSmoke runs the recipe's smoke tests, one after the other, in containers
// of the image ref. The first that fails is the error, with the end of what its
// container wrote.
func RunSmoke(ctx context.Context, eng engine.Engine, ref string, r *Recipe) error {
	for _, s := range r.Smoke {
		if err := s.run(ctx, eng, ref, r.Name); err != nil {
			return fmt.Errorf("smoke test %q of %s: %w", s.Name, r.Name, err)
		}
	}
	return nil
}

func (s Smoke) run(ctx context.Context, eng engine.Engine, ref, recipe string) (err error) {
	dir, err := os.MkdirTemp("", "sandbox-smoke-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	spec, err := s.spec(dir, ref, recipe)
	if err != nil {
		return err
	}
	c, err := eng.Create(ctx, spec, nil)
	if err != nil {
		return err
	}
	// The image is tested, not how long this machine takes to unpack it.
	timeout := time.Duration(s.Timeout)
	if timeout == 0 {
		timeout = smokeTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("it did not pass within %s", timeout))
	defer cancel()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), smokeTimeout)
		defer cancel()
		err = errors.Join(err, eng.Remove(ctx, c.ID, true))
	}()
	session, err := eng.Attach(ctx, c.ID)
	if err != nil {
		return err
	}
	var out output
	var copying sync.WaitGroup
	copying.Go(func() { _ = out.readFrames(session) })
	defer copying.Wait()
	defer session.Close()
	if err := eng.Start(ctx, c.ID, nil); err != nil {
		return err
	}
	if err := s.ask(ctx, eng, c.ID, &out, &copying); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = fmt.Errorf("%w: %w", cause, err)
		}
		return fmt.Errorf("%w%s", err, out.quoted())
	}
	return nil
}

// spec is the container. Its files are made in dir.
func (s Smoke) spec(dir, ref, recipe string) (api.ContainerSpec, error) {
	spec := api.ContainerSpec{
		Image: ref, Command: s.Args, Entrypoint: s.Entrypoint, Env: s.Env,
		Labels: map[string]string{LabelSmoke: recipe},
	}
	for _, target := range s.Mounts {
		spec.Mounts = append(spec.Mounts, api.Mount{Type: "tmpfs", Target: target, Options: []string{"mode=1777", "exec"}})
	}
	for i, target := range sortedKeys(s.Files) {
		source := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(source, []byte(s.Files[target]), 0o644); err != nil { //nolint:gosec // whoever the image runs as reads it
			return spec, err
		}
		spec.Mounts = append(spec.Mounts, api.Mount{Type: "bind", Source: source, Target: target, Options: []string{"ro"}})
	}
	return spec, nil
}

// ask puts the test's questions to a running container.
func (s Smoke) ask(ctx context.Context, eng engine.Engine, id string, out *output, copying *sync.WaitGroup) error {
	if s.Port == 0 && s.Exec == nil {
		exit, err := eng.Wait(ctx, id)
		if err != nil {
			return err
		}
		copying.Wait() // the output ends with the container
		if exit.Code != s.ExitCode {
			return fmt.Errorf("it exited with %d, want %d%s", exit.Code, s.ExitCode, note(exit.Message))
		}
		return matches("output", s.Expect, out.bytes())
	}
	if s.Port != 0 {
		c, err := eng.Inspect(ctx, id)
		if err != nil {
			return err
		}
		addr := net.JoinHostPort(c.IP, strconv.Itoa(s.Port))
		if err := s.until(ctx, eng, id, func() error { return s.answer(ctx, addr) }); err != nil {
			return err
		}
	}
	if s.Exec != nil {
		return s.until(ctx, eng, id, func() error { return s.execute(ctx, eng, id) })
	}
	return nil
}

func note(message string) string {
	if message == "" {
		return ""
	}
	return " (" + message + ")"
}

// until repeats try until it passes, ctx ends, or the container does.
func (s Smoke) until(ctx context.Context, eng engine.Engine, id string, try func() error) error {
	var last error
	for {
		err := try()
		if err == nil {
			return nil
		}
		if last != nil && ctx.Err() != nil {
			return last // what was cut off says less
		}
		last = err
		c, ierr := eng.Inspect(ctx, id)
		if ierr != nil {
			return errors.Join(err, ierr)
		}
		if c.Exit != nil {
			return fmt.Errorf("the container exited with %d%s: %w", c.Exit.Code, note(c.Exit.Message), err)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(smokeRetry):
		}
	}
}

// answer asks the container over TCP, or over HTTP if there is a path.
func (s Smoke) answer(ctx context.Context, addr string) error {
	if s.Path == "" {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+s.Path, nil)
	if err != nil {
		return err
	}
	// The container is a neighbour: no proxy knows it. Redirections are answers.
	transport := &http.Transport{DisableKeepAlives: true}
	rep, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer rep.Body.Close()
	want := s.Status
	if want == 0 {
		want = http.StatusOK
	}
	body, err := io.ReadAll(io.LimitReader(rep.Body, maxOutput))
	if err != nil {
		return fmt.Errorf("GET %s: %w", s.Path, err)
	}
	if rep.StatusCode != want {
		return fmt.Errorf("GET %s: status %d, want %d: %.200q", s.Path, rep.StatusCode, want, body)
	}
	return matches("body of "+s.Path, s.Body, body)
}

// execute runs the test's command in the container.
func (s Smoke) execute(ctx context.Context, eng engine.Engine, id string) error {
	session, err := eng.Exec(ctx, id, api.ExecSpec{Command: s.Exec, Env: s.Env})
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer session.Close()
	defer stop()
	var out output
	if err := out.readFrames(session); err != nil {
		return fmt.Errorf("exec %s: %w", s.Exec[0], err)
	}
	code, err := session.Wait(ctx)
	if err != nil {
		return fmt.Errorf("exec %s: %w", s.Exec[0], err)
	}
	if code != 0 {
		return fmt.Errorf("exec %s: exit code %d%s", s.Exec[0], code, out.quoted())
	}
	return matches("output of "+s.Exec[0], s.Expect, out.bytes())
}

func matches(what, expression string, b []byte) error {
	re, err := regexp.Compile(expression)
	if err != nil {
		return err
	}
	if !re.Match(b) {
		return fmt.Errorf("the %s has no match for %q: %.200q", what, expression, b)
	}
	return nil
}

// output is the end of what a process wrote, both streams in one.
type output struct {
	mu  sync.Mutex
	buf []byte
}

// readFrames takes up a session's frames until it ends; see engine.Session.
func (o *output) readFrames(r io.Reader) error {
	var header [8]byte
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		b := make([]byte, binary.BigEndian.Uint32(header[4:]))
		if _, err := io.ReadFull(r, b); err != nil {
			return err
		}
		o.mu.Lock()
		o.buf = append(o.buf, b...)
		if n := len(o.buf) - maxOutput; n > 0 {
			o.buf = append([]byte(nil), o.buf[n:]...)
		}
		o.mu.Unlock()
	}
}

func (o *output) bytes() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Clone(o.buf)
}

// quoted is the last of it, for error messages.
func (o *output) quoted() string {
	lines := strings.Split(strings.TrimSpace(string(o.bytes())), "\n")
	lines = lines[max(len(lines)-20, 0):]
	if len(lines) == 1 && lines[0] == "" {
		return ""
	}
	return "\nit wrote:\n\t" + strings.Join(lines, "\n\t")
}
