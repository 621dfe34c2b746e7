package build_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestEpochArgument: SOURCE_DATE_EPOCH is the time of a build that has no other,
// whether it was given or the Dockerfile has it.
func TestEpochArgument(t *testing.T) {
	b := newBuilder(t)
	const plain = "FROM toolbox\nWORKDIR /made\nRUN touch f && stat -c %Y . > /at\n"
	args := func(value string) func(*build.Options) {
		return func(o *build.Options) {
			o.Epoch, o.NoCache = time.Time{}, true
			o.Args = map[string]string{"SOURCE_DATE_EPOCH": value}
		}
	}
	without := func(o *build.Options) { o.Epoch, o.NoCache = time.Time{}, true }
	given, _ := b.must(plain, nil, args("1500000001"))
	if created := given.Config.Created; created == nil || created.Unix() != 1500000001 {
		t.Errorf("created %v", created)
	}
	if again, _ := b.must(plain, nil, args("1500000001")); again.Descriptor.Digest != given.Descriptor.Digest {
		t.Errorf("again: %s, not %s", again.Descriptor.Digest, given.Descriptor.Digest)
	}
	const own = "ARG SOURCE_DATE_EPOCH=1500000001\n" + plain
	if img, _ := b.must(own, nil, without); img.Descriptor.Digest != given.Descriptor.Digest {
		t.Error("the Dockerfile's own makes another image")
	}
	if img, _ := b.must(own, nil, args("1500000002")); img.Config.Created.Unix() != 1500000002 {
		t.Errorf("created %v", img.Config.Created)
	}
	if img, _ := b.must(own, nil, args("")); time.Since(*img.Config.Created) > time.Hour { // it takes the other back
		t.Errorf("created %v", img.Config.Created)
	}
	if _, _, err := b.build(plain, nil, args("context")); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH=context") {
		t.Errorf("%v", err)
	}
}

// TestArguments are those that no ARG declares.
func TestArguments(t *testing.T) {
	b := newBuilder(t)
	with := func(key, value string) func(*build.Options) {
		return func(o *build.Options) { o.Args = map[string]string{key: value} }
	}
	img, _ := b.must("FROM toolbox\nRUN hostname > /got; grep -c named /etc/hosts >> /got\n", nil, with("BUILDKIT_SANDBOX_HOSTNAME", "named"))
	if got := b.read(img, "/got"); got != "named\n1\n" {
		t.Errorf("got %q", got)
	}
	b.must("FROM toolbox\n", nil, with("BUILDKIT_SYNTAX", "docker/dockerfile:1.7"))
	b.must("FROM toolbox\n", nil, with("BUILDKIT_INLINE_CACHE", "1"))
	for key, value := range map[string]string{"BUILDKIT_SYNTAX": "example.com/other", "BUILDKIT_DOCKERFILE_CHECK": "error=true"} {
		if _, _, err := b.build("FROM toolbox\n", nil, with(key, value)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
