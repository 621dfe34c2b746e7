// Command build assembles the toolbox image, as an OCI archive, from a static
// busybox and the stress tool. The same inputs give the same bytes.
package main

import (
	"debug/elf"
	"embed"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sandboxlabs/sandbox/pkg/image"
)

//go:embed root/etc
var etc embed.FS

//go:embed SOURCE.template
var sourceTemplate string

type inputs struct {
	busybox, version string // the program, and the Debian version it came in
	copyright, gpl   string // texts of its licence
	stress, license  string // our own program, and the licence of it
	epoch            time.Time
}

func main() {
	var in inputs
	out := flag.String("o", "", "write the archive to this file")
	flag.StringVar(&in.busybox, "busybox", "/bin/busybox", "static busybox")
	flag.StringVar(&in.version, "busybox-version", "", "version of the Debian package that it is from")
	flag.StringVar(&in.copyright, "busybox-copyright", "/usr/share/doc/busybox-static/copyright", "copyright file of that package")
	flag.StringVar(&in.gpl, "gpl", "/usr/share/common-licenses/GPL-2", "text of the GPL, version 2")
	flag.StringVar(&in.stress, "stress", "", "stress tool")
	flag.StringVar(&in.license, "license", "LICENSE", "licence of the stress tool")
	flag.Parse()
	if err := run(*out, in); err != nil {
		fmt.Fprintf(os.Stderr, "build toolbox: %v\n", err)
		os.Exit(1)
	}
}

func run(out string, in inputs) error {
	if out == "" || in.stress == "" || in.version == "" {
		return errors.New("-o, -stress and -busybox-version are needed")
	}
	// Timestamps: https://reproducible-builds.org/specs/source-date-epoch/
	seconds, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	in.epoch = time.Unix(seconds, 0).UTC()

	var layers []image.Layer
	for _, l := range []struct {
		createdBy string
		fill      func(*layer, inputs) error
	}{
		{"base: directories and /etc", base},
		{"busybox-static " + in.version + " from Debian, with a link for each of its tools", busybox},
		{"stress: load for cpu, memory, pids and io", stress},
	} {
		files := &layer{}
		if err := l.fill(files, in); err != nil {
			return err
		}
		data, err := files.tar(in.epoch)
		if err != nil {
			return err
		}
		layers = append(layers, image.Layer{Tar: data, CreatedBy: l.createdBy})
	}
	return write(out, in, layers)
}

func write(out string, in inputs, layers []image.Layer) error {
	config := ispec.Image{
		Created:  &in.epoch,
		Platform: ispec.Platform{OS: "linux", Architecture: runtime.GOARCH},
		Config: ispec.ImageConfig{
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Cmd: []string{"sh"},
			Labels: map[string]string{
				ispec.AnnotationTitle:       "toolbox",
				ispec.AnnotationDescription: "busybox and a load generator, to look at containers from inside",
				ispec.AnnotationLicenses:    "GPL-2.0-only AND Apache-2.0",
				ispec.AnnotationVersion:     in.version,
			},
		},
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(out), ".toolbox-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	desc, err := image.WriteArchive(f, "toolbox:latest", config, layers)
	if err != nil {
		return err
	}
	size, err := f.Seek(0, 1)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Chmod(0o644), f.Close(), os.Rename(f.Name(), out)); err != nil {
		return err
	}
	fmt.Printf("toolbox: %s, %d layers, %d KiB, manifest %s\n", out, len(layers), size>>10, desc.Digest)
	return nil
}

// base is what programs expect around them.
func base(l *layer, _ inputs) error {
	l.dir(".", 0o755)
	for _, dir := range []string{"bin", "dev", "etc", "home", "mnt", "opt", "run", "sbin", "srv", "usr", "usr/bin", "usr/local",
		"usr/local/bin", "usr/local/sbin", "usr/sbin", "usr/share", "usr/share/licenses", "var", "var/log"} {
		l.dir(dir, 0o755)
	}
	l.dir("proc", 0o555)
	l.dir("sys", 0o555)
	l.dir("root", 0o700)
	l.dir("tmp", 0o1777)
	l.dir("var/tmp", 0o1777)
	l.dir("home/learner", 0o755).own(1000)
	files, err := etc.ReadDir("root/etc")
	if err != nil {
		return err
	}
	for _, f := range files {
		data, err := etc.ReadFile("root/etc/" + f.Name())
		if err != nil {
			return err
		}
		mode := int64(0o644)
		if f.Name() == "shadow" {
			mode = 0o600
		}
		l.file("etc/"+f.Name(), mode, data)
	}
	// Every container gets these, and hosts, as bind mounts, whose targets must
	// exist: here, so that a new container's upper directory is really empty.
	l.file("etc/hostname", 0o644, nil)
	l.file("etc/resolv.conf", 0o644, nil)
	l.symlink("etc/mtab", "/proc/self/mounts")
	return nil
}

func busybox(l *layer, in inputs) error {
	if err := static(in.busybox); err != nil {
		return err
	}
	if err := l.copy("bin/busybox", 0o755, in.busybox); err != nil {
		return err
	}
	list, err := exec.Command(in.busybox, "--list-full").Output()
	if err != nil {
		return fmt.Errorf("%s --list-full: %w", in.busybox, err)
	}
	for link := range strings.FieldsSeq(string(list)) {
		link = path.Clean(strings.TrimPrefix(link, "/"))
		if link == "bin/busybox" || !strings.Contains(link, "/") {
			continue // not in a bin folder: linuxrc
		}
		up := strings.Repeat("../", strings.Count(link, "/"))
		target := up + "bin/busybox"
		if path.Dir(link) == "bin" {
			target = "busybox"
		}
		l.symlink(link, target)
	}
	l.dir("usr/share/licenses/busybox", 0o755)
	// A binary rebuild (+b1) has no source package of its own.
	source, _, _ := strings.Cut(in.version, "+b")
	text := strings.NewReplacer("@VERSION@", in.version, "@SOURCE@", source).Replace(sourceTemplate)
	l.file("usr/share/licenses/busybox/SOURCE", 0o644, []byte(text))
	return errors.Join(
		l.copy("usr/share/licenses/busybox/copyright", 0o644, in.copyright),
		l.copy("usr/share/licenses/busybox/GPL-2", 0o644, in.gpl),
	)
}

func stress(l *layer, in inputs) error {
	if err := static(in.stress); err != nil {
		return err
	}
	l.dir("usr/share/licenses/stress", 0o755)
	return errors.Join(
		l.copy("usr/bin/stress", 0o755, in.stress),
		l.copy("usr/share/licenses/stress/LICENSE", 0o644, in.license),
	)
}

// static checks that a program needs no loader: the image has no libraries.
func static(name string) error {
	f, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is linked dynamically, a static program is needed", name)
		}
	}
	return nil
}
