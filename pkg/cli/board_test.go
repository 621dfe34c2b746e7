package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// aBuild is what the daemon tells of a build of two recipes, the second of
// which fails.
func aBuild() []api.Frame {
	step := func(ev api.BuildEvent) api.Frame { return api.Frame{Build: &ev} }
	run := api.BuildEvent{Recipe: "web", Stage: "build", Step: "1/2", Instruction: "RUN make all"}
	bad := api.BuildEvent{Recipe: "db", Stage: "0", Step: "1/1", Instruction: "RUN false"}
	with := func(ev api.BuildEvent, change func(*api.BuildEvent)) api.Frame { change(&ev); return step(ev) }
	return []api.Frame{
		step(api.BuildEvent{Recipe: "web", Stage: "0", Step: "1/9", Instruction: "COPY . .", Status: api.BuildCached, Cached: true, Layer: &api.ImageLayer{Added: 1}}),
		with(run, func(ev *api.BuildEvent) { ev.Status = api.BuildRunning }),
		with(run, func(ev *api.BuildEvent) { ev.Stream, ev.Output = "stdout", "compiling 1\ncompil" }),
		with(run, func(ev *api.BuildEvent) { ev.Stream, ev.Output = "stderr", "a warning\x1b[2J\n" }),
		with(run, func(ev *api.BuildEvent) { ev.Stream, ev.Output = "stdout", "ing 2\n 10%\r 20%\r" }),
		with(bad, func(ev *api.BuildEvent) { ev.Status = api.BuildRunning }),
		with(bad, func(ev *api.BuildEvent) { ev.Stream, ev.Output = "stderr", "the reason\n" }),
		with(bad, func(ev *api.BuildEvent) {
			ev.Status, ev.Error, ev.Took = api.BuildFailed, "exit code 1:\n\tthe reason", time.Second
		}),
		with(run, func(ev *api.BuildEvent) {
			ev.Status, ev.Took = api.BuildDone, 2*time.Second
			ev.Layer = &api.ImageLayer{Unpacked: 2 << 20, Added: 3, Changed: 1}
		}),
		step(api.BuildEvent{Recipe: "db", Status: api.BuildFailed, Error: "recipe db: RUN false: exit code 1:\n\tthe reason"}),
	}
}

func show(term *ui.Fake, how shown, frames []api.Frame) *board {
	b := (&program{Deps: Deps{Term: term}}).newBoard(how)
	for _, f := range frames {
		b.frame(f)
	}
	b.close()
	return b
}

func TestBoardPlain(t *testing.T) {
	term := &ui.Fake{}
	b := show(term, shown{}, aBuild())
	want := `- web 0 1/9  COPY . .     0 µs  cached
web build 1/2 > RUN make all
web build 1/2 | compiling 1
web build 1/2 | a warning\x1b[2J
web build 1/2 | compiling 2
db 0 1/1 > RUN false
db 0 1/1 | the reason
✗ db 0 1/1  RUN false            1.0 s  exit code 1
✓ web build 1/2  RUN make all    2.0 s  2 MiB, +3 ~1 -0 files
`
	if got := term.Err.String(); got != want {
		t.Errorf("stderr is\n%s\nwant\n%s", got, want)
	}
	if term.Out.String() != "" {
		t.Errorf("stdout is %q", term.Out.String())
	}
	// What was shown is not said again.
	err := b.shorten("db", &api.Error{Message: "recipe db: RUN false: exit code 1:\n\tthe reason", Hint: "h"})
	if e := err.(*api.Error); e.Message != "recipe db: RUN false: exit code 1" || e.Hint != "h" { //nolint:errorlint // it is one
		t.Errorf("%+v", e)
	}
	if err := b.shorten("web", &api.Error{Message: "smoke test\nit wrote\n\tx"}); err.Error() != "smoke test\nit wrote\n\tx" {
		t.Errorf("what was not shown is left out: %v", err)
	}
}

func TestBoardLive(t *testing.T) {
	term := &ui.Fake{IsLive: true}
	show(term, shown{}, aBuild())
	// Only what failed is told in full; what is cached is not told.
	want := `db 0 1/1 | the reason
✗ db 0 1/1  RUN false            1.0 s  exit code 1
✓ web build 1/2  RUN make all    2.0 s  2 MiB, +3 ~1 -0 files
`
	if got := term.Err.String(); got != want {
		t.Errorf("stderr is\n%s\nwant\n%s", got, want)
	}
	all := strings.Join(term.Statuses(), "\n")
	if !strings.Contains(all, "RUN make all") || strings.Contains(all, "cached") || strings.Contains(all, "\x1b[2J") {
		t.Errorf("status lines were %q", all)
	}
	if last := term.Statuses()[len(term.Statuses())-1]; last != "" {
		t.Errorf("status lines are left: %q", last)
	}
}

func TestBoardQuietAndJSON(t *testing.T) {
	term := &ui.Fake{}
	show(term, shown{quiet: true}, append(aBuild(), api.Frame{Warning: "look here"}))
	if got := term.Err.String(); got != "warning: look here\n" {
		t.Errorf("quiet: %q", got)
	}
	term = &ui.Fake{}
	show(term, shown{json: true}, aBuild())
	lines := strings.Split(strings.TrimSpace(term.Out.String()), "\n")
	if len(lines) != len(aBuild()) || !strings.HasPrefix(lines[0], `{"build":{"recipe":"web"`) || term.Err.String() != "" {
		t.Errorf("JSON: %q, stderr %q", lines, term.Err.String())
	}
}

// TestBoardPull has two blobs, one of which the store has.
func TestBoardPull(t *testing.T) {
	blob := func(digit, status string, done int64) api.Frame {
		return api.Frame{Progress: &api.ImageProgress{Item: "sha256:" + strings.Repeat(digit, 64), Status: status, Done: done, Total: 4 << 20}}
	}
	frames := []api.Frame{
		blob("a", "present", 4<<20), blob("b", "waiting", 0), blob("b", "downloading", 1<<20), blob("b", "downloading", 2<<20), blob("b", "done", 4<<20),
	}
	term := &ui.Fake{}
	show(term, shown{}, frames)
	lines := strings.Split(strings.TrimSpace(term.Err.String()), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "- aaaaaaaaaaaa ") || !strings.HasSuffix(lines[0], "already there") ||
		!strings.HasPrefix(lines[1], "✓ bbbbbbbbbbbb ") || !strings.HasSuffix(lines[1], "4 MiB") {
		t.Errorf("plain: %q", lines)
	}
	term = &ui.Fake{IsLive: true}
	show(term, shown{}, frames)
	if all := strings.Join(term.Statuses(), "\n"); !strings.Contains(all, "2 MiB / 4 MiB") || !strings.Contains(all, "/s") {
		t.Errorf("live: %q", all)
	}
}

func TestTree(t *testing.T) {
	files := []api.ImageFile{
		{Path: "etc/app/config", Change: "added", Size: 12, Mode: "-rw-r--r--"},
		{Path: "etc", Change: "changed", Mode: "drwxr-xr-x"},
		{Path: "/usr/bin/tool", Change: "changed", Size: 2048, Mode: "-rwxr-xr-x", Wasted: true},
		{Path: "usr/bin/old\x1b[2J", Change: "removed", Size: 9},
	}
	want := `├── ~ etc/  drwxr-xr-x
│   └──   app/
│       └── + config  12 B  -rw-r--r--
└──   usr/
    └──   bin/
        ├── - old\x1b[2J
        └── ~ tool  2 KiB  -rwxr-xr-x  wasted`
	if got := strings.Join(treeLines(ui.Style{}, files), "\n"); got != want {
		t.Errorf("the tree is\n%s\nwant\n%s", got, want)
	}
}

func TestLayersTable(t *testing.T) {
	layers := []api.ImageLayer{
		{Instruction: "RUN apt-get install -y \\\n\tcurl", Size: 1 << 20, Unpacked: 3 << 20, Added: 10, Wasted: 2048},
		{Instruction: "ENV A=1", Empty: true},
		{Instruction: "COPY a b", Size: 1024, Unpacked: 2048, Changed: 1, Removed: 2},
	}
	got := strings.Join(layersTable(layers, ui.Style{}, 30).Lines(ui.Style{}), "\n")
	want := `INSTRUCTION                       SIZE  UNPACKED  FILES      WASTED
RUN apt-get install -y \ curl    1 MiB     3 MiB  +10 ~0 -0   2 KiB
ENV A=1
COPY a b                         1 KiB     2 KiB  +0 ~1 -2
total                          1.0 MiB   3.0 MiB  +10 ~1 -2   2 KiB`
	if got != want {
		t.Errorf("the table is\n%s\nwant\n%s", got, want)
	}
}

func TestBuiltSummary(t *testing.T) {
	report := api.BuildReport{Took: 90 * time.Second, Images: []api.BuildResult{
		{Recipe: "a", Image: &api.Image{}, Took: time.Second}, {Recipe: "b", Image: &api.Image{}, Took: time.Minute},
		{Recipe: "c", Note: "not built"}, {Recipe: "d", Took: 2 * time.Second, Error: &api.Error{Message: "x"}},
	}}
	if got := builtSummary(report); got != "2 images in 1 min 30 s; the slowest: b 1 min 0 s, d 2.0 s, a 1.0 s" {
		t.Error(got)
	}
}

func TestBuildFlags(t *testing.T) {
	type pairs = map[string]string
	args := func(s string) (pairs, error) { return buildArgs([]string{s}, nowhere) }
	check(t, "build-arg", args, `
		A=1          -> map[A:1]
		A=b=c        -> map[A:b=c]
		HOME         -> map[HOME:/home/u]
		NOT_SET      -> map[]
		=x           -> ! no name`)
	contexts := func(s string) (pairs, error) { return buildContexts([]string{s}) }
	check(t, "build-context", contexts, `
		a=/srv/files               -> map[a:/srv/files]
		a=/srv/../srv              -> map[a:/srv]
		a=docker-image://debian:12 -> map[a:image:debian:12]
		a=https://x/y              -> ! only folders
		a=                         -> ! not NAME=FOLDER
		=/srv                      -> ! not NAME=FOLDER
		a                          -> ! not NAME=FOLDER`)
	secrets := func(s string) (pairs, error) { return buildSecrets([]string{s}) }
	check(t, "secret", secrets, `
		id=a,src=/etc/hostname           -> map[a:/etc/hostname]
		type=file,id=a,source=/etc/hosts -> map[a:/etc/hosts]
		id=a,src=/no/such/file           -> ! no such file
		id=a,env=TOKEN                   -> ! there is no "env"
		type=env,id=a                    -> ! only files
		src=/etc/hostname                -> ! it has no id`)
}
