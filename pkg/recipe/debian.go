package recipe

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// DebianRoot returns the folder of the root file system that d describes, made
// now if there is none yet. epoch bounds the times in it; env are KEY=VALUE of
// the host that package downloads need (proxies). Root file systems are kept
// below Build()/debian, by all that they depend on, but for the state of
// Debian's archive:
//
//	debian/KEY/lock   held while fs is made
//	debian/KEY/new    what is made; half of one after an interruption
//	debian/KEY/fs     the result
func DebianRoot(ctx context.Context, dirs state.Dirs, d Debian, epoch time.Time, env []string, output func(string)) (string, error) {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return "", fmt.Errorf("debian %s: mmdebstrap is not installed; install it with `apt install mmdebstrap`: %w", d.Suite, errdefs.ErrFailedPrecondition)
	}
	if d.Variant == "" {
		d.Variant = variants[0]
	}
	d.Packages = stringSet(append([]string{}, d.Packages...)) // none is [], never null
	dir := filepath.Join(dirs.Build(), "debian", debianKey(d, epoch))
	fs := filepath.Join(dir, "fs")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	lock, err := lockFile(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Lstat(fs); err == nil {
		return fs, nil
	}
	half := filepath.Join(dir, "new")
	if err := os.RemoveAll(half); err != nil {
		return "", err
	}
	if err := bootstrap(ctx, d, half, epoch, env, output); err != nil {
		return "", errors.Join(fmt.Errorf("debian %s: %w", d.Suite, err), os.RemoveAll(half))
	}
	return fs, os.Rename(half, fs)
}

// debianKey names a root file system after all that it depends on.
func debianKey(d Debian, epoch time.Time) string {
	b, err := json.Marshal(struct {
		Debian
		Arch  string
		Epoch int64
	}{d, runtime.GOARCH, epoch.Unix()})
	if err != nil {
		panic(err) // strings and numbers
	}
	sum := sha256.Sum256(b)
	return d.Suite + "-" + hex.EncodeToString(sum[:8])
}

// bootstrap runs mmdebstrap in PID and mount namespaces of its own, so that an
// interruption leaves neither processes nor mounts.
func bootstrap(ctx context.Context, d Debian, to string, epoch time.Time, env []string, output func(string)) error {
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "mmdebstrap",
		"--mode=root", "--format=directory", "--variant=" + d.Variant}
	if len(d.Packages) > 0 {
		args = append(args, "--include="+strings.Join(d.Packages, ","))
	}
	for _, opt := range hostAptOptions(ctx) {
		args = append(args, "--aptopt="+opt)
	}
	args = append(args,
		// What is this host's alone.
		`--customize-hook=rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf "$1"/etc/hostname`,
		d.Suite, to)
	cmd := exec.CommandContext(ctx, "unshare", args...)
	cmd.Dir = "/"
	cmd.Env = append(slices.Clone(env),
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root",
		fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch.Unix()))
	cmd.WaitDelay = 10 * time.Second
	w := &lineWriter{emit: output}
	cmd.Stdout, cmd.Stderr = w, w
	err := cmd.Run()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return fmt.Errorf("mmdebstrap: %w:\n\t%s", err, strings.Join(w.last, "\n\t"))
	}
	return emptyFolder(filepath.Join(to, "dev")) // each container has its own
}

func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// hostAptOptions are those of this host's apt that decide whether downloads
// work here. mmdebstrap starts from apt's defaults.
func hostAptOptions(ctx context.Context) (opts []string) {
	out, err := exec.CommandContext(ctx, "apt-config", "dump").Output()
	if err != nil {
		return nil // no Debian: its environment must do
	}
	for line := range strings.Lines(string(out)) {
		for _, name := range []string{
			"Acquire::http::Proxy ", "Acquire::https::Proxy ", "Acquire::https::CAInfo ",
			"Acquire::Check-Valid-Until ", "Acquire::Check-Date ",
		} {
			if strings.HasPrefix(line, name) {
				opts = append(opts, strings.TrimSpace(line))
			}
		}
	}
	return opts
}

// lockFile takes an exclusive lock; closing the file gives it back.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// lineWriter hands lines on and keeps the last ones.
type lineWriter struct {
	emit func(string)
	part []byte
	last []string
}

func (w *lineWriter) Write(b []byte) (int, error) {
	w.part = append(w.part, b...)
	for {
		line, rest, ok := strings.Cut(string(w.part), "\n")
		if !ok {
			return len(b), nil
		}
		w.part = []byte(rest)
		if w.last = append(w.last, line); len(w.last) > 20 {
			w.last = w.last[1:]
		}
		if w.emit != nil {
			w.emit(line + "\n")
		}
	}
}
