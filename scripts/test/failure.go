package main

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
)

// message is how a line begins that a test wrote by t.Log, t.Error and their
// like: with the file, and the line in it, that called them.
var message = regexp.MustCompile(`^ +([^ :]+\.go):([0-9]+): `)

// failure is what a test said of its failure: its output without what it only
// logged. Which of the two a message is shows in the source, where the call is;
// a call of a helper counts as the former.
func failure(pkg, output string) string {
	const most = 1500
	dir, sources := folder(pkg), map[string][]string{}
	var b strings.Builder
	told := false
	for line := range strings.Lines(output) {
		switch m := message.FindStringSubmatch(line); {
		case framing(line):
			told = false
			continue
		case m != nil:
			told = !logged(sources, filepath.Join(dir, m[1]), m[2])
		case !strings.HasPrefix(line, " "): // a panic, what the test printed itself
			told = true
		}
		if told {
			b.WriteString(line)
		}
	}
	text := b.String()
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…\n"
	}
	return text
}

// logged reports whether the call in that line only logs. zaptest's are all
// logger.go's; what else is not in the package's folder is a helper's.
func logged(sources map[string][]string, file, line string) bool {
	if filepath.Base(file) == "logger.go" {
		return true
	}
	lines, ok := sources[file]
	if !ok {
		b, err := os.ReadFile(file)
		if err != nil {
			return false
		}
		lines = strings.Split(string(b), "\n")
		sources[file] = lines
	}
	n, err := strconv.Atoi(line)
	if err != nil || n < 1 || n > len(lines) {
		return false
	}
	return strings.Contains(lines[n-1], ".Log(") || strings.Contains(lines[n-1], ".Logf(")
}

// folder is where a package of this module is, below the working folder.
func folder(pkg string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return pkg
	}
	return strings.TrimPrefix(strings.TrimPrefix(pkg, info.Main.Path), "/")
}
