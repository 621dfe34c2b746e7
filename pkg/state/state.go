// Package state knows every file name that sandbox keeps on disk, and how to
// replace a file so that a crash leaves either the old or the new one.
package state

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Dirs are the two roots of everything that sandbox keeps.
type Dirs struct {
	Root string // durable, /var/lib/sandbox
	Run  string // gone at reboot, /run/sandbox
}

// Default returns the roots of an installed sandbox.
func Default() Dirs { return Dirs{Root: "/var/lib/sandbox", Run: "/run/sandbox"} }

func (d Dirs) Socket() string     { return filepath.Join(d.Run, "sandbox.sock") }
func (d Dirs) DaemonLock() string { return filepath.Join(d.Run, "daemon.lock") }
func (d Dirs) DaemonLog() string  { return filepath.Join(d.Root, "daemon.log") }

// RuntimeRoot is what `sandbox-runtime --root` gets from the raw engine.
func (d Dirs) RuntimeRoot() string { return filepath.Join(d.Run, "runtime") }

// RuntimeBinary is the embedded sandbox-runtime, extracted by the daemon. It is
// not under Run: Debian's and Ubuntu's initramfs mount /run noexec.
func (d Dirs) RuntimeBinary() string { return filepath.Join(d.Root, "bin", "sandbox-runtime") }

func (d Dirs) Images() string           { return filepath.Join(d.Root, "images") }
func (d Dirs) Layers() string           { return filepath.Join(d.Root, "layers") }
func (d Dirs) Build() string            { return filepath.Join(d.Root, "build") }
func (d Dirs) RunBuild() string         { return filepath.Join(d.Run, "build") } // secrets of builds
func (d Dirs) Recipes() string          { return filepath.Join(d.Root, "recipes") }
func (d Dirs) Leases() string           { return filepath.Join(d.Root, "network", "leases.json") }
func (d Dirs) Stage(name string) string { return filepath.Join(d.Root, "stages", name+".json") }
func (d Dirs) Alerts() string           { return filepath.Join(d.Root, "alerts.json") }
func (d Dirs) Providers() string        { return filepath.Join(d.Root, "providers") } // Terraform's
func (d Dirs) RunKind() string          { return filepath.Join(d.Run, "kind") }       // what kind writes and nobody reads
func (d Dirs) Change(id string) string  { return filepath.Join(d.Root, "changes", id+".json") }
func (d Dirs) Containers() string       { return filepath.Join(d.Root, "containers") }
func (d Dirs) RunContainers() string    { return filepath.Join(d.Run, "containers") }
func (d Dirs) Container(id string) Files {
	return Files{filepath.Join(d.Containers(), id), filepath.Join(d.RunContainers(), id)}
}

// StageDir is for what a stage hands to its containers, beside its Stage file.
func (d Dirs) StageDir(name string) string { return filepath.Join(d.Root, "stages", name) }

// Files are the files of one raw container: Dir is durable, Run is not.
type Files struct{ Dir, Run string }

// Intent is written before the container's first side effect.
func (f Files) Intent() string { return filepath.Join(f.Dir, "container.json") }
func (f Files) Exit() string   { return filepath.Join(f.Dir, "exit.json") }
func (f Files) Log() string    { return filepath.Join(f.Dir, "log.jsonl") }

// RotatedLog is log.jsonl for 0, and older ones for 1, 2, ….
func (f Files) RotatedLog(n int) string {
	if n == 0 {
		return f.Log()
	}
	return f.Log() + "." + strconv.Itoa(n)
}

func (f Files) Upper() string      { return filepath.Join(f.Dir, "upper") }
func (f Files) Work() string       { return filepath.Join(f.Dir, "work") }
func (f Files) Hosts() string      { return filepath.Join(f.Dir, "hosts") }
func (f Files) Hostname() string   { return filepath.Join(f.Dir, "hostname") }
func (f Files) ResolvConf() string { return filepath.Join(f.Dir, "resolv.conf") }
func (f Files) Bundle() string     { return filepath.Join(f.Run, "bundle") }
func (f Files) Rootfs() string     { return filepath.Join(f.Run, "bundle", "rootfs") }
func (f Files) ShimSocket() string { return filepath.Join(f.Run, "shim.sock") }
func (f Files) ShimPID() string    { return filepath.Join(f.Run, "shim.pid") }

// WriteFile replaces path with data: temp file, fsync, rename, fsync of the
// directory. Parent directories are made with mode 0700.
func WriteFile(path string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(perm); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// WriteJSON replaces path with v as JSON.
func WriteJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return WriteFile(path, append(b, '\n'), 0o600)
}

// ReplaceJSON replaces path with v as JSON, like WriteJSON, but does not wait
// for the disk. The file survives any death of this process; after a power
// failure it may be the old one, the new one, empty or absent. It is for what
// describes kernel objects, which a power failure ends as well.
func ReplaceJSON(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	tmp := path + ".new" // each such file has one writer at a time
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// ReadJSON reads path into v. A missing file is an error that satisfies
// errors.Is(err, fs.ErrNotExist).
func ReadJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}
