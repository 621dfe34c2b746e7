package cli

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	cli "github.com/urfave/cli/v2"
)

// typedFlag is one flag as it was given.
type typedFlag struct {
	name  string // the flag's long name
	value string // "true" for a switch without one
	text  string // as typed, in one piece: "-m 64m", "--memory=64m"
}

// split takes a command's arguments apart the way docker does (POSIX short
// options, pflag's rules): -it is -i -t; -m64m, -m=64m, -m 64m, --memory=64m
// and --memory 64m are the same; "--" ends the flags. With interspersed, flags
// may also follow the arguments (`rm NAME -f`); without, the first argument
// ends the flags, and what follows belongs to the container's command.
//
// Go's flag package, on which urfave/cli builds, knows none of this; it gets
// the canonical form that canonical() makes of the result.
func split(flags []cli.Flag, args []string, interspersed bool) (typed []typedFlag, rest []string, err error) {
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		switch {
		case arg == "--":
			return typed, append(rest, args...), nil
		case arg == "-" || !strings.HasPrefix(arg, "-"):
			if !interspersed {
				return typed, append(append(rest, arg), args...), nil
			}
			rest = append(rest, arg)
		case strings.HasPrefix(arg, "--"):
			f, left, err := splitLong(flags, arg, args)
			if err != nil {
				return nil, nil, err
			}
			typed, args = append(typed, f), left
		default:
			fs, left, err := splitShort(flags, arg, args)
			if err != nil {
				return nil, nil, err
			}
			typed, args = append(typed, fs...), left
		}
	}
	return typed, rest, nil
}

func splitLong(flags []cli.Flag, arg string, args []string) (typedFlag, []string, error) {
	name, value, attached := strings.Cut(arg[2:], "=")
	flag := findFlag(flags, name)
	if flag == nil || len(name) < 2 {
		return typedFlag{}, nil, unknownFlag(flags, "--"+name, name)
	}
	f := typedFlag{name: flag.Names()[0], value: value, text: arg}
	switch {
	case attached && isSwitch(flag):
		var err error
		f.value, err = switchValue("--"+name, value)
		return f, args, err
	case attached:
	case isSwitch(flag):
		f.value = "true"
	case len(args) == 0:
		return f, nil, usagef("flag needs an argument: --%s", name)
	default:
		f.value, f.text, args = args[0], arg+" "+args[0], args[1:]
	}
	return f, args, nil
}

func splitShort(flags []cli.Flag, arg string, args []string) (typed []typedFlag, left []string, err error) {
	for letters := arg[1:]; letters != ""; {
		name := letters[:1]
		letters = letters[1:]
		flag := findFlag(flags, name)
		switch {
		case flag == nil && name == "h":
			// docker's rule: -h is --help where it is nothing else.
			typed = append(typed, typedFlag{name: "help", value: "true", text: "-h"})
			continue
		case flag == nil:
			return nil, nil, unknownFlag(flags, fmt.Sprintf("-%s in %s", name, arg), strings.TrimLeft(arg, "-"))
		}
		f := typedFlag{name: flag.Names()[0], text: "-" + name}
		value, attached := strings.CutPrefix(letters, "=")
		switch {
		case isSwitch(flag) && attached:
			if f.value, err = switchValue("-"+name, value); err != nil {
				return nil, nil, err
			}
			f.text += "=" + value
			letters = ""
		case isSwitch(flag):
			f.value = "true"
		case letters != "":
			f.value, f.text, letters = value, f.text+" "+value, ""
		case len(args) == 0:
			return nil, nil, usagef("flag needs an argument: -%s in %s", name, arg)
		default:
			f.value, f.text, args = args[0], f.text+" "+args[0], args[1:]
		}
		typed = append(typed, f)
	}
	return typed, args, nil
}

func switchValue(flag, value string) (string, error) {
	b, err := strconv.ParseBool(value)
	if err != nil {
		return "", usagef("invalid value %q for %s: it is a switch; for example: %s=false", value, flag, flag)
	}
	return strconv.FormatBool(b), nil
}

// canonical is the form that Go's flag package reads without ambiguity.
func canonical(typed []typedFlag, rest []string) []string {
	var out []string
	for _, f := range typed {
		out = append(out, "--"+f.name+"="+f.value)
	}
	out = append(out, "--")
	return append(out, rest...)
}

func findFlag(flags []cli.Flag, name string) cli.Flag {
	for _, f := range flags {
		if slices.Contains(f.Names(), name) {
			return f
		}
	}
	return nil
}

func isSwitch(f cli.Flag) bool {
	_, ok := f.(*cli.BoolFlag)
	return ok
}

func unknownFlag(flags []cli.Flag, text, name string) error {
	var names []string
	for _, f := range flags {
		for _, n := range f.Names() {
			if len(n) > 1 {
				names = append(names, n)
			}
		}
	}
	e := &usageError{message: "unknown flag: " + text}
	if near := nearest(name, names); near != "" {
		e.hint = "did you mean --" + near + "?"
	}
	return e
}

// nearest returns the word at the smallest edit distance of name, if that is
// small enough to be a slip of the fingers.
func nearest(name string, words []string) string {
	best, distance := "", 3
	if len(name) < 5 {
		distance = 2
	}
	for _, w := range words {
		if d := editDistance(name, w); d < distance {
			best, distance = w, d
		}
	}
	return best
}

// editDistance is Levenshtein's, with one row of memory.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
