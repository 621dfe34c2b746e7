package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	cli "github.com/urfave/cli/v2"
)

// completeTimeout bounds what a press of Tab may take.
const completeTimeout = time.Second

func (p *program) completionCommand() *cli.Command {
	return &cli.Command{
		Name: "completion", Category: groupOneself,
		Usage:     "print a script that completes sandbox's commands in your shell",
		ArgsUsage: "bash|zsh|fish",
		Description: `
EXAMPLES
  source <(sandbox completion bash)
  sandbox completion zsh > "${fpath[1]}/_sandbox"
  sandbox completion fish > ~/.config/fish/completions/sandbox.fish`,
		Action: p.action(1, 1, func(_ context.Context, c *cli.Context) error {
			script, ok := map[string]string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Args().First()]
			if !ok {
				return usagef("unknown shell %q: bash, zsh or fish; for example: sandbox completion bash", c.Args().First())
			}
			_, err := io.WriteString(p.Term.Stdout(), script)
			return err
		}),
	}
}

// The scripts leave the choice of candidates to the program itself, so that
// they need not change with it. They hand over the words up to the cursor, the
// last one perhaps empty.
const bashCompletion = `# bash completion for sandbox
_sandbox() {
	local cur="${COMP_WORDS[COMP_CWORD]}" IFS=$'\n'
	local candidates
	candidates=$(sandbox __complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null) || return
	COMPREPLY=()
	if [ "$candidates" = ":files" ]; then
		compopt -o default 2>/dev/null
		return
	fi
	local line
	for line in $candidates; do
		line=${line%%$'\t'*}
		case $line in "$cur"*) COMPREPLY+=("$line") ;; esac
	done
}
complete -F _sandbox sandbox
`

const zshCompletion = `#compdef sandbox
_sandbox() {
	local -a lines described
	local line
	lines=("${(@f)$(sandbox __complete -- "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
	if [[ "$lines" = ":files" ]]; then
		_files
		return
	fi
	for line in $lines; do
		described+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
	done
	_describe sandbox described
}
if [ "$funcstack[1]" = _sandbox ]; then
	_sandbox "$@"
else
	compdef _sandbox sandbox
fi
`

const fishCompletion = `# fish completion for sandbox
function __sandbox_complete
	set -l words (commandline -opc) (commandline -ct)
	set -l candidates (sandbox __complete -- $words[2..-1] 2>/dev/null)
	if test "$candidates" = ":files"
		__fish_complete_path (commandline -ct)
	else
		printf '%s\n' $candidates
	end
end
complete -c sandbox -f -a '(__sandbox_complete)'
`

// completeCommand prints the candidates for the last of its arguments, one a
// line, each with a tab and a description; ":files" leaves it to the shell.
func (p *program) completeCommand() *cli.Command {
	return &cli.Command{
		Name: "__complete", Hidden: true,
		Usage: "print the candidates for the last word",
		Action: func(c *cli.Context) error {
			ctx, cancel := context.WithTimeout(c.Context, completeTimeout)
			defer cancel()
			for _, candidate := range p.complete(ctx, c.Args().Slice()) {
				fmt.Fprintln(p.Term.Stdout(), candidate)
			}
			return nil
		},
	}
}

func (p *program) complete(ctx context.Context, words []string) []string {
	if len(words) == 0 {
		words = []string{""}
	}
	last := words[len(words)-1]
	commands := p.commands()
	var command *cli.Command
	words = words[:len(words)-1]
	flags := p.globalFlags()
	args := 0 // arguments before the last word
	name := ""
	for i := 0; i < len(words); i++ {
		w := words[i]
		switch {
		case w == "--":
		case strings.HasPrefix(w, "-") && strings.Trim(w, "-") != "":
			if takesNext(flags, w) {
				i++
			}
			if i == len(words) {
				return p.valueCandidates(ctx, name, strings.TrimLeft(w, "-"), last)
			}
		case len(commands) > 0:
			if command = findCommand(commands, w); command == nil {
				return nil
			}
			commands, flags = command.Subcommands, command.Flags
			name = strings.TrimSpace(name + " " + command.Name)
		default:
			args++
		}
	}
	switch {
	case strings.HasPrefix(last, "-"):
		return append(flagCandidates(flags), "--help\tshow the help")
	case len(commands) > 0:
		var out []string
		for _, c := range commands {
			if !c.Hidden {
				out = append(out, c.Name+"\t"+c.Usage)
			}
		}
		return out
	case command == nil:
		return nil
	}
	if isFolder(last) && (name == "build" || name == "image build") {
		return []string{":files"}
	}
	return p.argumentCandidates(ctx, name, args)
}

// takesNext says whether the value of a flag, the last one of a cluster, is the
// next word.
func takesNext(flags []cli.Flag, word string) bool {
	name, isLong := strings.CutPrefix(word, "--")
	if !isLong {
		name = word[len(word)-1:]
	}
	f := findFlag(flags, name)
	return f != nil && !isSwitch(f)
}

// valueCandidates complete the value of a flag: stages where the daemon can tell
// them, otherwise files. Of a list the last name is completed.
func (p *program) valueCandidates(ctx context.Context, command, flag, last string) []string {
	if command != "up" || flag != "only" && flag != "without" {
		return []string{":files"}
	}
	status, err := p.client().Status(ctx)
	if err != nil {
		return nil
	}
	named := last[:strings.LastIndexByte(last, ',')+1]
	var out []string
	for _, s := range status.Stages {
		if !slices.Contains(strings.Split(named, ","), s.Name) {
			out = append(out, named+s.Name+"\t"+s.Status)
		}
	}
	return out
}

func flagCandidates(flags []cli.Flag) []string {
	var out []string
	for _, f := range visible(flags) {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		_, usage, hasPlaceholder := strings.Cut(doc.GetUsage(), "\x00")
		if !hasPlaceholder {
			usage = strings.ReplaceAll(doc.GetUsage(), "`", "")
		}
		out = append(out, "--"+f.Names()[0]+"\t"+usage)
	}
	return out
}

// argumentCandidates completes images and containers, those that the command
// can do something with.
func (p *program) argumentCandidates(ctx context.Context, command string, args int) []string {
	in := func(states ...string) func(api.Container) bool {
		return func(c api.Container) bool {
			for _, s := range states {
				if c.Status == s {
					return true
				}
			}
			return len(states) == 0
		}
	}
	switch command {
	case "run", "create":
		if args > 0 {
			return []string{":files"}
		}
		return p.imageCandidates(ctx)
	case "rmi", "image rm", "image layers", "image inspect", "image sbom", "image export", "image tag":
		return p.imageCandidates(ctx)
	case "pull", "image pull":
		return p.recipeCandidates(ctx)
	case "build", "image build":
		return append(p.recipeCandidates(ctx), "./\tthis folder")
	case "image lint", "image import":
		return []string{":files"}
	case "exec":
		if args > 0 {
			return []string{":files"}
		}
		return p.containerCandidates(ctx, in(api.StatusRunning))
	case "attach", "kill", "pause", "stop", "stats":
		return p.containerCandidates(ctx, in(api.StatusRunning))
	case "unpause":
		return p.containerCandidates(ctx, in(api.StatusPaused))
	case "start":
		return p.containerCandidates(ctx, in(api.StatusCreated, api.StatusExited))
	case "logs", "inspect", "rm", "wait":
		return p.containerCandidates(ctx, in())
	case "completion":
		return []string{"bash", "zsh", "fish"}
	}
	return nil
}

func (p *program) imageCandidates(ctx context.Context) []string {
	images, _ := p.client().Images(ctx) // no daemon, no candidates
	var out []string
	for _, i := range images {
		if i.Name != "" {
			out = append(out, i.Name+"\timage")
		}
	}
	return out
}

func (p *program) recipeCandidates(ctx context.Context) []string {
	folder, _ := absolute(os.Getenv("SANDBOX_RECIPES"))
	recipes, _ := p.client().Recipes(ctx, folder) // no daemon, no candidates
	var out []string
	for _, r := range recipes {
		out = append(out, r.Name+"\t"+r.Description)
	}
	return out
}

func (p *program) containerCandidates(ctx context.Context, keep func(api.Container) bool) []string {
	all, _ := p.client().ListContainers(ctx) // no daemon, no candidates
	var out []string
	for _, c := range all {
		if keep(c) {
			out = append(out, c.Name+"\t"+c.Image+" "+c.Status)
		}
	}
	return out
}
