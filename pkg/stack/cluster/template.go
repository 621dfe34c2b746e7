package cluster

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	content "github.com/sandboxlabs/sandbox/sandbox/stack/cluster"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// kind has no way to put a label on a node, or a file into it before it starts.
// But a container has its image's labels: nodes are made from a template, which
// is the node image with ours, with the file that sends containerd to the
// registry, and with a getent that does not wait for what will not come. It shares
// all layers with the node image.
const (
	templateName = "sandbox-node"
	// getentFile comes before /usr/bin in the PATH of a node's start.
	getentFile = "/usr/local/bin/getent"
	// hostsFile tells containerd where to ask for images, of whatever registry
	// (_default); it asks the image's own when there is none.
	hostsFile = "/etc/containerd/certs.d/_default/hosts.toml"
)

// hosts is the content of hostsFile (containerd's docs/hosts.md).
func hosts(registry string) []byte {
	return fmt.Appendf(nil, "# sandbox's own registry, on this machine.\n[host.%s]\n  capabilities = [\"pull\", \"resolve\"]\n", strconv.Quote("http://"+registry))
}

// registry is where nodes find the store's registry: at the gateway, with the
// port that it has on the loopback interface.
func (s *Stage) registry(ctx context.Context) (string, error) {
	gateway, err := s.gateway(ctx)
	if err != nil {
		return "", err
	}
	_, port, err := splitPort(s.Docker.Registry())
	if err != nil {
		return "", fmt.Errorf("address of the registry: %w", err)
	}
	return joinPort(gateway, port), nil
}

// template makes the image that nodes are made from, and returns its name.
func (u *up) template(ctx context.Context) (name string, err error) {
	c, err := u.Docker.Client()
	if err != nil {
		return "", err
	}
	registry, err := u.registry(ctx)
	if err != nil {
		return "", err
	}
	label, err := json.Marshal(u.spec)
	if err != nil {
		return "", err
	}
	getent, err := fs.ReadFile(content.Files, "getent")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s", u.node.Ref, label, registry, getent, u.Docker.State))
	name = templateName + ":" + hex.EncodeToString(sum[:6])
	if _, err := c.ImageInspect(ctx, name); err == nil {
		return name, nil
	} else if !errdefs.IsNotFound(err) {
		return "", fmt.Errorf("inspect image %s: %w", name, err)
	}
	labels := u.Docker.Labels(Name)
	labels[labelSpec] = string(label)
	made, err := u.templateContainer(ctx, c, &container.Config{Image: u.node.Ref, Labels: labels})
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, removeContainer(context.WithoutCancel(ctx), c, made.ID, "container "+templateName))
	}()
	packed, err := pack(file{hostsFile, 0o644, hosts(registry)}, file{getentFile, 0o755, getent})
	if err != nil {
		return "", err
	}
	if err := c.CopyToContainer(ctx, made.ID, "/", packed, container.CopyToContainerOptions{}); err != nil {
		return "", fmt.Errorf("copy files to container %s: %w", templateName, err)
	}
	// Without a config it has the container's, labels included.
	if _, err := c.ContainerCommit(ctx, made.ID, container.CommitOptions{Reference: name}); err != nil {
		return "", fmt.Errorf("commit container %s: %w", templateName, err)
	}
	return name, nil
}

// templateContainer makes the container of a template. One that is in the way may
// have been asked for by a daemon that was killed, and be complete only now.
func (u *up) templateContainer(ctx context.Context, c *client.Client, config *container.Config) (made container.CreateResponse, err error) {
	err = again(func() error {
		made, err = c.ContainerCreate(ctx, config, nil, nil, nil, templateName)
		if err != nil {
			return fmt.Errorf("create container %s: %w", templateName, err)
		}
		return nil
	}, func(error) error {
		select {
		case <-time.After(abortPoll):
			return u.removeTemplates(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	return made, err
}

// file is one for a node.
type file struct {
	name    string // absolute
	mode    int64
	content []byte
}

// pack makes an archive of files, with the folders that lead to them, for
// CopyToContainer.
func pack(files ...file) (*bytes.Buffer, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	now := time.Now().Truncate(time.Second)
	for _, f := range files {
		var dirs []string
		for dir := path.Dir(f.name); dir != "/"; dir = path.Dir(dir) {
			dirs = append([]string{dir}, dirs...)
		}
		for _, dir := range dirs {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir[1:] + "/", Mode: 0o755, ModTime: now}); err != nil {
				return nil, err
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name[1:], Mode: f.mode, Size: int64(len(f.content)), ModTime: now}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, err
		}
	}
	return &b, w.Close()
}

// removeTemplates removes what template has made: its container, if it was
// killed, and images that no node is made from.
func (s *Stage) removeTemplates(ctx context.Context) error {
	c, err := s.Docker.Client()
	if err != nil {
		return err
	}
	ours := filters.NewArgs()
	for key, value := range s.Docker.Labels(Name) {
		ours.Add("label", key+"="+value)
	}
	if have, err := c.ContainerInspect(ctx, templateName); err == nil && have.Config.Labels[docker.LabelState] == s.Docker.State {
		if err := removeContainer(ctx, c, have.ID, "container "+templateName); err != nil {
			return err
		}
	}
	list, err := c.ImageList(ctx, image.ListOptions{Filters: ours})
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	var errs []error
	for _, img := range list {
		for _, name := range append(img.RepoTags, img.ID) {
			// Images of containers, and those below, stay.
			_, err := c.ImageRemove(ctx, name, image.RemoveOptions{})
			if err != nil && !errdefs.IsConflict(err) && !errdefs.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("remove image %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
