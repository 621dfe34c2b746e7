package runtime

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fill sets everything that v can hold to something that is not zero.
func fill(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem())
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(v.Index(0))
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		value := reflect.New(v.Type().Elem()).Elem()
		fill(value)
		v.SetMapIndex(reflect.ValueOf("key").Convert(v.Type().Key()), value)
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Float64:
		v.SetFloat(1)
	case reflect.Interface:
	default:
		if v.CanInt() {
			v.SetInt(1)
		} else {
			v.SetUint(1)
		}
	}
}

// No field of the specification, of this version or of the next one, is forgotten.
func TestDecodeSpec(t *testing.T) {
	want := new(specs.Spec)
	fill(reflect.ValueOf(want).Elem())
	want.Solaris, want.Windows, want.VM, want.ZOS, want.FreeBSD = nil, nil, nil, nil, nil
	want.Process.CommandLine, want.Process.User.Username = "", "" // Windows'
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got := new(specs.Spec)
	if err := decodeSpec(raw, got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		again, _ := json.Marshal(got)
		t.Errorf("got\n%s\nwant\n%s", again, raw)
	}
}

func TestDecodeSpecErrors(t *testing.T) {
	for in, want := range map[string]string{
		`{`:                           "unexpected end of JSON input",
		`[]`:                          "json: cannot unmarshal array into Go value of type map[string]json.RawMessage",
		`{"process": {"args": 1}}`:    "process: args: json: cannot unmarshal number into Go value of type []string",
		`{"linux": {"resources": 1}}`: "linux: resources: json: cannot unmarshal number into Go value of type map[string]json.RawMessage",
		`{"process": null, "linux": null, "unknown": {"x": []}}`: "",
	} {
		spec := new(specs.Spec)
		err := decodeSpec([]byte(in), spec)
		if want == "" && (err != nil || spec.Process != nil || spec.Linux != nil) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, %+v", in, err, spec)
		}
	}
}
