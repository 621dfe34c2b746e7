package recipe

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"time"
)

// Schema is the JSON schema of recipe.yaml, made from the Go types: editors
// check and complete with it. images/recipe.schema.json is a copy.
func Schema() []byte {
	s := schemaOf(reflect.TypeFor[Recipe]())
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "A recipe for a container image"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(s); err != nil {
		panic(err) // maps of strings
	}
	return b.Bytes()
}

func schemaOf(t reflect.Type) map[string]any {
	switch t {
	case reflect.TypeFor[time.Time]():
		return map[string]any{"type": "string", "format": "date"}
	case reflect.TypeFor[Duration]():
		return map[string]any{"type": "string", "pattern": `^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return schemaOf(t.Elem())
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Int:
		return map[string]any{"type": "integer"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": schemaOf(t.Elem())}
	case reflect.Map:
		return map[string]any{"type": "object", "additionalProperties": schemaOf(t.Elem())}
	case reflect.Struct:
		return structSchema(t)
	}
	panic("no JSON schema for " + t.String())
}

// structSchema requires whatever may not be empty.
func structSchema(t reflect.Type) map[string]any {
	properties, required := map[string]any{}, []string{}
	for f := range t.Fields() {
		key, options, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if key == "-" {
			continue
		}
		p := schemaOf(f.Type)
		p["description"] = f.Tag.Get("doc")
		switch t.Name() + "." + key {
		case "Recipe.name":
			p["pattern"] = namePattern.String()
		case "Debian.variant":
			p["enum"] = variants
		}
		properties[key] = p
		if options != "omitempty" {
			required = append(required, key)
		}
	}
	s := map[string]any{"type": "object", "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	if t == reflect.TypeFor[Context]() {
		s["minProperties"], s["maxProperties"] = 1, 1
	}
	return s
}
