package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// mount is one --mount of a RUN. Its fields are part of the layer's key: the
// content of caches and secrets is not among them.
type mount struct {
	Type     instructions.MountType
	Target   string // absolute; for a secret that is only a variable, empty
	Source   string // below the origin's root
	ReadOnly bool
	Size     int64  // of a tmpfs, in bytes
	ID       string // of a cache or a secret
	Sharing  instructions.ShareMode
	Required bool
	Env      string // the variable of a secret
	Mode     *uint64
	UID, GID *uint64
	Content  digest.Digest // of what the origin has there

	from origin
}

// mount plans a mount.
func (d *dispatcher) mount(m *instructions.Mount) (*mount, error) {
	if err := checkMount(m); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	out := &mount{
		Type: m.Type, Source: path.Join("/", m.Source), ReadOnly: m.ReadOnly, Size: m.SizeLimit,
		ID: m.CacheID, Sharing: m.CacheSharing, Required: m.Required, Mode: m.Mode, UID: m.UID, GID: m.GID,
	}
	if m.Target != "" {
		out.Target = path.Clean(m.Target)
		if !path.IsAbs(m.Target) {
			out.Target = path.Join("/", d.s.config.Config.WorkingDir, m.Target)
		}
	}
	var err error
	switch m.Type {
	case instructions.MountTypeSecret:
		if m.Source != "" {
			out.ID = m.Source
		}
		if out.ID == "" {
			out.ID = path.Base(out.Target)
		}
		out.Source = ""
		if m.Env != nil {
			if out.Env = *m.Env; out.Env == "" {
				out.Env = out.ID
			}
		} else if out.Target == "" {
			out.Target = "/run/secrets/" + path.Base(out.ID)
		}
	case instructions.MountTypeCache:
		if out.ID == "" {
			out.ID = path.Clean(m.Target)
		}
		if out.Sharing == "" {
			out.Sharing = instructions.MountSharingShared
		}
		if m.From != "" {
			out.from, err = d.p.source(m.From, d.number)
		}
	case instructions.MountTypeBind:
		if m.From != "" {
			out.from, err = d.p.source(m.From, d.number)
		} else {
			out.from, err = d.p.outside("")
		}
	}
	return out, err
}

// identify digests what the mount shows.
func (m *mount) identify(ctx context.Context) (err error) {
	if m.from.folder == nil {
		m.Content = m.from.key()
		return nil
	}
	m.Content, err = m.from.folder.tree.Digest(ctx, []string{m.pattern()}, filecopy.Options{KeepOwner: m.from.folder.rootfs})
	return err
}

// pattern is the source as COPY would have it, without wildcards.
func (m *mount) pattern() string {
	if m.Source == "/" {
		return "."
	}
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(m.Source)
}

// mount makes a mount for one run, and adds it to the spec.
func (x *execution) mount(r *run, m *mount, spec *api.ContainerSpec) error {
	switch m.Type {
	case instructions.MountTypeTmpfs:
		options := []string{"exec", "dev", "mode=1777"}
		if m.Size > 0 {
			options = append(options, "size="+strconv.FormatInt(m.Size, 10))
		}
		if m.ReadOnly {
			options = append(options, "ro")
		}
		spec.Mounts = append(spec.Mounts, api.Mount{Type: "tmpfs", Target: m.Target, Options: options})
		return nil
	case instructions.MountTypeSecret:
		return x.secret(r, m, spec)
	case instructions.MountTypeCache:
		addBind(spec, r.cache[m.cacheFolder()], m)
		return nil
	}
	root, name, err := x.bindRoot(r, m)
	if err != nil {
		return err
	}
	source, err := within(root, name)
	if err != nil {
		return fmt.Errorf("source %s: %w", m.Source, err)
	}
	addBind(spec, source, m)
	return nil
}

// bindRoot is where a bind mount's source is, and its path there.
func (x *execution) bindRoot(r *run, m *mount) (root, name string, err error) {
	if f := m.from.folder; f != nil && !f.rootfs {
		// As a copy, it is root's, without what is ignored, and not changed while
		// it is used: so does Docker have it.
		if root, err = r.temp("context"); err != nil {
			return "", "", err
		}
		err = filecopy.Copy(r.ctx, f.tree, []string{m.pattern()}, root, "/source", filecopy.Options{Epoch: x.o.Epoch})
		return root, "/source", err
	}
	tree, err := x.open(r, m.from, !m.ReadOnly)
	return tree.Root, m.Source, err
}

func addBind(spec *api.ContainerSpec, source string, m *mount) {
	options := []string{"rw"}
	if m.ReadOnly {
		options = []string{"ro"}
	}
	spec.Mounts = append(spec.Mounts, api.Mount{Type: "bind", Source: source, Target: m.Target, Options: options})
}

// within resolves a path in root as a process whose root it is would.
func within(root, name string) (string, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path.Join("/", name), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) {
		return "", fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
}

// secret lends a file, or its content as a variable. Nothing of it is part of
// the layer or its key.
func (x *execution) secret(r *run, m *mount, spec *api.ContainerSpec) error {
	file, ok := x.o.Secrets[m.ID]
	if !ok {
		if m.Required {
			return fmt.Errorf("secret %s is required, and was not given: %w", m.ID, errdefs.ErrNotFound)
		}
		return nil
	}
	data, err := readSecret(file)
	if err != nil {
		return fmt.Errorf("secret %s: %w", m.ID, err)
	}
	if m.Env != "" {
		spec.Env = append(spec.Env, m.Env+"="+string(data))
	}
	if m.Target == "" {
		return nil
	}
	dir, err := r.volatile(x)
	if err != nil {
		return err
	}
	uid, gid, mode := 0, 0, uint32(0o400)
	if m.UID != nil {
		uid = int(*m.UID)
	}
	if m.GID != nil {
		gid = int(*m.GID)
	}
	if m.Mode != nil {
		mode = uint32(*m.Mode) & 0o7777
	}
	to, err := os.CreateTemp(dir, "secret-")
	if err != nil {
		return err
	}
	_, err = to.Write(data)
	err = errors.Join(err, to.Chown(uid, gid), unix.Fchmod(int(to.Fd()), mode), to.Close())
	spec.Mounts = append(spec.Mounts, api.Mount{Type: "bind", Source: to.Name(), Target: m.Target, Options: []string{"ro"}})
	return err
}

// maxSecret is what BuildKit allows, in bytes (MaxSecretSize).
const maxSecret = 500 << 10

func readSecret(file string) ([]byte, error) {
	if !filepath.IsAbs(file) {
		return nil, fmt.Errorf("file %q is not an absolute path: %w", file, errdefs.ErrInvalidArgument)
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return nil, fmt.Errorf("%s is no file of at most %d bytes: %w", file, maxSecret, errdefs.ErrInvalidArgument)
	}
	return os.ReadFile(file)
}
