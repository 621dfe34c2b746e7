// Package pattern has regular expressions that are compiled when they are first
// used. A package-level regexp is compiled at every start of the program,
// whichever command it is for, and that of a name, with its {0,127}, takes longer
// than many a command.
package pattern

import (
	"regexp"
	"sync"
)

// Pattern is a regular expression, in regexp's syntax.
type Pattern struct {
	compiled func() *regexp.Regexp
}

// New returns a pattern. One that is malformed panics when it is used.
func New(expression string) *Pattern {
	return &Pattern{sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expression) })}
}

// String is the expression.
func (p *Pattern) String() string { return p.compiled().String() }

// MatchString is regexp's.
func (p *Pattern) MatchString(s string) bool { return p.compiled().MatchString(s) }

// FindStringSubmatch is regexp's.
func (p *Pattern) FindStringSubmatch(s string) []string { return p.compiled().FindStringSubmatch(s) }

// FindAllStringSubmatch is regexp's.
func (p *Pattern) FindAllStringSubmatch(s string, n int) [][]string {
	return p.compiled().FindAllStringSubmatch(s, n)
}

// ReplaceAllString is regexp's.
func (p *Pattern) ReplaceAllString(s, with string) string {
	return p.compiled().ReplaceAllString(s, with)
}
