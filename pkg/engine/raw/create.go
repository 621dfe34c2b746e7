package raw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
	"github.com/sandboxlabs/sandbox/pkg/linux/overlay"
	"github.com/sandboxlabs/sandbox/pkg/undo"
)

// creation is one Create under way.
type creation struct {
	*Engine
	c     *container
	trace *explain.Tracer
	undo  undo.Stack

	image image.Image
	lower []string
	// layer is set for a run over folders instead of an image, and made is what
	// its mounts leave there.
	layer *engine.LayerRun
	made  mountPoints
	join  bundle.Join

	endpoint network.Endpoint // zero but for a container on the bridge
	conn     *protocol.Conn   // to the shim
}

// Create makes a container in which everything but the user's program is
// there. What fails leaves nothing behind.
func (e *Engine) Create(ctx context.Context, spec api.ContainerSpec, trace *explain.Tracer) (api.Container, error) {
	cr, err := e.create(ctx, newID(), spec, nil, trace)
	if err != nil {
		return api.Container{}, err
	}
	return cr.c.snapshot(), nil
}

// create is Create, over the folders of layer if there is one.
func (e *Engine) create(ctx context.Context, id string, spec api.ContainerSpec, layer *engine.LayerRun, trace *explain.Tracer) (*creation, error) {
	if err := checkName(spec.Name); err != nil {
		return nil, err
	}
	e.creating.RLock()
	defer e.creating.RUnlock()
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	cr := &creation{Engine: e, trace: withFlags(trace, spec.Flags), layer: layer}
	cr.c = e.newContainer(record{BootID: boot, Layer: layer != nil, Container: api.Container{
		ID: id, Name: spec.Name, Engine: Name, Image: spec.Image,
		Status: api.StatusCreating, Created: time.Now().UTC(), Spec: spec,
	}})
	cr.c.op.Lock()
	defer cr.c.op.Unlock()
	if err := cr.run(ctx); err != nil {
		return nil, cr.undo.Run(err)
	}
	s := cr.c.snapshot()
	e.Log.Info("container created", zap.String("id", s.ID), zap.String("name", s.Name), zap.String("image", s.Image))
	return cr, nil
}

// run is the creation, step by step.
func (cr *creation) run(ctx context.Context) error {
	if err := cr.resolve(ctx); err != nil {
		return err
	}
	if err := cr.reserve(cr.c); err != nil {
		return err
	}
	cr.undo.Push(func(context.Context) error { cr.forget(cr.c); return nil })
	if err := cr.references(); err != nil {
		return err
	}
	if err := cr.intend(); err != nil {
		return err
	}
	// From here on everything is found by the ID.
	cr.undo.Push(func(ctx context.Context) error { return cr.destroy(ctx, cr.c.id()) })
	if err := cr.createSources(); err != nil {
		return err
	}

	var err error
	if cr.conn, err = cr.startShim(cr.c, cr.trace); err != nil {
		return err
	}
	defer cr.conn.Close()
	// The shim takes a few milliseconds to start.
	if err := cr.reserveNetwork(ctx); err != nil {
		return err
	}
	if err := cr.prepare(); err != nil {
		return err
	}
	rootfs, err := cr.rootfs(ctx)
	if err != nil {
		return err
	}
	defer rootfs.Close()
	if err := cr.writeBundle(rootfs); err != nil {
		return err
	}
	pid, err := cr.createByShim(ctx)
	if err != nil {
		return err
	}
	if err := cr.connect(ctx, pid); err != nil {
		return err
	}
	err = cr.c.update(func(r *record) {
		r.Status, r.PID = api.StatusCreated, pid
	})
	if err != nil {
		return err
	}
	cr.watchShim(cr.c)
	return nil
}

// createSources makes the folders that -v names and that are not there. They
// are the user's: nobody takes them back.
func (cr *creation) createSources() error {
	for _, m := range cr.c.rec.Spec.Mounts {
		if m.Type != "bind" || !m.CreateSource {
			continue
		}
		if _, err := os.Stat(m.Source); !errors.Is(err, fs.ErrNotExist) {
			continue // there, or not to be had: the mount will tell
		}
		if err := os.MkdirAll(m.Source, 0o755); err != nil {
			return fmt.Errorf("make the source of the mount %s: %w", m.Target, err)
		}
	}
	return nil
}

// resolve finds the image and unpacks what of it is not unpacked yet.
func (cr *creation) resolve(ctx context.Context) (err error) {
	if cr.layer != nil {
		cr.lower = cr.layer.LowerDirs
		return nil
	}
	if cr.image, err = cr.Images.Resolve(cr.c.rec.Spec.Image); err != nil {
		return err
	}
	if cr.lower, err = cr.Images.Unpack(ctx, cr.image); err != nil {
		return fmt.Errorf("unpack image %s: %w", cr.c.rec.Spec.Image, err)
	}
	return nil
}

// references replaces the names of other containers by what they stand for.
func (cr *creation) references() error {
	cr.c.mu.Lock()
	defer cr.c.mu.Unlock()
	s := &cr.c.rec.Spec
	for _, ref := range []struct {
		mode *string
		ns   string
		path *string
	}{
		{&s.Network.Mode, "net", &cr.join.Network},
		{&s.PIDMode, "pid", &cr.join.PID},
		{&s.IPCMode, "ipc", &cr.join.IPC},
	} {
		name, ok := strings.CutPrefix(*ref.mode, "container:")
		if !ok {
			continue
		}
		other, err := cr.lookup(name)
		if err != nil {
			return err
		}
		if err := other.require("join the namespaces of", api.StatusRunning, api.StatusPaused); err != nil {
			return err
		}
		*ref.mode = "container:" + other.id()
		*ref.path = fmt.Sprintf("/proc/%d/ns/%s", other.snapshot().PID, ref.ns)
	}
	return nil
}

// intend writes down that there will be this container.
func (cr *creation) intend() error {
	files, rec := cr.c.files, &cr.c.rec
	if err := os.MkdirAll(files.Dir, 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(files.Bundle(), 0o700); err != nil {
		return err
	}
	if len(cr.lower) == 0 { // overlayfs wants one
		scratch := filepath.Join(files.Dir, "scratch")
		if err := errors.Join(os.Mkdir(scratch, 0o755), os.Chmod(scratch, 0o755)); err != nil {
			return err
		}
		cr.lower = []string{scratch}
	}
	if rec.Spec.UserNS == "auto" {
		cr.reserveIDs()
	}
	return cr.c.update(func(r *record) {
		r.ImageID = cr.image.ID.String()
		r.LowerDirs, r.UpperDir = cr.lower, files.Upper()
		if cr.layer != nil {
			r.UpperDir = cr.layer.UpperDir
		}
		r.Rootfs, r.LogPath = files.Rootfs(), files.Log()
		r.StopSignal = bundle.StopSignal(r.Spec, cr.image.Config.Config.StopSignal)
		if parent := cr.cgroupParentDir(); parent != "" {
			r.Cgroup = filepath.Join(parent, r.ID)
		}
	})
}

// prepare asks the shim to mount the root file system and to take the
// published ports.
func (cr *creation) prepare() error {
	files, rec := cr.c.files, &cr.c.rec
	mapping, err := cr.mapping()
	if err != nil {
		return err
	}
	upper, work := rec.UpperDir, files.Work()
	if cr.layer != nil {
		work = workOf(upper) // on the same mount
	}
	if err := overlay.Prepare(cr.lower, upper, work, mapping); err != nil {
		return err
	}
	return cr.conn.Send(protocol.Request{Op: protocol.OpPrepare, Explain: cr.trace.Enabled(), Container: &protocol.Container{
		ID: rec.ID, Files: files, RuntimeRoot: cr.Dirs.RuntimeRoot(),
		LowerDirs: cr.lower, UpperDir: upper, WorkDir: work, Mapping: mapping,
		TTY: rec.Spec.TTY, OpenStdin: rec.Spec.OpenStdin,
		SharedPID: rec.Spec.PIDMode != "" && rec.Spec.PIDMode != "private",
		LogSize:   logSize, LogFiles: logFiles,
		Publish: cr.publish(), IP: rec.IP,
	}})
}

// mapping is the user namespace that the container will have, as the overlay
// needs it, which comes before the bundle can be built.
func (cr *creation) mapping() (overlay.Mapping, error) {
	if u := cr.c.rec.Spec.UserNS; u == "" || u == "host" {
		return overlay.Mapping{}, nil
	}
	in, err := cr.bundleInput()
	if err != nil {
		return overlay.Mapping{}, err
	}
	spec, _, err := bundle.Build(in)
	if err != nil {
		return overlay.Mapping{}, err
	}
	convert := func(in []specs.LinuxIDMapping) (out []syscall.SysProcIDMap) {
		for _, m := range in {
			out = append(out, syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)})
		}
		return out
	}
	return overlay.Mapping{UIDs: convert(spec.Linux.UIDMappings), GIDs: convert(spec.Linux.GIDMappings)}, nil
}

// rootfs opens the container's root file system, which only the shim's mount
// namespace has.
func (cr *creation) rootfs(ctx context.Context) (*os.File, error) {
	rep, err := cr.conn.Await(ctx, protocol.OpPrepare, cr.observer(cr.c, cr.trace))
	if err != nil {
		return nil, cr.shimError(err)
	}
	cr.c.mu.Lock()
	cr.c.rec.Ports = rep.Ports
	cr.c.mu.Unlock()
	path := fmt.Sprintf("/proc/%d/root%s", rep.PID, cr.c.files.Rootfs())
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return os.NewFile(uintptr(fd), path), nil
}

func (cr *creation) bundleInput() (bundle.Input, error) {
	files, rec := cr.c.files, &cr.c.rec
	host, err := cr.host()
	if err != nil {
		return bundle.Input{}, err
	}
	in := bundle.Input{
		ID: rec.ID, Spec: rec.Spec, Image: cr.image.Config.Config, Host: host, Join: cr.join, AutoIDs: rec.IDs,
		Stat: bundle.StatDevice,
		Paths: bundle.Paths{
			Rootfs: files.Rootfs(),
			Init:   cr.Dirs.RuntimeBinary(), InitArgs: []string{"init"},
		},
	}
	cr.etcPaths(&in.Paths)
	if rec.Spec.Privileged {
		if in.HostDevices, err = bundle.HostDevices("/dev"); err != nil {
			return bundle.Input{}, err
		}
	}
	return in, nil
}

// writeBundle writes config.json and the files of /etc that are the engine's.
func (cr *creation) writeBundle(rootfs *os.File) error {
	in, err := cr.bundleInput()
	if err != nil {
		return err
	}
	user := in.Spec.User
	if user == "" {
		user = in.Image.User
	}
	if in.User, err = bundle.LookupUser(rootfs, user); err != nil {
		return err
	}
	spec, warnings, err := bundle.Build(in)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		cr.c.warn(w)
	}
	spec.Linux.CgroupsPath = path.Join(cr.CgroupParent, in.ID)
	cr.c.mu.Lock()
	cr.c.rec.Command = spec.Process.Args
	cr.c.mu.Unlock()
	if err := cr.writeEtc(spec.Hostname); err != nil {
		return err
	}
	if cr.layer != nil {
		targets := make([]string, len(spec.Mounts))
		for i, m := range spec.Mounts {
			targets[i] = m.Destination
		}
		if cr.made, err = findMountPoints(rootfs, cr.layer.UpperDir, targets); err != nil {
			return err
		}
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode config.json: %w", err)
	}
	return os.WriteFile(filepath.Join(cr.c.files.Bundle(), "config.json"), b, 0o600)
}

// createByShim has the shim create the container, and returns the first process.
func (cr *creation) createByShim(ctx context.Context) (int, error) {
	rep, err := cr.conn.Call(ctx, protocol.Request{Op: protocol.OpCreate}, cr.observer(cr.c, cr.trace))
	if err != nil {
		return 0, cr.shimError(err)
	}
	return rep.PID, nil
}

// shimError adds the reason why the shim has gone away, if it wrote one.
func (cr *creation) shimError(err error) error {
	if errors.Is(err, errdefs.ErrUnavailable) {
		if b, rerr := os.ReadFile(shimLog(cr.c.files)); rerr == nil && len(b) > 0 {
			err = fmt.Errorf("%w: %s", err, firstLine(b))
		}
	}
	return fmt.Errorf("create container %s: %w", cr.c.name(), err)
}

func firstLine(b []byte) string {
	line, _, _ := strings.Cut(string(b[:min(len(b), 1024)]), "\n")
	return line
}

// withFlags makes events name the flag that their config.json field came from.
func withFlags(trace *explain.Tracer, flags map[string]string) *explain.Tracer {
	if !trace.Enabled() {
		return nil
	}
	return explain.New("engine", os.Getpid(), func(ev explain.Event) {
		if ev.Flag == "" {
			ev.Flag = flagOf(flags, ev.Source)
		}
		trace.Emit(ev)
	})
}

// flagOf returns the flag behind a config.json field, or behind the closest
// field above it.
func flagOf(flags map[string]string, source string) string {
	for source != "" {
		if f, ok := flags[source]; ok {
			return f
		}
		i := strings.LastIndexByte(source, '.')
		if i < 0 {
			return ""
		}
		source = source[:i]
	}
	return ""
}
