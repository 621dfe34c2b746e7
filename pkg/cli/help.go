package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

// Groups of commands, in the order of the program's help.
const (
	groupStack   = "The stack"
	groupRun     = "Run containers"
	groupLook    = "Look at containers"
	groupChange  = "Change containers"
	groupImages  = "Images"
	groupOneself = "Sandbox itself"
)

func printHelp(w io.Writer, style ui.Style, data any) {
	switch d := data.(type) {
	case *cli.App:
		appHelp(w, style, d.Name, d.Usage, d.Commands, d.Flags)
	case *cli.Command:
		// The library hands over the program itself as its root command.
		if d.HelpName == "sandbox" || d.HelpName == "" {
			appHelp(w, style, d.Name, d.Usage, d.Subcommands, d.Flags)
			return
		}
		commandHelp(w, style, d)
	}
}

func appHelp(w io.Writer, style ui.Style, name, usage string, commands []*cli.Command, flags []cli.Flag) {
	fmt.Fprintf(w, "%s  %s [OPTIONS] COMMAND\n\n%s: %s.\n", style.Bold("Usage:"), name, name, usage)
	for _, group := range []string{groupStack, groupRun, groupLook, groupChange, groupImages, groupOneself} {
		t := ui.Table{}
		for _, c := range commands {
			if c.Category == group && !c.Hidden {
				t.Add("  "+fmt.Sprintf("%-10s", c.Name), c.Usage)
			}
		}
		fmt.Fprintf(w, "\n%s\n", style.Bold(group+":"))
		_ = t.Write(w, style)
	}
	fmt.Fprintf(w, "\n%s\n", style.Bold("Options:"))
	_ = flagTable(flags).Write(w, style)
	fmt.Fprintf(w, `
%s 0 done · 1 failure · 2 wrong usage · 3 a check failed · 4 the host is not ready · 130 interrupted.
run, start -a and exec return the container's own code; 126 when its command cannot be executed,
127 when there is no such command, 137 after an OOM kill.

More about a command: %s COMMAND --help
`, style.Bold("Exit codes:"), name)
}

func commandHelp(w io.Writer, style ui.Style, c *cli.Command) {
	usage := c.HelpName
	if len(c.Subcommands) > 0 {
		usage += " COMMAND"
	} else if len(visible(c.Flags)) > 1 {
		usage += " [OPTIONS]"
	}
	if c.ArgsUsage != "" {
		usage += " " + c.ArgsUsage
	}
	fmt.Fprintf(w, "%s  %s\n\n%s.\n", style.Bold("Usage:"), usage, upperFirst(c.Usage))
	if len(c.Aliases) > 0 {
		fmt.Fprintf(w, "\n%s  %s\n", style.Bold("Also:"), strings.Join(c.Aliases, ", "))
	}
	if c.Description != "" {
		fmt.Fprintf(w, "\n%s\n", strings.ReplaceAll(strings.TrimSpace(c.Description), "EXAMPLES", style.Bold("Examples:")))
	}
	if len(c.Subcommands) > 0 {
		t := ui.Table{}
		for _, s := range c.Subcommands {
			t.Add("  "+s.Name, s.Usage)
		}
		fmt.Fprintf(w, "\n%s\n", style.Bold("Commands:"))
		_ = t.Write(w, style)
	}
	var groups []string
	for _, f := range visible(c.Flags) {
		if g := category(f); g != "" && !slices.Contains(groups, g) {
			groups = append(groups, g)
		}
	}
	for _, group := range append(groups, "") {
		var flags []cli.Flag
		for _, f := range visible(c.Flags) {
			if category(f) == group {
				flags = append(flags, f)
			}
		}
		heading := group
		switch {
		case group == "" && groups != nil:
			heading = "Help"
		case group == "":
			heading = "Options"
		}
		fmt.Fprintf(w, "\n%s\n", style.Bold(heading+":"))
		_ = flagTable(flags).Write(w, style)
	}
}

func visible(flags []cli.Flag) []cli.Flag {
	var out []cli.Flag
	for _, f := range flags {
		if v, ok := f.(cli.VisibleFlag); !ok || v.IsVisible() {
			out = append(out, f)
		}
	}
	return out
}

func category(f cli.Flag) string {
	if c, ok := f.(cli.CategorizableFlag); ok {
		return c.GetCategory()
	}
	return ""
}

// flagTable has a row for each flag: its names, and what it does. A word in
// backquotes in the usage is the name of the value.
func flagTable(flags []cli.Flag) *ui.Table {
	t := &ui.Table{}
	for _, f := range flags {
		doc, ok := f.(cli.DocGenerationFlag)
		if !ok {
			continue
		}
		usage, placeholder := doc.GetUsage(), ""
		if doc.TakesValue() {
			placeholder = "VALUE"
			if before, rest, ok := strings.Cut(usage, "`"); ok {
				name, after, _ := strings.Cut(rest, "`")
				placeholder, usage = name, before+name+after
			}
			if hidden, text, ok := strings.Cut(usage, "\x00"); ok {
				placeholder, usage = hidden, text
			}
		}
		var short, long []string
		for _, name := range f.Names() {
			if len(name) == 1 {
				short = append(short, "-"+name)
			} else {
				long = append(long, "--"+name)
			}
		}
		names := "  " + strings.Join(append(short, long...), ", ")
		if len(short) == 0 {
			names = "      " + strings.Join(long, ", ")
		}
		if placeholder != "" {
			names += " " + placeholder
		}
		for _, env := range doc.GetEnvVars() {
			usage += " ($" + env + ")"
		}
		if v := doc.GetDefaultText(); doc.TakesValue() && v != "" && v != `""` {
			usage += " (default: " + strings.Trim(v, `"`) + ")"
		}
		t.Add(names, usage)
	}
	return t
}

func upperFirst(s string) string {
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}
