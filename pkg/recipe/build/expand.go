package build

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

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
	e, _ := f.expandGlobals(args, target)
	return e
}

func (f *file) expandGlobals(args map[string]string, target string) (environ, error) {
	lex := shell.NewLex(f.escape)
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
				v, _, err := lex.ProcessWord(*arg.Value, shell.EnvsFromSlice(e))
				if err != nil {
					return e, &Error{Line: lineIn(cmd.Location()), Instruction: cmd.String(), Err: err}
				}
				e = e.with(arg.Key, v)
			}
		}
	}
	return e, nil
}

// expand puts the values of variables into an instruction, as far as it takes
// them.
func expand(cmd instructions.Command, escape rune, env environ) error {
	if _, ok := cmd.(*instructions.ArgCommand); ok {
		return nil // only values that are used, one after the other
	}
	values := shell.EnvsFromSlice(env)
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansion); ok {
		lex := shell.NewLex(escape)
		err := ex.Expand(func(word string) (string, error) {
			v, _, err := lex.ProcessWord(word, values)
			return v, err
		})
		if err != nil {
			return err
		}
	}
	if ex, ok := cmd.(instructions.SupportsSingleWordExpansionRaw); ok { // heredocs
		lex := shell.NewLex('\\')
		lex.SkipProcessQuotes = true
		return ex.ExpandRaw(func(word string) (string, error) {
			v, _, err := lex.ProcessWord(word, values)
			return v, err
		})
	}
	return nil
}

// expandPorts is for EXPOSE, of which one word can become several.
func expandPorts(ports []string, escape rune, env environ) (out []string, _ error) {
	lex := shell.NewLex(escape)
	for _, p := range ports {
		words, err := lex.ProcessWords(p, shell.EnvsFromSlice(env))
		if err != nil {
			return nil, err
		}
		for _, w := range words {
			parsed, err := parsePort(w)
			if err != nil {
				return nil, fmt.Errorf("port %s: %w", w, err)
			}
			out = append(out, parsed...)
		}
	}
	return out, nil
}
