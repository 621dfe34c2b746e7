package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
)

// docker is a Docker engine. Of Podman's, which has the same API, the same is
// true.
type docker struct{ client *client.Client }

func openDocker(host string) (Engine, error) {
	where, err := endpointOf(host)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(where.host, "ssh://") {
		return nil, &hinted{
			fmt.Errorf("docker at %s: its API cannot be reached over SSH: %w", where.host, errdefs.ErrNotImplemented),
			"ssh HOST docker save IMAGE | sandbox image import -, or sandbox image export IMAGE --format docker -o - | ssh HOST docker load",
		}
	}
	opts := []client.Opt{client.WithAPIVersionNegotiation(), client.WithVersionFromEnv()}
	if where.ca != "" {
		opts = append(opts, client.WithTLSClientConfig(where.ca, where.cert, where.key))
	}
	if where.host != "" { // last: it keeps the transport of the one before
		opts = append(opts, client.WithHost(where.host))
	}
	c, err := client.NewClientWithOpts(opts...)
	if err != nil {
		return nil, fmt.Errorf("docker at %q: %w: %w", where.host, err, errdefs.ErrInvalidArgument)
	}
	return &docker{c}, nil
}

func (d *docker) Save(ctx context.Context, names []string, w io.Writer) error {
	defer d.client.Close()
	// Asked for one by one first: the archive would tell of what is missing in
	// its middle, if at all.
	for _, name := range names {
		if _, err := d.client.ImageInspect(ctx, name); err != nil {
			return d.explain(ctx, fmt.Sprintf("take image %s from docker", name), err)
		}
	}
	r, err := d.client.ImageSave(ctx, names)
	if err != nil {
		return d.explain(ctx, "take images from docker", err)
	}
	defer r.Close()
	if _, err := io.Copy(w, r); err != nil {
		return d.explain(ctx, "take images from docker", err)
	}
	return nil
}

func (d *docker) Load(ctx context.Context, r io.Reader) ([]string, error) {
	defer d.client.Close()
	// A request that is cancelled waits for its body, which may have nothing to
	// read for a long time.
	body, w := io.Pipe()
	defer body.Close()
	defer context.AfterFunc(ctx, func() { w.CloseWithError(context.Cause(ctx)) })()
	go func() {
		_, err := io.Copy(w, r)
		w.CloseWithError(err)
	}()
	answer, err := d.client.ImageLoad(ctx, body, client.ImageLoadWithQuiet(true))
	if err != nil {
		return nil, d.explain(ctx, "give images to docker", err)
	}
	defer answer.Body.Close()
	loaded, err := readLoaded(answer.Body)
	if err != nil {
		return loaded, d.explain(ctx, "give images to docker", err)
	}
	return loaded, nil
}

// readLoaded reads what docker says while it loads: a stream of JSON values,
// the names in sentences, an error in the last one.
func readLoaded(r io.Reader) (loaded []string, err error) {
	dec := json.NewDecoder(r)
	for {
		var line struct {
			Stream string `json:"stream"`
			Error  string `json:"error"`
		}
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF):
			return loaded, nil
		case err != nil:
			return loaded, err
		case line.Error != "":
			return loaded, &engineError{line.Error}
		}
		for text := range strings.Lines(line.Stream) {
			text = strings.TrimSpace(text)
			for _, begin := range []string{"Loaded image: ", "Loaded image ID: "} {
				if name, ok := strings.CutPrefix(text, begin); ok {
					loaded = append(loaded, name)
				}
			}
		}
	}
}

// engineError is a refusal in the other engine's words.
type engineError struct{ message string }

func (e *engineError) Error() string { return e.message }

func (e *engineError) Unwrap() error {
	switch {
	case strings.Contains(e.message, "no space left on device"):
		return errdefs.ErrResourceExhausted
	case strings.Contains(e.message, "not found"), strings.Contains(e.message, "No such image"):
		return errdefs.ErrNotFound
	case strings.Contains(e.message, "invalid tar header"), strings.Contains(e.message, "unexpected EOF"):
		return errdefs.ErrInvalidArgument
	}
	return errdefs.ErrUnknown
}

// explain gives what went wrong a hint, where there is one.
func (d *docker) explain(ctx context.Context, what string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	host := d.client.DaemonHost()
	switch {
	case client.IsErrConnectionFailed(err):
		hint := "is it running? another one is named by docker:HOST, DOCKER_HOST or a docker context"
		if strings.Contains(err.Error(), "permission denied") {
			hint = "you may not use its socket: run with sudo, or join the group docker"
		}
		return &hinted{fmt.Errorf("%s: the engine at %s is not in reach: %w: %w", what, host, err, errdefs.ErrUnavailable), hint}
	case errdefs.IsNotFound(err):
		return &hinted{fmt.Errorf("%s: %w", what, err), "see: docker image ls"}
	}
	return fmt.Errorf("%s: %w", what, err)
}
