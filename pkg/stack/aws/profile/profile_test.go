package profile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
)

var ours = Profile{Name: "sandbox", Endpoint: "http://127.0.0.1:4566", Region: "us-east-1", AccessKey: "test", SecretKey: "test"}

const config = `# mine
[default]
region = eu-central-1

[profile "work"]
region=us-west-2
s3 =
    max_concurrent_requests = 20
`

func files(t *testing.T) Files {
	dir := filepath.Join(t.TempDir(), ".aws")
	return FilesOf(filepath.Dir(dir), func(string) string { return "" })
}

func put(t *testing.T, path, text string, mode fs.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestWriteNew(t *testing.T) {
	f := files(t)
	changed, err := Write(f, ours)
	if err != nil || !slices.Equal(changed, []string{f.Config, f.Credentials}) {
		t.Fatalf("%v, %v", changed, err)
	}
	if got, want := get(t, f.Config), "[profile sandbox]\n"+mark+"\nregion = us-east-1\noutput = json\nendpoint_url = http://127.0.0.1:4566\n"; got != want {
		t.Errorf("%q", got)
	}
	if got := get(t, f.Credentials); !strings.Contains(got, "[sandbox]\n") || !strings.Contains(got, "aws_secret_access_key = test\n") {
		t.Errorf("%q", got)
	}
	for _, path := range []string{f.Config, f.Credentials} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	}
	if changed, err := Write(f, ours); err != nil || len(changed) > 0 {
		t.Errorf("again: %v, %v", changed, err)
	}
	moved := ours
	moved.Endpoint = "http://127.0.0.1:5566"
	if changed, err := Write(f, moved); err != nil || !slices.Equal(changed, []string{f.Config}) {
		t.Errorf("moved: %v, %v", changed, err)
	}
	if _, err := Remove(f, "sandbox"); err != nil || get(t, f.Config) != "" || get(t, f.Credentials) != "" {
		t.Errorf("removed: %v, %q", err, get(t, f.Config))
	}
}

// TestOthersStay: what others have written comes back byte by byte.
func TestOthersStay(t *testing.T) {
	for name, text := range map[string]string{
		"plain": config, "no newline at the end": strings.TrimSuffix(config, "\n"), "empty": "", "Windows": strings.ReplaceAll(config, "\n", "\r\n"),
	} {
		f := files(t)
		put(t, f.Config, text, 0o644)
		if _, err := Write(f, ours); err != nil {
			t.Fatal(err)
		}
		got := get(t, f.Config)
		if !strings.HasPrefix(got, text) {
			t.Errorf("%s: %q", name, got)
		}
		// Something comes behind it.
		behind := "\n[profile later]\nregion = x\n"
		put(t, f.Config, got+behind, 0o644)
		if changed, err := Write(f, ours); err != nil || len(changed) > 0 {
			t.Errorf("%s: again: %v, %v", name, changed, err)
		}
		if fi, err := os.Stat(f.Config); err != nil || fi.Mode().Perm() != 0o644 {
			t.Errorf("%s: mode %v, %v", name, fi.Mode(), err)
		}
		if _, err := Remove(f, "sandbox"); err != nil {
			t.Error(err)
		}
		got = get(t, f.Config)
		if !strings.HasPrefix(got, strings.TrimSuffix(text, "\n")) || !strings.HasSuffix(got, "[profile later]\nregion = x\n") || strings.Contains(got, "sandbox") {
			t.Errorf("%s: removed: %q", name, got)
		}
	}
}

func TestForeignProfile(t *testing.T) {
	f := files(t)
	text := "[profile sandbox]\nrole_arn = arn:aws:iam::123456789012:role/admin\n"
	put(t, f.Config, text, 0o600)
	_, err := Write(f, ours)
	var hint interface{ Hint() string }
	if !errdefs.IsAlreadyExists(err) || !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--name") {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(f.Credentials); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("credentials were written: %v", err)
	}
	if changed, err := Remove(f, "sandbox"); err != nil || len(changed) > 0 || get(t, f.Config) != text {
		t.Errorf("%v, %v", changed, err)
	}
	other := ours
	other.Name = "sandbox-local"
	if _, err := Write(f, other); err != nil || !strings.HasPrefix(get(t, f.Config), text) {
		t.Error(err)
	}
	for _, name := range []string{"", "default", "a b", "x]\n[default"} {
		if _, err := Write(f, Profile{Name: name}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// TestOwner: under sudo the files are the user's, and a link stays a link.
func TestOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root gives files away")
	}
	f := files(t)
	home := filepath.Dir(filepath.Dir(f.Config))
	if err := os.Chown(home, 4711, 4712); err != nil {
		t.Fatal(err)
	}
	dotfiles := filepath.Join(home, "dotfiles")
	put(t, dotfiles, config, 0o640)
	if err := os.Chown(dotfiles, 4711, 4713); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Dir(f.Config), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Dir(f.Config), 4711, 4712); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../dotfiles", f.Config); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(f, ours); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(f.Config); err != nil || target != "../dotfiles" {
		t.Errorf("%q, %v", target, err)
	}
	for path, want := range map[string][3]uint32{dotfiles: {4711, 4713, 0o640}, f.Credentials: {4711, 4712, 0o600}} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		st := fi.Sys().(*syscall.Stat_t)
		if got := [3]uint32{st.Uid, st.Gid, uint32(fi.Mode().Perm())}; got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}
