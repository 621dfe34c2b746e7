package build

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// defaultPath is PATH where neither an image nor the Dockerfile has one.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ is a list of KEY=VALUE in which each key occurs once.
type environ []string

func (e environ) get(key string) (string, bool) {
	for _, entry := range e {
		if k, v, _ := strings.Cut(entry, "="); k == key {
			return v, true
		}
	}
	return "", false
}

// with returns e with a value, in its old place if there is one.
func (e environ) with(key, value string) environ {
	e = slices.Clone(e)
	i := slices.IndexFunc(e, func(entry string) bool { k, _, _ := strings.Cut(entry, "="); return k == key })
	if i < 0 {
		return append(e, key+"="+value)
	}
	e[i] = key + "=" + value
	return e
}

// limits of what a Dockerfile can make of itself: variables that are put into
// each other double with every line.
const (
	maxExpanded  = 16 << 20 // bytes of values, in one build
	maxVariables = 2000     // of a stage
	maxHistory   = 2 << 20  // bytes
)

// expander puts values of variables into words.
type expander struct {
	escape rune
	left   int // bytes of values that may be put in yet
}

func newExpander(escape rune) *expander { return &expander{escape: escape, left: maxExpanded} }

// values are variables as the shell package asks for them.
type values struct {
	shell.EnvGetter
	left *int
}

func (v values) Get(key string) (string, bool) {
	value, ok := v.EnvGetter.Get(key)
	if *v.left -= len(value); *v.left < 0 {
		return "", ok
	}
	return value, ok
}

func (x *expander) values(env environ) values {
	return values{shell.EnvsFromSlice(env), &x.left}
}

// check turns what was cut short into an error.
func (x *expander) check(err error) error {
	if err == nil && x.left < 0 {
		err = fmt.Errorf("the values of variables are more than %d bytes in all: %w", maxExpanded, errdefs.ErrInvalidArgument)
	}
	if err != nil && len(err.Error()) > 2*maxShown { // it shows the word
		err = errors.New(firstLine(err.Error()))
	}
	return err
}

func (x *expander) word(word string, env environ) (string, error) {
	v, err := x.matches(word, env)
	return v.Result, err
}

// matches is word, with the names of the variables that were found, and of those
// that were not.
func (x *expander) matches(word string, env environ) (shell.ProcessWordResult, error) {
	v, err := shell.NewLex(x.escape).ProcessWordWithMatches(word, x.values(env))
	return v, x.check(err)
}

func (x *expander) words(word string, env environ) ([]string, error) {
	w, err := shell.NewLex(x.escape).ProcessWords(word, x.values(env))
	return w, x.check(err)
}

// heredoc expands what is no shell's word: quotes are text.
func (x *expander) heredoc(text string, env environ) (string, error) {
	lex := shell.NewLex('\\')
	lex.SkipProcessQuotes = true
	v, _, err := lex.ProcessWord(text, x.values(env))
	return v, x.check(err)
}

// instruction expands an instruction as far as it takes variables.
func (x *expander) instruction(cmd instructions.Command, env environ) error {
	if _, ok := cmd.(*instructions.ArgCommand); ok {
		return nil // only values that are used, one after the other
	}
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		err := ex.Expand(func(word string) (string, error) { return x.word(word, env) })
		if err != nil {
			return err
		}
	}
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansionRaw); ok {
		return ex.ExpandRaw(func(text string) (string, error) { return x.heredoc(text, env) })
	}
	return nil
}

// ports is for EXPOSE, of which one word can become several.
func (x *expander) ports(ports []string, env environ) (words []string, _ error) {
	for _, p := range ports {
		w, err := x.words(p, env)
		if err != nil {
			return nil, err
		}
		words = append(words, w...)
	}
	return words, nil
}

// platformArgs are the ARGs that every Dockerfile can declare without a value.
func platformArgs(target string) environ {
	if target == "" {
		target = "default"
	}
	platform := hostPlatform()
	e := environ{}
	for _, prefix := range []string{"BUILD", "TARGET"} {
		e = append(e,
			prefix+"PLATFORM="+platform, prefix+"OS="+runtime.GOOS, prefix+"OSVERSION=",
			prefix+"ARCH="+runtime.GOARCH, prefix+"VARIANT=")
	}
	return append(e, "TARGETSTAGE="+target)
}

// globals are the values that FROM sees: those of the platform, and of the ARGs
// before the first FROM. Errors of expansion are found by expandGlobals.
func (f *file) globals(args map[string]string, target string) environ {
	e, _ := f.expandGlobals(newExpander(f.escape), args, target)
	return e
}

func (f *file) expandGlobals(x *expander, args map[string]string, target string) (environ, error) {
	if n := len(f.stages); target == "" && n > 0 {
		target = f.stages[n-1].Name
	}
	e := platformArgs(target)
	for _, entry := range e {
		key, _, _ := strings.Cut(entry, "=")
		if v, ok := args[key]; ok {
			e = e.with(key, v)
		}
	}
	for _, cmd := range f.args {
		for _, arg := range cmd.Args {
			if v, ok := args[arg.Key]; ok {
				e = e.with(arg.Key, v)
			} else if arg.Value != nil {
				v, err := x.word(*arg.Value, e)
				if err != nil {
					return e, &Error{Line: lineIn(cmd.Location()), Instruction: cmd.String(), Err: err}
				}
				e = e.with(arg.Key, v)
			}
		}
	}
	return e, nil
}
