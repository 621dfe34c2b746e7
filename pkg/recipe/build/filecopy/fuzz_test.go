package filecopy

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// FuzzCopy: whatever the instruction says, nothing outside of the two trees is
// read or written, and what Copy takes is what Digest saw.
func FuzzCopy(f *testing.F) {
	for _, c := range copyCases {
		f.Add(strings.Join(c.patterns, "\n"), c.dest, strings.Join(c.ignore, "\n"), strings.Join(c.opts.Exclude, "\n"), c.opts.Parents, c.opts.Dir)
	}
	f.Add("../*\n/proc/self/root/*\nl/../..", "/up/../../x", "!**/a\n*", "**", true, true)
	f.Fuzz(func(t *testing.T, patterns, dest, ignore, exclude string, parents, dir bool) {
		outside := t.TempDir()
		from, to := outside+"/from", outside+"/to"
		makeTree(t, outside, "secret")
		makeTree(t, from, "a", "d/b", "d/e/c", "d/up -> ../..", "l -> ../secret", "m -> /../../secret", "abs -> "+outside, "o -> o", "[x]/y", "*")
		makeTree(t, to, "x/", "l -> ../secret", "up -> ../..", "abs -> "+outside, "f", "etc/passwd -> ../../secret")
		before := listTree(t, from)
		tree := Tree{Root: from}
		var err error
		if tree.Ignore, err = ParseIgnore(strings.NewReader(ignore)); err != nil {
			t.Skip()
		}
		opts := Options{Parents: parents, Dir: dir, Exclude: strings.Split(exclude, "\n"), Extract: true}
		if strings.Contains(dest, "c") {
			opts.Chown = "bob"
		}
		list := strings.Split(patterns, "\n")
		digest, derr := tree.Digest(t.Context(), list, opts)
		err = Copy(t.Context(), tree, list, to, dest, opts)
		if derr != nil && err == nil {
			t.Errorf("digest alone has error %v", derr)
		}
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsNotFound(err) {
			t.Errorf("error has no class: %v", err)
		}
		if again, err := tree.Digest(t.Context(), list, opts); derr == nil && (err != nil || again != digest) {
			t.Errorf("digest is %s and then %s, %v", digest, again, err)
		}
		if after := listTree(t, from); !slices.Equal(before, after) {
			t.Errorf("the source has changed: %q", after)
		}
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) != 3 {
			t.Errorf("outside there are %v, %v", entries, err)
		}
		if data, err := os.ReadFile(outside + "/secret"); err != nil || string(data) != "secret" {
			t.Errorf("the file outside is %q, %v", data, err)
		}
		for _, line := range listTree(t, to) {
			if strings.HasPrefix(line, "f ") && strings.HasSuffix(line, " secret") {
				t.Errorf("read from outside: %s", line)
			}
		}
	})
}

func FuzzMode(f *testing.F) {
	for _, seed := range []string{"u+x", "755", "u=rwX,go=rX", "g=u-w", "+t,ugo+s"} {
		f.Add(seed, uint32(0o100644))
	}
	f.Fuzz(func(t *testing.T, s string, st uint32) {
		m, err := parseMode(s)
		if err != nil {
			return
		}
		if bits := m.apply(st); bits&^0o7777 != 0 {
			t.Errorf("%q of %o is %o", s, st, bits)
		}
	})
}
