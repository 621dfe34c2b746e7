package build_test

import (
	"slices"
	"strings"
	"testing"
	"time"
)

func TestBuild(t *testing.T) {
	b := newBuilder(t)
	dockerfile := `ARG BASE=toolbox
FROM $BASE AS tools
WORKDIR /src
COPY hello .
RUN cat hello > greeting && echo done

FROM scratch
ENV A=b
COPY --from=tools /src/greeting /etc/
COPY --from=tools /bin/busybox /bin/
RUN ["/bin/busybox", "cp", "/etc/greeting", "/copy"]
CMD ["/bin/busybox", "cat", "/copy"]
`
	files := map[string]string{"hello": "hi there\n"}
	img, r := b.must(dockerfile, files)
	if got := b.read(img, "/copy"); got != "hi there\n" {
		t.Errorf("/copy: %q", got)
	}
	if !strings.Contains(r.output(), "done\n") {
		t.Errorf("output %q", r.output())
	}
	if len(r.ran()) != 6 {
		t.Errorf("ran %q", r.ran())
	}
	if img.Name != "test:1" || !slices.Equal(img.Config.Config.Cmd, []string{"/bin/busybox", "cat", "/copy"}) {
		t.Errorf("%+v", img)
	}
	begun := time.Now()
	again, r := b.must(dockerfile, files)
	if again.Descriptor.Digest != img.Descriptor.Digest || len(r.ran()) > 0 {
		t.Errorf("again: %s instead of %s, ran %q", again.Descriptor.Digest, img.Descriptor.Digest, r.ran())
	}
	t.Logf("unchanged: %v", time.Since(begun))
}
