package build

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// Bounds of a Dockerfile. No image can have as many layers as it may have
// instructions.
const (
	maxDockerfile   = 1 << 20 // bytes
	maxInstructions = 2000
)

// file is a Dockerfile as parsed.
type file struct {
	escape rune
	args   []*instructions.ArgCommand // before the first FROM
	stages []*instructions.Stage
}

// Check lists what of a Dockerfile cannot be built, in the order of lines, with
// BuildKit's own warnings. It is recipe.Lint's CheckDockerfile.
func Check(dockerfile []byte) ([]recipe.Problem, error) {
	_, problems := parse(dockerfile)
	return problems, nil
}

// parse reads a Dockerfile. Without problems that are more than warnings, the
// file is complete.
func parse(dockerfile []byte) (*file, []recipe.Problem) {
	c := &checker{file: &file{}}
	c.parse(dockerfile)
	slices.SortStableFunc(c.problems, func(a, b recipe.Problem) int { return a.Line - b.Line })
	return c.file, c.problems
}

func (c *checker) parse(dockerfile []byte) {
	if len(dockerfile) > maxDockerfile {
		c.add(1, "", "the Dockerfile is larger than %d bytes", maxDockerfile)
		return
	}
	if bytes.ContainsRune(dockerfile, 0) {
		c.add(1+bytes.Count(dockerfile[:bytes.IndexByte(dockerfile, 0)], []byte("\n")), "it must be text in UTF-8", "the Dockerfile holds a zero byte")
		return
	}
	c.syntax(dockerfile)
	result, err := parser.Parse(bytes.NewReader(dockerfile))
	if err != nil {
		c.add(lineOf(err, 1), "", "%v", err)
		return
	}
	lint, err := c.linter(dockerfile)
	if err != nil {
		c.add(1, "as in # check=skip=all", "%v", err)
		return
	}
	c.file.escape = result.EscapeToken
	for _, w := range result.Warnings {
		switch rule := &linter.RuleNoEmptyContinuation; {
		case w.Location == nil:
		case w.URL == rule.URL:
			lint.Run(rule, []parser.Range{*w.Location}, rule.Format())
		default:
			c.warn(w.Location.Start.Line, w.Short)
		}
	}
	if n := result.AST.Children; len(n) > maxInstructions {
		c.add(n[maxInstructions].StartLine, "", "the Dockerfile has more than %d instructions", maxInstructions)
		return
	}
	for _, node := range result.AST.Children {
		v, err := instructions.ParseInstructionWithLinter(node, lint)
		if err != nil {
			c.instruction(node, err)
			continue
		}
		c.take(v, node.StartLine)
	}
	if len(c.file.stages) == 0 && !c.failed() {
		c.add(1, "FROM scratch begins with nothing", "the Dockerfile has no FROM")
	}
	if !c.lost {
		c.stages()
		c.rules(lint)
	}
	c.strict(dockerfile, lint)
}

// take adds an instruction to the file.
func (c *checker) take(v any, line int) {
	switch v := v.(type) {
	case *instructions.Stage:
		c.file.stages = append(c.file.stages, v)
		return
	case *instructions.ArgCommand:
		if len(c.file.stages) == 0 {
			c.file.args = append(c.file.args, v)
			return
		}
	}
	cmd, ok := v.(instructions.Command)
	switch {
	case !ok:
		c.add(line, "", "%T is no instruction", v)
	case len(c.file.stages) == 0:
		c.add(line, "only ARG may come before", "%s before the first FROM", upper(cmd.Name()))
	default:
		last := c.file.stages[len(c.file.stages)-1]
		last.Commands = append(last.Commands, cmd)
	}
}

// linter runs BuildKit's rules, as the comment "# check=" has them.
func (c *checker) linter(dockerfile []byte) (*linter.Linter, error) {
	options, _, _, _ := parser.ParseDirective("check", dockerfile)
	config, err := linter.ParseLintOptions(options)
	if err != nil {
		return nil, fmt.Errorf("comment check=%s: %w", options, err)
	}
	config.Warn = func(rule, description, _, message string, location []parser.Range) {
		c.warn(lineIn(location), fmt.Sprintf("%s: %s", rule, message))
	}
	return linter.New(config), nil
}

// strict refuses what it has warned of, if the comment "# check=error=true" asks
// for that.
func (c *checker) strict(dockerfile []byte, lint *linter.Linter) {
	if rules := slices.Compact(slices.Sorted(slices.Values(*lint.CalledRules))); lint.ReturnAsError && len(rules) > 0 {
		_, _, location, _ := parser.ParseDirective("check", dockerfile)
		c.add(max(lineIn(location), 1), "mend them, or name the rules in skip=", "comment check=error=true: warnings of %s", strings.Join(rules, ", "))
	}
}

// lineOf is the line that an error of the parser's is about.
func lineOf(err error, otherwise int) int {
	if at, ok := errors.AsType[*parser.LocationError](err); ok {
		for _, l := range at.Locations {
			if n := lineIn(l); n > 0 {
				return n
			}
		}
	}
	return otherwise
}

func lineIn(location []parser.Range) int {
	if len(location) == 0 {
		return 0
	}
	return location[0].Start.Line
}
