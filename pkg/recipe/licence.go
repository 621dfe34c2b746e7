package recipe

import (
	"fmt"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/pattern"
)

// spdxID is a licence's identifier, one with +, or a reference to a text of
// one's own (SPDX specification, annex "SPDX license expressions").
var spdxID = pattern.New(`^((DocumentRef-[A-Za-z0-9.-]+:)?LicenseRef-[A-Za-z0-9.-]+|[A-Za-z0-9.-]+\+?)$`)

// checkLicence reports what is wrong with an SPDX expression's syntax. Whether
// the identifiers are on SPDX's list it does not know.
func checkLicence(expression string) error {
	text := strings.NewReplacer("(", " ( ", ")", " ) ").Replace(expression)
	p := licenceParser{words: strings.Fields(text)}
	if err := p.expression(); err != nil {
		return err
	}
	if w := p.next(); w != "" {
		return fmt.Errorf("%q is not expected here; licences are joined by AND, OR and WITH", w)
	}
	return nil
}

type licenceParser struct{ words []string }

func (p *licenceParser) peek() string {
	if len(p.words) == 0 {
		return ""
	}
	return p.words[0]
}

func (p *licenceParser) next() string {
	w := p.peek()
	if w != "" {
		p.words = p.words[1:]
	}
	return w
}

func (p *licenceParser) expression() error {
	for {
		if err := p.term(); err != nil {
			return err
		}
		if w := p.peek(); w != "AND" && w != "OR" {
			return nil
		}
		p.next()
	}
}

func (p *licenceParser) term() error {
	w := p.next()
	if w == "(" {
		if err := p.expression(); err != nil {
			return err
		}
		if p.next() != ")" {
			return fmt.Errorf("a parenthesis is not closed")
		}
		return nil
	}
	if err := licenceID(w); err != nil {
		return err
	}
	if p.peek() == "WITH" {
		p.next()
		return licenceID(p.next())
	}
	return nil
}

func licenceID(w string) error {
	switch {
	case w == "":
		return fmt.Errorf("it ends where a licence is expected")
	case w == "AND", w == "OR", w == "WITH", !spdxID.MatchString(w):
		return fmt.Errorf("%q is no licence identifier", w)
	}
	return nil
}
