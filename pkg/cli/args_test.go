package cli

import (
	"strings"
	"testing"

	cli "github.com/urfave/cli/v2"
)

// TestSplit compares what is typed with what is understood. A line is the
// typed arguments, an arrow, then the flags as name=value and, after "|", the
// arguments; or ! and a part of the error.
func TestSplit(t *testing.T) {
	const run = `
		img                          -> | img
		-it img sh                   -> interactive=true tty=true | img sh
		-dit img                     -> detach=true interactive=true tty=true | img
		-itv /a:/b img               -> interactive=true tty=true volume=/a:/b | img
		-m 64m img                   -> memory=64m | img
		-m64m img                    -> memory=64m | img
		-m=64m img                   -> memory=64m | img
		--memory=64m img             -> memory=64m | img
		--memory 64m img             -> memory=64m | img
		--memory= img                -> memory= | img
		-tm64m img                   -> tty=true memory=64m | img
		-p8080:80 -p 81:81 img       -> publish=8080:80 publish=81:81 | img
		-eA=1,2 img                  -> env=A=1,2 | img
		-e A= img                    -> env=A= | img
		--rm=false img               -> rm=false | img
		--rm=0 img                   -> rm=false | img
		-t=false img                 -> tty=false | img
		--net none img               -> network=none | img
		-h web img                   -> hostname=web | img
		img -it --rm                 -> | img -it --rm
		img --                       -> | img --
		--rm -- img -x               -> rm=true | img -x
		-- -x                        -> | -x
		--name it -it img            -> name=it interactive=true tty=true | img
		-v - img                     -> volume=- | img
		--help                       -> help=true |
		-i - x                       -> interactive=true | - x
		--memroy 64m img             -> ! unknown flag: --memroy
		--m 64m img                  -> ! unknown flag: --m
		-ix img                      -> ! unknown flag: -x in -ix
		-name x img                  -> ! unknown flag: -n in -name
		--memory                     -> ! flag needs an argument: --memory
		-itm                         -> ! flag needs an argument: -m in -itm
		--rm=perhaps img             -> ! invalid value "perhaps" for --rm
		-t=2 img                     -> ! invalid value "2" for -t
		---rm img                    -> ! unknown flag: ---rm
		--=x img                     -> ! unknown flag: --`
	checkSplit(t, append(containerFlags(true), cli.HelpFlag), run, false)

	// Elsewhere flags may follow the arguments, and -h is help.
	const rm = `
		web -f        -> force=true | web
		-f web db     -> force=true | web db
		web -- -f     -> | web -f
		-h            -> help=true |
		-fh           -> force=true help=true |
		web -x        -> ! unknown flag: -x in -x`
	checkSplit(t, []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}}}, rm, true)
}

func checkSplit(t *testing.T, flags []cli.Flag, table string, interspersed bool) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(table)) {
		in, want, _ := strings.Cut(line, "->")
		want = strings.Join(strings.Fields(want), " ")
		typed, rest, err := split(flags, strings.Fields(in), interspersed)
		var got []string
		for _, f := range typed {
			got = append(got, f.name+"="+f.value)
		}
		text := strings.Join(append(append(got, "|"), rest...), " ")
		if err != nil {
			text = "! " + err.Error()
			if message, isError := strings.CutPrefix(want, "! "); isError && strings.Contains(err.Error(), message) {
				continue
			}
		}
		if text != want {
			t.Errorf("%s\n  is  %s\n  not %s", strings.TrimSpace(in), text, want)
		}
	}
}

func TestSplitKeepsWhatWasTyped(t *testing.T) {
	typed, _, err := split(containerFlags(true), []string{"-m64m", "--cpus=0.5", "-it", "--name", "web", "img"}, false)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, f := range typed {
		got = append(got, f.text)
	}
	if want := "-m 64m|--cpus=0.5|-i|-t|--name web"; strings.Join(got, "|") != want {
		t.Errorf("typed is %q, want %s", got, want)
	}
}

func TestNearest(t *testing.T) {
	for _, c := range []struct{ typed, want string }{
		{"memroy", "memory"}, {"cpu", "cpus"}, {"publsh", "publish"}, {"xyzzy", ""}, {"rn", "rm"}, {"q", ""},
	} {
		if got := nearest(c.typed, []string{"memory", "cpus", "publish", "rm", "read-only"}); got != c.want {
			t.Errorf("nearest(%q) is %q, want %q", c.typed, got, c.want)
		}
	}
}

// FuzzSplit looks for arguments that are lost, and for canonical forms that
// mean something else.
func FuzzSplit(f *testing.F) {
	f.Add("-it\x00--name\x00x\x00img\x00-c")
	f.Add("-m64m\x00--\x00a")
	f.Fuzz(func(t *testing.T, joined string) {
		flags := append(containerFlags(true), &cli.BoolFlag{Name: "help"})
		typed, rest, err := split(flags, strings.Split(joined, "\x00"), false)
		if err != nil {
			return
		}
		again, rest2, err := split(flags, canonical(typed, rest), false)
		if err != nil || len(again) != len(typed) || strings.Join(rest, "\x00") != strings.Join(rest2, "\x00") {
			t.Fatalf("%q is read as %v %q, its canonical form as %v %q (%v)", joined, typed, rest, again, rest2, err)
		}
		for i := range typed {
			if typed[i].name != again[i].name || typed[i].value != again[i].value {
				t.Fatalf("%q: flag %d is %v, in canonical form %v", joined, i, typed[i], again[i])
			}
		}
	})
}
