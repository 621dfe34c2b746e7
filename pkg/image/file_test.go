package image

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestOpenFile(t *testing.T) {
	s := newStore(t)
	tool := file("bin/tool", "old")
	tool.Mode = 0o755
	a := newArchive(t, "app",
		tarOf(t, dir("bin"), tool, file("bin/gone", "1"), file("bin/kept", "2"), dir("opt"), file("opt/below", "3"), symlink("link", "bin"), file("etc", "4")),
		tarOf(t, dir("bin"), file("bin/tool", "new"), file("bin/.wh.gone", ""), symlink("bin/alias", "tool"), dir("bin/sub"),
			dir("opt"), file("opt/.wh..wh..opq", ""), file("opt/above", "5")),
	)
	images, err := s.Import(t.Context(), bytes.NewReader(a.seal(t).bytes(t)), ImportOptions{})
	must(t, err)
	img := images[0]
	for name, want := range map[string]string{"/bin/tool": "new", "bin/kept": "2", "opt/above": "5", "/../bin/./kept": "2", "etc": "4"} {
		f, err := s.OpenFile(t.Context(), img, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if b, err := io.ReadAll(f); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v, want %q", name, b, err, want)
		}
		f.Close()
	}
	for _, name := range []string{"bin/gone", "opt/below", "nothing", "bin/tool/x", "etc/passwd", "../../../../etc/passwd"} {
		if _, err := s.OpenFile(t.Context(), img, name); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"bin", "/", "bin/alias", "link/tool"} {
		if f, err := s.OpenFile(t.Context(), img, name); err == nil {
			f.Close()
			t.Errorf("%s can be opened", name)
		}
	}
	files, err := s.Files(t.Context(), img, "/bin")
	must(t, err)
	var names []string
	for _, f := range files {
		names = append(names, f.Name)
	}
	if got := strings.Join(names, " "); got != "kept tool" || files[1].Size != 3 || files[1].Mode != 0o644 {
		t.Errorf("%+v", files)
	}
}
