package build

import (
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/util/suggest"
)

// bases lints FROMs. Values are put in once for all of them, within the bounds of
// one build.
type bases struct {
	expand *expander
	global environ  // as when nobody gives ARGs
	names  []string // of the variables that FROMs can have
}

func (c *checker) bases() *bases {
	b := &bases{expand: newExpander(c.file.escape), global: c.file.globals(nil, "")}
	for _, cmd := range c.file.args {
		for _, arg := range cmd.Args {
			b.names = append(b.names, arg.Key)
		}
	}
	for _, entry := range b.global {
		key, _, _ := strings.Cut(entry, "=")
		b.names = append(b.names, key)
	}
	return b
}

// from looks at what a FROM names, its variables, and its platform. Errors of
// expansion are problems already.
func (b *bases) from(st *instructions.Stage, lint *linter.Linter) {
	base, err := b.expand.matches(st.BaseName, b.global)
	if err != nil {
		return
	}
	if _, err := reference.ParseNormalizedNamed(base.Result); err != nil {
		lint.Run(&linter.RuleInvalidDefaultArgInFrom, st.Location, linter.RuleInvalidDefaultArgInFrom.Format(st.BaseName))
	}
	b.undeclared(base.Unmatched, st, lint)
	if st.Platform == "" {
		return
	}
	platform, err := b.expand.matches(st.Platform, b.global)
	if err != nil {
		return
	}
	b.undeclared(platform.Unmatched, st, lint)
	if len(platform.Matched)+len(platform.Unmatched) == 0 {
		p, err := platforms.Parse(platform.Result)
		if err == nil && !strings.Contains(st.Name, p.OS) && !strings.Contains(st.Name, p.Architecture) {
			lint.Run(&linter.RuleFromPlatformFlagConstDisallowed, st.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(platform.Result))
		}
		return
	}
	const target = "TARGETPLATFORM"
	_, ok := platform.Matched[target]
	if value, _ := b.global.get(target); ok && len(platform.Matched) == 1 && len(platform.Unmatched) == 0 && platform.Result == value {
		lint.Run(&linter.RuleRedundantTargetPlatform, st.Location, linter.RuleRedundantTargetPlatform.Format(st.Platform))
	}
}

// undeclared reports variables of a FROM that no ARG before the first FROM
// declares: they are always empty.
func (b *bases) undeclared(names map[string]struct{}, st *instructions.Stage, lint *linter.Linter) {
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if !slices.Contains(b.names, name) {
			meant, _ := suggest.Search(name, b.names, true)
			lint.Run(&linter.RuleUndefinedArgInFrom, st.Location, linter.RuleUndefinedArgInFrom.Format(name, meant))
		}
	}
}
