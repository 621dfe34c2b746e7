package build_test

import (
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// TestTriggersOfImages: what an image's ONBUILDs ask for is done once, in the
// stage that is FROM it, with the stages and contexts of that Dockerfile.
func TestTriggersOfImages(t *testing.T) {
	b := newBuilder(t)
	named := func(name string) func(*build.Options) {
		return func(o *build.Options) { o.Names = []string{name} }
	}
	b.must("FROM toolbox\nONBUILD COPY --from=other /in /log\nONBUILD RUN <<A\necho by \\\n trigger >> /log\nA\nONBUILD ENV SET=1\n", nil, named("parent:1"))
	const other = "FROM toolbox AS other\nRUN echo in > /in\n"
	child, _ := b.must(other+"FROM parent:1 AS a\nRUN echo own $SET >> /log\nFROM a\nRUN echo next >> /log\n", nil, named("child:1"))
	if got := b.read(child, "/log"); got != "in\nby trigger\nown 1\nnext\n" {
		t.Errorf("got %q", got)
	}
	if left := b.config(child).Config.OnBuild; len(left) > 0 {
		t.Errorf("triggers are left: %q", left)
	}
	grandchild, _ := b.must("FROM child:1\nRUN cp /log /got\n", nil)
	if got := b.read(grandchild, "/got"); strings.Count(got, "by trigger") != 1 {
		t.Errorf("got %q", got)
	}
	// A stage that the trigger wants and this Dockerfile has not is an image.
	if _, _, err := b.build("FROM parent:1\n", nil); err == nil || !strings.Contains(err.Error(), `ONBUILD COPY --from=other /in /log: image "other" not found`) {
		t.Errorf("%v", err)
	}
	if _, _, err := b.build("FROM parent:1 AS a\n"+other+"FROM a\n", nil); err == nil || !strings.Contains(err.Error(), "stage other comes later") {
		t.Errorf("%v", err)
	}
}
