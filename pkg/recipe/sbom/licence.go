package sbom

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

const (
	noAssertion = "NOASSERTION" // SPDX's word for "it does not say"
	refPrefix   = "LicenseRef-"

	maxName = 120      // bytes of what is still a licence's name, not its text
	maxText = 64 << 10 // bytes of a text in the document
)

// texts are licences that are not on SPDX's list, by their LicenseRef.
type texts map[string]string

var notInRef = pattern.New(`[^A-Za-z0-9.]+`)

// one returns the identifier of a licence: SPDX's, or a reference to the text,
// which is the name itself if there is no other.
func (t texts) one(name, text string) string {
	if id, ok := listedID(name); ok {
		return id
	}
	if _, ok := t[name]; ok && text == "" {
		return name
	}
	name = strings.TrimPrefix(clean(name, maxName), refPrefix)
	if text = cut(text); text == "" {
		text = name
	}
	word := strings.Trim(notInRef.ReplaceAllString(name, "-"), "-.")
	ref := refPrefix + firstOf(word[:min(len(word), 60)], "unnamed")
	if had, ok := t[ref]; ok && had != text {
		// Another text under the same name.
		sum := sha256.Sum256([]byte(text))
		ref += "-" + hex.EncodeToString(sum[:4])
	}
	t[ref] = text
	return ref
}

// cut makes a text fit for a document.
func cut(text string) string {
	text = strings.TrimSpace(strings.ToValidUTF8(text, "�"))
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "") + "…"
	}
	return text
}

// file returns the reference to the text of a whole file: one for all packages
// that have the same.
func (t texts) file(name, text string) string {
	text = cut(text)
	same := ""
	for ref, had := range t {
		if had == text && (same == "" || ref < same) {
			same = ref
		}
	}
	if same == "" {
		same = t.one(name, text)
	}
	return same
}

// known reports whether one does not need a reference.
func (t texts) known(name string) bool {
	_, ok := listedID(name)
	return ok
}

// expression makes an SPDX expression of what a package calls one. What cannot
// be parsed is taken as the text of a licence, named after the package.
func (t texts) expression(raw, pkg string) string {
	return t.withTexts(raw, pkg, nil)
}

// withTexts is expression with texts for names that are not on the list.
func (t texts) withTexts(raw, pkg string, by map[string]string) string {
	raw = strings.TrimSpace(raw)
	if raw == "" || strings.EqualFold(raw, "unknown") || strings.EqualFold(raw, noAssertion) {
		return ""
	}
	if id, ok := listedID(raw); ok {
		return id
	}
	if len(raw) > 500 || strings.Contains(raw, "\n") {
		return t.one(pkg, raw)
	}
	p := &expressionParser{words: tokens(raw), leaf: func(name string) string { return t.one(name, by[name]) }}
	e, ok := p.list()
	if !ok || len(p.words) > 0 {
		return t.one(pkg, raw)
	}
	return e.String()
}

// tokens are words, parentheses and commas.
func tokens(s string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ", ",", " , ").Replace(s))
}

// expression is AND or OR of others, or a licence.
type expression struct {
	op   string
	args []expression
	leaf string
}

func (e expression) String() string {
	if e.op == "" {
		return e.leaf
	}
	var parts []string
	for _, a := range e.args {
		part := a.String()
		if e.op == "AND" && strings.Contains(part, " OR ") && a.op == "OR" {
			part = "(" + part + ")"
		}
		parts = append(parts, part)
	}
	slices.Sort(parts)
	return strings.Join(slices.Compact(parts), " "+e.op+" ")
}

// join makes one expression of several, without needless nesting.
func join(op string, args []expression) expression {
	if len(args) == 1 {
		return args[0]
	}
	var flat []expression
	for _, a := range args {
		if a.op == op {
			flat = append(flat, a.args...) // their own args are of another
		} else {
			flat = append(flat, a)
		}
	}
	return expression{op: op, args: flat}
}

// expressionParser parses SPDX's expressions and Debian's, which have a comma that
// binds less than "or" (copyright-format 1.0, "Short name").
type expressionParser struct {
	words []string
	leaf  func(name string) string
	depth int
}

func (p *expressionParser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

func (p *expressionParser) accept(word string) bool {
	if !strings.EqualFold(p.peek(), word) {
		return false
	}
	p.words = p.words[1:]
	return true
}

func (p *expressionParser) list() (expression, bool) {
	op := "AND"
	first, ok := p.or()
	args := []expression{first}
	for ok && p.accept(",") {
		if p.accept("or") {
			op = "OR"
		} else {
			p.accept("and")
		}
		var next expression
		next, ok = p.or()
		args = append(args, next)
	}
	return join(op, args), ok
}

func (p *expressionParser) or() (expression, bool) {
	first, ok := p.and()
	args := []expression{first}
	for ok && (p.accept("or") || p.accept("|") || p.accept("||")) {
		var next expression
		next, ok = p.and()
		args = append(args, next)
	}
	return join("OR", args), ok
}

func (p *expressionParser) and() (expression, bool) {
	first, ok := p.primary()
	args := []expression{first}
	for ok && (p.accept("and") || p.accept("&")) {
		var next expression
		next, ok = p.primary()
		args = append(args, next)
	}
	return join("AND", args), ok
}

func (p *expressionParser) primary() (expression, bool) {
	if p.accept("(") {
		if p.depth++; p.depth > 50 {
			return expression{}, false
		}
		e, ok := p.list()
		p.depth--
		return e, ok && p.accept(")")
	}
	name := p.name()
	if name == "" {
		return expression{}, false
	}
	if !p.accept("with") {
		return expression{leaf: p.leaf(name)}, true
	}
	exception := p.name()
	id, known := listedID(name)
	with, listed := listedException(exception)
	if known && listed {
		return expression{leaf: id + " WITH " + with}, true
	}
	// A reference cannot have an exception, nor be one: it is of both.
	return expression{leaf: p.leaf(name + " with " + exception)}, exception != ""
}

// name is all words up to the next operator.
func (p *expressionParser) name() string {
	n := slices.IndexFunc(p.words, func(w string) bool {
		return slices.Contains([]string{"and", "or", "with", "(", ")", ",", "|", "||", "&"}, strings.ToLower(w))
	})
	if n < 0 {
		n = len(p.words)
	}
	name := strings.Join(p.words[:n], " ")
	p.words = p.words[n:]
	return name
}

// conjunction is an expression that demands all of these expressions, disjunction
// one that leaves a choice of them.
func conjunction(all []string) string { return combine("AND", all) }
func disjunction(all []string) string { return combine("OR", all) }

// parse reads an expression of SPDX's.
func parse(s string) (expression, bool) {
	p := &expressionParser{words: tokens(s), leaf: func(name string) string { return name }}
	e, ok := p.list()
	return e, ok && len(p.words) == 0
}

func combine(op string, all []string) string {
	var args []expression
	for _, s := range all {
		if s == "" {
			continue
		}
		e, ok := parse(s)
		if !ok {
			e = expression{leaf: s} // of a hostile document
		}
		args = append(args, e)
	}
	if len(args) == 0 {
		return ""
	}
	return join(op, args).String()
}

// ByLicence are the terms that packages are under, the most frequent first. A
// package under two at once is with both; of a choice the term is the choice.
func (d Document) ByLicence() []api.Licence {
	packages := map[string][]string{}
	for _, l := range d.Licences() {
		for _, term := range terms(l.Licence) {
			packages[term] = append(packages[term], strings.TrimSpace(l.Package+" "+l.Version))
		}
	}
	var all []api.Licence
	for licence, names := range packages {
		all = append(all, api.Licence{Licence: licence, Packages: names})
	}
	slices.SortFunc(all, func(a, b api.Licence) int {
		return cmp.Or(cmp.Compare(len(b.Packages), len(a.Packages)), cmp.Compare(a.Licence, b.Licence))
	})
	return all
}

// terms are those that an expression joins by AND.
func terms(licence string) []string {
	e, ok := parse(licence)
	if !ok || e.op != "AND" {
		return []string{licence}
	}
	var all []string
	for _, a := range e.args {
		all = append(all, a.String())
	}
	slices.Sort(all)
	return slices.Compact(all)
}
