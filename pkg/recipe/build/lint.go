package build

import (
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
)

// rules are those of BuildKit's that its parser does not apply itself, and that
// need no knowledge of images. The comment "# check=skip=RULE" turns one off.
func (c *checker) rules(lint *linter.Linter) {
	seen := map[string]bool{}
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
		c.stageRules(st, lint)
	}
}

func (c *checker) stageRules(st *instructions.Stage, lint *linter.Linter) {
	shell, absolute := false, false
	last := map[string]instructions.Command{}
	for _, cmd := range st.Commands {
		lint := lint.WithMergedConfigFromComments(cmd.Comments())
		name := strings.ToUpper(cmd.Name())
		switch cmd := cmd.(type) {
		case *instructions.ShellCommand:
			shell = true
		case *instructions.CmdCommand:
			onlyOnce(last, name, cmd, lint)
			jsonArgs(cmd.ShellDependantCmdLine, shell, cmd, lint)
		case *instructions.EntrypointCommand:
			onlyOnce(last, name, cmd, lint)
			jsonArgs(cmd.ShellDependantCmdLine, shell, cmd, lint)
		case *instructions.HealthCheckCommand:
			onlyOnce(last, name, cmd, lint)
		case *instructions.EnvCommand:
			legacy(cmd.Env, cmd, lint)
		case *instructions.LabelCommand:
			legacy(cmd.Labels, cmd, lint)
		case *instructions.WorkdirCommand:
			if !absolute && !path.IsAbs(cmd.Path) && !strings.HasPrefix(cmd.Path, "$") {
				lint.Run(&linter.RuleWorkdirRelativePath, cmd.Location(), linter.RuleWorkdirRelativePath.Format(cmd.Path))
			}
			absolute = true
		}
	}
}

// onlyOnce: of several such instructions, all but the last are of no use.
func onlyOnce(last map[string]instructions.Command, name string, cmd instructions.Command, lint *linter.Linter) {
	if before := last[name]; before != nil {
		lint.Run(&linter.RuleMultipleInstructionsDisallowed, before.Location(), linter.RuleMultipleInstructionsDisallowed.Format(name))
	}
	last[name] = cmd
}

// jsonArgs: a shell between the container's first process and its program keeps
// signals from it.
func jsonArgs(line instructions.ShellDependantCmdLine, shell bool, cmd instructions.Command, lint *linter.Linter) {
	if line.PrependShell && !shell {
		name := strings.ToUpper(cmd.Name())
		lint.Run(&linter.RuleJSONArgsRecommended, cmd.Location(), linter.RuleJSONArgsRecommended.Format(name))
	}
}

func legacy(pairs instructions.KeyValuePairs, cmd instructions.Command, lint *linter.Linter) {
	for _, kv := range pairs {
		if kv.NoDelim {
			lint.Run(&linter.RuleLegacyKeyValueFormat, cmd.Location(), linter.RuleLegacyKeyValueFormat.Format(strings.ToUpper(cmd.Name())))
			return
		}
	}
}
