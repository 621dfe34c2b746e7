package recipe

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/pattern"
	"go.yaml.in/yaml/v3"
)

// maxFile bounds recipe.yaml and Dockerfile, in bytes.
const maxFile = 1 << 20

// Load reads the recipe in dir. Errors name file and line; what is wrong with
// its content is errdefs.ErrInvalidArgument, a missing file fs.ErrNotExist.
func Load(dir string) (*Recipe, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	b, err := readBounded(filepath.Join(dir, FileName))
	if err != nil {
		return nil, fmt.Errorf("load recipe %s: %w", filepath.Base(dir), err)
	}
	r, _, problems := parse(b)
	if len(problems) > 0 {
		errs := make([]error, len(problems))
		for i, p := range problems {
			p.File = filepath.Join(dir, FileName)
			errs[i] = errors.New(p.String())
		}
		return nil, fmt.Errorf("load recipe %s: %w: %w", filepath.Base(dir), errors.Join(errs...), errdefs.ErrInvalidArgument)
	}
	r.Dir = dir
	return r, nil
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	return b, err
}

// parse decodes a recipe.yaml. The problems are those of YAML, of types and of
// fields that do not exist; the document tells where a field is.
func parse(b []byte) (*Recipe, document, []Problem) {
	r := &Recipe{}
	var doc document
	if err := yaml.Unmarshal(b, &doc.root); err != nil {
		return r, doc, yamlProblems(err)
	}
	if len(doc.root.Content) == 0 {
		return r, doc, []Problem{{Line: 1, Message: "the file is empty", Hint: "`sandbox image new NAME` makes a recipe to start from"}}
	}
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(r); err != nil {
		return r, doc, yamlProblems(err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return r, doc, []Problem{{Line: bytes.Count(b, []byte("\n")), Message: "there is a second document in the file", Hint: "remove it, and the line ---"}}
	}
	return r, doc, nil
}

var (
	yamlLine     = pattern.New(`^(?:yaml: )?line (\d+): (.*)$`)
	unknownField = pattern.New(`^field (\S+) not found in type recipe\.(\w+)$`)
)

// yamlProblems turns the YAML package's errors into ours.
func yamlProblems(err error) []Problem {
	messages := []string{err.Error()}
	var types *yaml.TypeError
	if errors.As(err, &types) {
		messages = types.Errors
	}
	problems := make([]Problem, len(messages))
	for i, message := range messages {
		p := Problem{Line: 1, Message: strings.TrimPrefix(message, "yaml: ")}
		if m := yamlLine.FindStringSubmatch(message); m != nil {
			p.Line, _ = strconv.Atoi(m[1])
			p.Message = m[2]
		}
		if m := unknownField.FindStringSubmatch(p.Message); m != nil {
			p.Message = fmt.Sprintf("there is no field %q here", m[1])
			p.Hint = "known are " + strings.Join(fieldsOf(m[2]), ", ")
		}
		problems[i] = p
	}
	return problems
}

// fieldsOf lists the YAML fields of one of this package's types.
func fieldsOf(name string) (fields []string) {
	for _, t := range []reflect.Type{
		reflect.TypeFor[Recipe](), reflect.TypeFor[Context](), reflect.TypeFor[Debian](), reflect.TypeFor[Smoke](),
	} {
		if t.Name() != name {
			continue
		}
		for f := range t.Fields() {
			if key, _, _ := strings.Cut(f.Tag.Get("yaml"), ","); key != "-" {
				fields = append(fields, key)
			}
		}
	}
	slices.Sort(fields)
	return fields
}

// document is the YAML behind a recipe.
type document struct{ root yaml.Node }

// line tells where the field with this path of keys is, or the closest one
// above it that is there. Numbers are indexes of lists.
func (d document) line(path ...string) int {
	if len(d.root.Content) == 0 {
		return 1
	}
	n := d.root.Content[0]
	line := n.Line
	for _, key := range path {
		var next *yaml.Node
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i+1 < len(n.Content); i += 2 {
				if n.Content[i].Value == key {
					line, next = n.Content[i].Line, n.Content[i+1]
				}
			}
		case yaml.SequenceNode:
			if i, err := strconv.Atoi(key); err == nil && i < len(n.Content) {
				next = n.Content[i]
				line = next.Line
			}
		}
		if next == nil {
			break
		}
		n = next
	}
	return line
}
