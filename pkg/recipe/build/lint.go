package build

import (
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// rules are those of BuildKit's that its parser does not apply itself, and that
// need no knowledge of images. The comment "# check=skip=RULE" turns one off.
func (c *checker) rules(lint *linter.Linter) {
	seen := map[string]bool{}
	c.casing(lint)
	bases := c.bases()
	set := map[string]settings{}
	for _, st := range c.file.stages {
		lint := lint.WithMergedConfigFromComments(st.Comments)
		if name := st.Name; name != "" {
			if name == "context" || name == "scratch" {
				lint.Run(&linter.RuleReservedStageName, st.Location, linter.RuleReservedStageName.Format(name))
			}
			if seen[name] {
				lint.Run(&linter.RuleDuplicateStageName, st.Location, linter.RuleDuplicateStageName.Format(name))
			}
			seen[name] = true
		}
		bases.from(st, lint)
		has := set[st.BaseName]
		stageRules(st, &has, lint)
		if st.Name != "" {
			set[strings.ToLower(st.Name)] = has
		}
	}
}

// settings are what stages take over from their bases.
type settings struct{ shell, workdir bool }

func stageRules(st *instructions.Stage, has *settings, lint *linter.Linter) {
	last := map[string]instructions.Command{}
	for _, cmd := range st.Commands {
		lint := lint.WithMergedConfigFromComments(cmd.Comments())
		switch cmd := cmd.(type) {
		case *instructions.ShellCommand:
			has.shell = true
		case *instructions.CmdCommand:
			onlyOnce(last, cmd, lint)
			jsonArgs(cmd.ShellDependantCmdLine, has.shell, cmd, lint)
		case *instructions.EntrypointCommand:
			onlyOnce(last, cmd, lint)
			jsonArgs(cmd.ShellDependantCmdLine, has.shell, cmd, lint)
		case *instructions.HealthCheckCommand:
			onlyOnce(last, cmd, lint)
		case *instructions.EnvCommand:
			legacy(cmd.Env, cmd, lint)
			for _, kv := range cmd.Env {
				secretName(kv.Key, cmd, lint)
			}
		case *instructions.ArgCommand:
			for _, arg := range cmd.Args {
				secretName(arg.Key, cmd, lint)
			}
		case *instructions.LabelCommand:
			legacy(cmd.Labels, cmd, lint)
		case *instructions.ExposeCommand:
			ports(cmd, lint)
		case *instructions.WorkdirCommand:
			if !has.workdir && !path.IsAbs(cmd.Path) && !strings.HasPrefix(cmd.Path, "$") {
				lint.Run(&linter.RuleWorkdirRelativePath, cmd.Location(), linter.RuleWorkdirRelativePath.Format(cmd.Path))
			}
			has.workdir = true
		}
	}
}

// onlyOnce: of several such instructions, all but the last are of no use.
func onlyOnce(last map[string]instructions.Command, cmd instructions.Command, lint *linter.Linter) {
	name := upper(cmd.Name())
	if before := last[name]; before != nil {
		lint.Run(&linter.RuleMultipleInstructionsDisallowed, before.Location(), linter.RuleMultipleInstructionsDisallowed.Format(name))
	}
	last[name] = cmd
}

// jsonArgs: a shell between the container's first process and its program keeps
// signals from it.
func jsonArgs(line instructions.ShellDependantCmdLine, shell bool, cmd instructions.Command, lint *linter.Linter) {
	if line.PrependShell && !shell {
		lint.Run(&linter.RuleJSONArgsRecommended, cmd.Location(), linter.RuleJSONArgsRecommended.Format(upper(cmd.Name())))
	}
}

func legacy(pairs instructions.KeyValuePairs, cmd instructions.Command, lint *linter.Linter) {
	for _, kv := range pairs {
		if kv.NoDelim {
			lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(upper(cmd.Name())))
			return
		}
	}
}

// Names of variables that are secrets, by their words, and of such that are not.
var (
	secretWord = pattern.New(`(?i)(?:_|^)(?:apikey|auth|credentials?|key|password|pword|passwd|secret|token)(?:_|$)`)
	publicWord = pattern.New(`(?i)(?:_|^)(?:public|file|version)(?:_|$)`)
)

// secretName: everybody who has the image can read its ENVs, and the ARGs in its
// history.
func secretName(key string, cmd instructions.Command, lint *linter.Linter) {
	if secretWord.MatchString(key) && !publicWord.MatchString(key) {
		lint.Run(&linter.RuleSecretsUsedInArgOrEnv, cmd.Location(), linter.RuleSecretsUsedInArgOrEnv.Format(upper(cmd.Name()), key))
	}
}

func ports(cmd *instructions.ExposeCommand, lint *linter.Linter) {
	for _, p := range cmd.Ports {
		r, err := parsePort(p)
		if err != nil {
			continue // a problem, or it has variables
		}
		if _, protocol, _ := strings.Cut(p, "/"); protocol != "" && protocol != r.protocol {
			lint.Run(&linter.RuleExposeProtoCasing, cmd.Location(), linter.RuleExposeProtoCasing.Format(p))
		}
		if r.published {
			lint.Run(&linter.RuleExposeInvalidFormat, cmd.Location(), linter.RuleExposeInvalidFormat.Format(p))
		}
	}
}

// casing: instructions are written as most of them are.
func (c *checker) casing(lint *linter.Linter) {
	lower, upper := 0, 0
	all := func(do func(name string, location []parser.Range)) {
		for _, st := range c.file.stages {
			do(st.OrigCmd, st.Location)
			for _, cmd := range st.Commands {
				do(cmd.Name(), cmd.Location())
			}
		}
	}
	all(func(name string, _ []parser.Range) {
		switch name {
		case strings.ToLower(name):
			lower++
		case strings.ToUpper(name):
			upper++
		}
	})
	should, want := "uppercase", strings.ToUpper
	if lower > upper {
		should, want = "lowercase", strings.ToLower
	}
	all(func(name string, location []parser.Range) {
		if name != want(name) {
			lint.Run(&linter.RuleConsistentInstructionCasing, location, linter.RuleConsistentInstructionCasing.Format(name, should))
		}
	})
}
