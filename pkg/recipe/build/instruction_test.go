package build_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// prelude makes a stage with busybox' commands in it, to try things in.
const prelude = "FROM toolbox\n"

// TestInstructions tries what the Docker that TestDocker builds with is too old
// for. The Dockerfile leaves its findings in the file /got.
func TestInstructions(t *testing.T) {
	b := newBuilder(t)
	for _, tt := range []struct {
		name, dockerfile, want string
		files                  map[string]string
		change                 func(*build.Options)
	}{
		{name: "heredoc", dockerfile: prelude + "RUN <<EOF\necho one > /got\necho $0 >> /got\nEOF\n", want: "one\n/bin/sh\n"},
		{name: "heredoc to a program", dockerfile: prelude + "RUN cat > /got <<'A' && cat >> /got <<-B\n$x\nA\n\tindented\n\tB\n", want: "$x\nindented\n"},
		{name: "heredoc with an interpreter", dockerfile: prelude + "RUN <<A\n#!/bin/busybox sh\necho $0 > /got\nA\nRUN ! test -e /dev/pipes\n", want: "/dev/pipes/A\n"},
		{name: "copied heredocs", dockerfile: prelude + "ENV v=val\nCOPY <<A <<\"B\" /d/\n$v ${v}\nA\n$v\nB\nCOPY --chmod=600 --chown=3:4 <<C /single\nsingle\nC\nRUN cat /d/A /d/B /single > /got; stat -c '%a %u:%g' /single >> /got\n",
			want: "val val\n$v\nsingle\n600 3:4\n"},
		{name: "link", dockerfile: prelude + "RUN mkdir -m 700 /l && ln -s /l /to && echo old > /l/f\nCOPY --link f /l/\nCOPY --link --chown=5 f /to/g\nRUN stat -c '%n %F %a' /to /l > /got; cat /l/f /to/g >> /got; stat -c %u /to/g >> /got\n",
			files: map[string]string{"f": "new\n"}, want: "/to directory 755\n/l directory 755\nnew\nnew\n5\n"},
		{name: "link twice", dockerfile: prelude + "COPY --link f /f\nRUN rm /f\nCOPY --link f /f\nRUN cat /f > /got\n", files: map[string]string{"f": "x"}, want: "x"},
		{name: "parents", dockerfile: prelude + "COPY --parents a/b/c a/./d/e* /p/\nRUN cd /p && find . -type f | sort > /got\n",
			files: map[string]string{"a/b/c": "", "a/d/e1": "", "a/d/e2": "", "a/d/x": ""}, want: "./a/b/c\n./d/e1\n./d/e2\n"},
		{name: "exclude", dockerfile: prelude + "COPY --exclude=*.log --exclude=d/x . /p/\nRUN cd /p && find . -type f | sort > /got\n",
			files: map[string]string{"a": "", "b.log": "", "d/x": "", "d/y": ""}, want: "./a\n./d/y\n"},
		{name: "secret", dockerfile: prelude + `RUN --mount=type=secret,id=s cat /run/secrets/s > /tmp/x && tr a-z A-Z < /tmp/x > /got && rm /tmp/x && stat -c '%a %u' /run/secrets/s >> /got
RUN --mount=type=secret,id=s,target=/a/b,uid=7,mode=0440 stat -c '%a %u' /a/b >> /got
RUN --mount=type=secret,id=s,env=S echo ${#S} >> /got
RUN --mount=type=secret,id=other test ! -e /run/secrets/other
RUN test ! -e /run/secrets && test ! -e /a
`, want: "HUSH400 0\n440 7\n4\n", change: func(o *build.Options) {
			o.Secrets = map[string]string{"s": filepath.Join(o.ContextDir, "hush")}
		}, files: map[string]string{"hush": "hush"}},
		{name: "network", dockerfile: prelude + "RUN ls /sys/class/net > /got\nRUN --network=none ls /sys/class/net >> /got\n", want: "eth0\nlo\nlo\n"},
		{name: "environment", dockerfile: prelude + "RUN env | sort > /got\n",
			want: "HOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nPWD=/\nSHLVL=1\nSOURCE_DATE_EPOCH=1577934245\n"},
		{name: "named context", dockerfile: prelude + "COPY --from=more f /f\nRUN --mount=from=more,target=/m cat /f /m/d/g > /got\n", want: "fg",
			change: func(o *build.Options) {
				o.Contexts = map[string]string{"more": filepath.Join(o.ContextDir, "sub")}
			}, files: map[string]string{"sub/f": "f", "sub/d/g": "g"}},
		{name: "context of an image", dockerfile: "FROM base\nRUN --mount=from=base,target=/m test -x /m/bin/busybox && echo yes > /got\n", want: "yes\n",
			change: func(o *build.Options) { o.Contexts = map[string]string{"base": "image:toolbox"} }},
		{name: "context as a base", dockerfile: "FROM tree AS t\nFROM toolbox\nCOPY --from=t /f /got\n", want: "from the tree",
			change: func(o *build.Options) {
				o.Contexts = map[string]string{"tree": filepath.Join(o.ContextDir, "sub")}
			}, files: map[string]string{"sub/f": "from the tree"}},
		{name: "context instead of a stage", dockerfile: "FROM scratch AS t\nCOPY missing /\nFROM toolbox\nCOPY --from=t /f /got\n", want: "instead",
			change: func(o *build.Options) {
				o.Contexts = map[string]string{"t": filepath.Join(o.ContextDir, "sub")}
			}, files: map[string]string{"sub/f": "instead"}},
		{name: "context instead of a stage of a stage", dockerfile: "FROM toolbox AS a\nFROM a AS t\nRUN exit 1\nFROM a AS unused\nFROM toolbox\nCOPY --from=t /f /got\n", want: "instead",
			change: func(o *build.Options) {
				o.Contexts = map[string]string{"t": filepath.Join(o.ContextDir, "sub"), "unused": "image:no-such-image"}
			}, files: map[string]string{"sub/f": "instead"}},
		{name: "rootfs", dockerfile: prelude + "COPY --from=tree / /r/\nRUN stat -c %u /r/f > /got\nRUN --mount=from=tree,target=/m,rw stat -c %u /m/f >> /got; echo over > /m/f\n", want: "77\n77\n",
			change: func(o *build.Options) {
				dir := filepath.Join(o.ContextDir, "sub")
				_ = os.Chown(filepath.Join(dir, "f"), 77, 77)
				o.Contexts = map[string]string{"tree": "rootfs:" + dir}
			}, files: map[string]string{"sub/f": ""}},
		{name: "target", dockerfile: "FROM toolbox AS a\nRUN echo a > /got\nFROM toolbox\nRUN exit 1\n", want: "a\n",
			change: func(o *build.Options) { o.Target = "a" }},
		{name: "name of the target", dockerfile: "FROM toolbox AS a\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /got\nFROM a AS last\n", want: "last\n"},
		{name: "name of a target without one", dockerfile: "FROM toolbox\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /got\n", want: "default\n"},
		{name: "name of the target that was asked for", dockerfile: "FROM toolbox AS a\nARG TARGETSTAGE\nRUN echo $TARGETSTAGE > /got\nFROM a AS last\n", want: "a\n",
			change: func(o *build.Options) { o.Target = "a" }},
		{name: "mounts hide nothing", dockerfile: prelude + "RUN mkdir /keep && echo k > /keep/k\nRUN --mount=type=tmpfs,target=/keep touch /keep/x; ls /keep > /got\nRUN cat /keep/k >> /got\n", want: "x\nk\n"},
		{name: "private caches", dockerfile: prelude + "RUN --mount=type=cache,id=p,target=/c,sharing=private echo 1 > /c/f\nRUN --mount=type=cache,id=p,target=/c,sharing=locked cat /c/f > /got\n", want: "1\n"},
		{name: "lines of Windows", dockerfile: "FROM toolbox\r\nRUN echo a \\\r\n  b > /got\r\nENV x=y\r\nRUN echo $x >> /got\r\n", want: "a b\ny\n"},
		{name: "caches that begin otherwise", dockerfile: "FROM toolbox AS a\nRUN mkdir -p /d/e && touch /d/one /d/e/two && chmod 700 /d && chown 3:4 /d\nFROM toolbox\n" +
			"RUN --mount=type=cache,id=b,target=/c touch /c/plain\n" +
			"RUN --mount=type=cache,id=b,target=/c,uid=5,gid=6,mode=0751 stat -c '%a %u:%g' /c > /got; ls /c >> /got; touch /c/owned\n" +
			"RUN --mount=type=cache,id=b,target=/c,from=a,source=/d ls /c >> /got; stat -c '%a %u:%g' /c >> /got\n" +
			"RUN --mount=type=cache,id=b,target=/c,from=a,source=/d/e ls /c >> /got\n" +
			"RUN --mount=type=cache,id=b,target=/c ls /c >> /got\n" +
			"RUN --mount=type=cache,id=b,target=/c,mode=0751,gid=6,uid=5 ls /c >> /got\n",
			want: "751 5:6\ne\none\n700 3:4\ntwo\nplain\nowned\n"},
		{name: "heredocs of ONBUILD", dockerfile: "# escape=`\nFROM toolbox AS src\nRUN echo src > /in\nFROM toolbox AS base\nONBUILD COPY --from=src /in /foo\nONBUILD RUN <<A\necho \\\n one > /got\nA\n" +
			"ONBUILD COPY <<B <<\"C\" /d/\n${x:-un}\nB\n${x:-un}\nC\nONBUILD RUN --mount=from=src,target=/m cat /m/in /foo /d/B /d/C >> /got\nFROM base AS mid\nFROM mid\nRUN echo two >> /got\n",
			want: "one\nsrc\nsrc\nun\n${x:-un}\ntwo\n"},
		{name: "several heredocs of one command", dockerfile: prelude + "RUN cat <<A | tr a-z A-Z > /got; \\\n\tcat <<-B >> /got; cat /dev/fd/3 >> /got 3<<\"C\"\nup ${x:-un}\nA\n\t\tindented\n\tB\n\t${x:-un}\nC\n",
			want: "UP UN\nindented\n\t${x:-un}\n"},
		{name: "what heredocs escape", dockerfile: prelude + "COPY <<A <<\"B\" <<'C' <<-D <<E /d/\n\"q\" 'r' \\$x \\\\ ${x:+y}z\\\nA\n\\$x \\\\\nB\n\\\nC\n\t\tt\n\tD\nE\nRUN cd /d && cat A B C D E > /got\n",
			want: "\"q\" 'r' $x \\ z\n\\$x \\\\\n\\\nt\n"},
		{name: "groups", dockerfile: prelude + "RUN printf 'app:x:1500:1501::/h:/\\n' >> /etc/passwd; printf 'app:x:1501:\\nmore:x:60:other,app\\nwheel:x:10:root\\n' >> /etc/group; touch /got; chmod 666 /got\n" +
			"RUN id -G >> /got\nUSER app\nRUN id -G >> /got\nUSER 1500\nRUN id -G >> /got\nUSER app:app\nRUN id -G >> /got\nUSER 1500:more\nRUN id -G >> /got\nUSER 70:71\nRUN id -G >> /got\nUSER 70\nRUN id -G >> /got\n",
			want: "0 10\n1501 60\n1501 60\n1501\n60\n71\n0\n"},
		{name: "parts of values", dockerfile: prelude + "ARG name=file.tar.gz type=cache\nENV a=${name%.*} b=${name%%.*} c=${name#*.} d=${name##*.} e=${name/./-} f=${name//./-} g=${none-un} h=${name+set}\nRUN --mount=type=$type,target=/c echo $a $b $c $d $e $f $g $h > /got\n",
			want: "file.tar file tar.gz gz file-tar.gz file-tar-gz un set\n"},
		{name: "secret over a variable", dockerfile: prelude + "ENV S=env\nRUN --mount=type=secret,id=s,env=S,target=/s echo $S $(cat /s) $(env | grep -c ^S=) > /got\nRUN echo $S >> /got\n", want: "hush hush 1\nenv\n",
			change: func(o *build.Options) {
				o.Secrets = map[string]string{"s": filepath.Join(o.ContextDir, "hush")}
			}, files: map[string]string{"hush": "hush"}},
		{name: "parents of a stage", dockerfile: "FROM toolbox AS a\nRUN for d in a/b/c/d/e a/b2/c/d/e a/b/c2/d/e2; do mkdir -p /t/$d && touch /t/$d/f; done; ln -s e /t/a/b/c/d/l\nFROM toolbox\n" +
			"COPY --from=a --parents /t/a/b/./c/d /1/\nCOPY --from=a --parents t/a/b/c/d/. /2/\nCOPY --from=a --parents ./t/a/./b/./c /3/\nCOPY --from=a --parents /t/a/./*/c /4/\nCOPY --from=a --parents /t/a/b*/./c/**/e /t/a/b/c*/./d/**/f /5/\nCOPY --from=a --parents /t/a/b3*/c /t/a/./c2* /6/\n" +
			"RUN for n in 1 2 3 4 5 6; do find /$n ! -type d | sort; done > /got\n",
			want: "/1/c/d/e/f\n/1/c/d/l\n/2/t/a/b/c/d/e/f\n/2/t/a/b/c/d/l\n/3/b/c/d/e/f\n/3/b/c/d/l\n/4/b/c/d/e/f\n/4/b/c/d/l\n/4/b2/c/d/e/f\n/5/c/d/e/f\n/5/d/e/f\n/5/d/e2/f\n"},
		{name: "characters in pieces", dockerfile: prelude + "RUN printf '\\303' && sleep 0.2 && printf '\\251\\n' && touch /got\n", want: ""},
		{name: "script by the shell", dockerfile: prelude + "SHELL [\"/bin/sh\", \"-c\", \"X=by-shell; export X; exec $0\"]\nRUN <<A\n#!/bin/sh\necho $X > /got\nA\n", want: "by-shell\n"},
		{name: "stages by number", dockerfile: "FROM toolbox\nRUN echo 0 > /f\nFROM toolbox\nCOPY --from=0 /f /got\n", want: "0\n"},
		{name: "variables in mounts", dockerfile: prelude + "ARG where=/w\nRUN --mount=type=tmpfs,target=$where test -d /w && echo yes > /got\n", want: "yes\n"},
		{name: "working directory that is a link", dockerfile: prelude + "RUN mkdir /real && ln -s /real /link\nWORKDIR /link/sub\nRUN pwd -P > /got\n", want: "/real/sub\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b.t = t
			var change []func(*build.Options)
			if tt.change != nil {
				change = append(change, tt.change)
			}
			img, r := b.must(tt.dockerfile, tt.files, change...)
			if !utf8.ValidString(r.output()) || strings.Contains(r.output(), "\uFFFD") {
				t.Errorf("output %q", r.output())
			}
			if got := b.read(img, "/got"); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestEmptyImage: an image has a layer, whatever its Dockerfile.
func TestEmptyImage(t *testing.T) {
	b := newBuilder(t)
	for _, dockerfile := range []string{"FROM scratch\n", "FROM scratch\nLABEL a=b\nCMD [\"x\"]\n"} {
		img, _ := b.must(dockerfile, nil)
		again, _ := b.must(dockerfile, nil)
		if len(img.Manifest.Layers) != 1 || img.Descriptor.Digest != again.Descriptor.Digest {
			t.Errorf("%d layers, %s and %s", len(img.Manifest.Layers), img.Descriptor.Digest, again.Descriptor.Digest)
		}
	}
}

// TestOnlyWhatChanges: an instruction that changes no file makes no layer.
func TestOnlyWhatChanges(t *testing.T) {
	b := newBuilder(t)
	img, _ := b.must(prelude+"RUN true\nWORKDIR /\nWORKDIR /bin\nRUN cat /bin/sh > /dev/null\nRUN mkdir /new\nENV A=b\n", nil)
	base, err := b.Store.Resolve("toolbox")
	if err != nil {
		t.Fatal(err)
	}
	if got := len(img.Manifest.Layers) - len(base.Manifest.Layers); got != 1 {
		t.Errorf("%d layers", got)
	}
	var history []string
	for _, h := range img.Config.History[len(base.Config.History):] {
		if !h.EmptyLayer {
			history = append(history, h.CreatedBy)
		}
	}
	if got := strings.Join(history, "; "); got != "RUN /bin/sh -c mkdir /new" {
		t.Errorf("layers of %s", got)
	}
}

// TestCapabilities: those of files survive the way from a root file system into
// an image, and out again.
func TestCapabilities(t *testing.T) {
	b := newBuilder(t)
	dir := t.TempDir()
	writeTree(t, dir, map[string]string{"f": "x"})
	// cap_net_raw+ep, as setcap(8) writes it.
	capability := []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if err := unix.Setxattr(filepath.Join(dir, "f"), "security.capability", capability, 0); err != nil {
		t.Skip(err)
	}
	img, _ := b.must("FROM toolbox AS a\nCOPY --from=tree f /f\nFROM scratch\nCOPY --from=a /f /g\n", nil, func(o *build.Options) {
		o.Contexts = map[string]string{"tree": "rootfs:" + dir}
	})
	b.view(img, func(root string) {
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(root, "g"), "security.capability", buf)
		if err != nil || string(buf[:n]) != string(capability) {
			t.Errorf("%x, %v", buf[:max(n, 0)], err)
		}
	})
}
