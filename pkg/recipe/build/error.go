package build

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// Error says which instruction of a Dockerfile has failed.
type Error struct {
	Stage       string // empty before the first
	Line        int
	Instruction string // its first line, as written
	Err         error
}

func (e *Error) Error() string {
	where := fmt.Sprintf("Dockerfile:%d: ", e.Line)
	if e.Stage != "" {
		where += "stage " + e.Stage + ": "
	}
	return where + firstLine(e.Instruction) + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// at says where err comes from, unless that is known: a step that waits for
// another one fails with it.
func at(stage string, line int, instruction string, err error) error {
	if _, ok := errors.AsType[*Error](err); ok || err == nil {
		return err
	}
	return &Error{Stage: stage, Line: line, Instruction: instruction, Err: err}
}

// ExitError is a RUN whose command has failed.
type ExitError struct {
	Code      int
	OOMKilled bool
	Message   string   // why it did not even start
	Output    []string // its last lines
}

func (e *ExitError) Error() string {
	var s strings.Builder
	fmt.Fprintf(&s, "exit code %d", e.Code)
	switch {
	case e.OOMKilled:
		s.WriteString(", out of memory")
	case e.Message != "":
		s.WriteString(", " + e.Message)
	}
	for i, line := range e.Output {
		if i == 0 {
			s.WriteString(":")
		}
		s.WriteString("\n\t" + line)
	}
	return s.String()
}

func (e *ExitError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// maxShown is how much of a line is shown, in bytes.
const maxShown = 300

func firstLine(s string) string {
	line, rest, _ := strings.Cut(strings.TrimSpace(s), "\n")
	if len(line) > maxShown {
		line, rest = strings.ToValidUTF8(line[:maxShown], ""), "…"
	}
	if strings.TrimSpace(rest) != "" {
		line += " …"
	}
	return line
}
