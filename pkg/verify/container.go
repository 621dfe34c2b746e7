package verify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

const (
	demoApp = "demo-app"
	// toolbox is in every store, and can hold memory as well.
	toolbox = "toolbox"
	appPort = 8080
	// memoryLimit is what the app gets, and holdings what it then tries to have.
	memoryLimit = 48 << 20 // bytes
	holdings    = "256Mi"
)

// startApp makes a container of the demo app by hand.
func (w *Walk) startApp(ctx context.Context, spec api.ContainerSpec, p stack.Progress) (api.Container, error) {
	img, err := w.Images.Ensure(ctx, demoApp, p)
	if err != nil {
		return api.Container{}, err
	}
	return w.start(ctx, img, spec)
}

// start makes a container by hand.
func (w *Walk) start(ctx context.Context, img stack.Image, spec api.ContainerSpec) (api.Container, error) {
	spec.Image, spec.Labels = img.Name, map[string]string{Label: "true"}
	c, err := w.Engine.Create(ctx, spec, nil)
	if err != nil {
		return c, err
	}
	if err := w.Engine.Start(ctx, c.ID, nil); err != nil {
		return c, err
	}
	return w.Engine.Inspect(ctx, c.ID)
}

func (w *Walk) answersRaw(ctx context.Context, p stack.Progress) error {
	img, err := w.Images.Ensure(ctx, demoApp, p)
	if err != nil {
		return err
	}
	c, err := w.start(ctx, img, api.ContainerSpec{Name: "sandbox-verify-runs"})
	if err != nil {
		return err
	}
	if c.ImageID != img.ID {
		return fmt.Errorf("the container was made of the image %s, and not of %s, which is %s", c.ImageID, img.Name, img.ID)
	}
	url := fmt.Sprintf("http://%s:%d/version", c.IP, appPort)
	begun := time.Now()
	if err := poll(ctx, 10*time.Second, func(ctx context.Context) error { return get(ctx, url, "", nil) }); err != nil {
		return err
	}
	p.Note("%s answers after %d ms; the image is %s", url, time.Since(begun).Milliseconds(), short(img.Digest))
	return w.Engine.Remove(ctx, c.ID, true)
}

// killedByLimit has the app hold more memory than it may have; or, where the app
// is not to be had, a program of the toolbox: the kernel treats both alike.
func (w *Walk) killedByLimit(ctx context.Context, p stack.Progress) error {
	if why := w.NoMemoryLimit(); why != "" {
		return &stack.Skip{Reason: "not possible here: " + why}
	}
	command, instead := []string{"-memory", holdings}, ""
	img, err := w.Images.Ensure(ctx, demoApp, p)
	if errdefs.IsNotFound(err) {
		command, instead = []string{"stress", "--memory", holdings}, ", in the image "+toolbox+": the app's is not here"
		img, err = w.Images.Ensure(ctx, toolbox, p)
	}
	if err != nil {
		return err
	}
	c, err := w.start(ctx, img, api.ContainerSpec{
		Name: "sandbox-verify-memory", Command: command,
		Resources: api.Resources{Memory: memoryLimit, MemorySwap: memoryLimit},
	})
	if err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	exit, err := w.Engine.Wait(wait, c.ID)
	if err != nil {
		return fmt.Errorf("wait for the kernel to kill it: %w", err)
	}
	if !exit.OOMKilled || exit.Code != 137 {
		return fmt.Errorf("with %s in its memory and a limit of %d MiB it exited with code %d, not killed by the kernel", holdings, memoryLimit>>20, exit.Code)
	}
	p.Note("at %d MiB, with exit code 137%s", memoryLimit>>20, instead)
	return w.Engine.Remove(ctx, c.ID, true)
}

func (w *Walk) removeContainers(ctx context.Context) error {
	list, err := w.Engine.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, c := range list {
		if c.Spec.Labels[Label] == "" {
			continue
		}
		if err := w.Engine.Remove(ctx, c.ID, true); err != nil && !errdefs.IsNotFound(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// asking goes through no proxy, whatever the environment says: all is on this
// machine.
var asking = &http.Client{Transport: &http.Transport{Proxy: nil, IdleConnTimeout: 10 * time.Second}}

// get asks a URL, by another Host if one is given, and lets check see the
// answer; nil is content with the status 200.
func get(ctx context.Context, url, host string, check func(*http.Response) error) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Host = host
	resp, err := asking.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", url, resp.Status)
	}
	if check != nil {
		return check(resp)
	}
	return nil
}
