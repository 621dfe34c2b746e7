// Package kubeconfig puts a cluster's context into a user's kubeconfig and takes
// it out again, and leaves everything else in the file as it was: entries,
// comments and order. It touches files with the rights of their user, so that
// nothing happens to others' through a link in somebody's home.
//
// The format is that of client-go's clientcmd/api/v1.
package kubeconfig

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
	yaml "go.yaml.in/yaml/v3"
)

// Entry is one context with the cluster and the user that it names; all three
// have the same name.
type Entry struct {
	Name   string
	Server string // https://HOST:PORT
	// PEM, each.
	CA, ClientCert, ClientKey []byte
}

// extension marks our context and keeps what was current before it. kubectl and
// other programs carry extensions along when they write the file.
const extension = "io.sandboxlabs.stage"

// Read takes from an administrator's kubeconfig, as kubeadm writes it, what an
// Entry is made of.
func Read(b []byte, name, server string) (Entry, error) {
	var c struct {
		Clusters []struct {
			Cluster struct {
				CA string `yaml:"certificate-authority-data"`
			}
		}
		Users []struct {
			User struct {
				Cert string `yaml:"client-certificate-data"`
				Key  string `yaml:"client-key-data"`
			}
		}
	}
	if err := yaml.Unmarshal(b, &c); err != nil {
		return Entry{}, fmt.Errorf("kubeconfig of %s: %w", name, err)
	}
	if len(c.Clusters) != 1 || len(c.Users) != 1 {
		return Entry{}, fmt.Errorf("kubeconfig of %s: %d clusters and %d users, want one each", name, len(c.Clusters), len(c.Users))
	}
	e := Entry{Name: name, Server: server}
	for _, part := range []struct {
		to   *[]byte
		from string
	}{{&e.CA, c.Clusters[0].Cluster.CA}, {&e.ClientCert, c.Users[0].User.Cert}, {&e.ClientKey, c.Users[0].User.Key}} {
		decoded, err := base64.StdEncoding.DecodeString(part.from)
		if err != nil || len(decoded) == 0 {
			return Entry{}, fmt.Errorf("kubeconfig of %s: no certificates in it: %w", name, errors.Join(err, errdefs.ErrFailedPrecondition))
		}
		*part.to = decoded
	}
	return e, nil
}

// add puts e in place of what is there of that name, and makes its context the
// current one, unless it is all there already: somebody may have switched since.
func add(config []byte, e Entry) ([]byte, error) {
	root, err := parse(config)
	if err != nil {
		return nil, err
	}
	top := root.Content[0]
	previous := value(top, "current-context")
	if have := find(top, "contexts", e.Name); have != nil {
		if previous, err = ours(have, e.Name); err != nil {
			return nil, err
		}
		if same(top, e) {
			return config, nil
		}
	} else if find(top, "clusters", e.Name) != nil || find(top, "users", e.Name) != nil {
		return nil, inTheWay(e.Name)
	}
	if previous == e.Name {
		previous = ""
	}
	ensure(top, "apiVersion", "v1")
	ensure(top, "kind", "Config")
	for _, section := range sections(e, previous) {
		entry, err := node(section.entry)
		if err != nil {
			return nil, err
		}
		list := child(top, section.name)
		if list == nil || list.Kind != yaml.SequenceNode {
			if list != nil && list.Tag != "!!null" {
				return nil, fmt.Errorf("%s is not a list: %w", section.name, errdefs.ErrInvalidArgument)
			}
			list = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			set(top, section.name, list)
		}
		if i := index(list, e.Name); i >= 0 {
			list.Content[i] = entry
		} else {
			list.Style = 0 // "[]" has no room for it
			list.Content = append(list.Content, entry)
		}
	}
	set(top, "current-context", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: e.Name})
	return encode(root)
}

// drop takes out what add has put in. The context that was current before is
// current again, if there still is one of that name and ours is now. empty says
// that nothing is left that anybody would miss.
func drop(config []byte, name string) (left []byte, empty bool, err error) {
	root, err := parse(config)
	if err != nil {
		return nil, false, err
	}
	top := root.Content[0]
	have := find(top, "contexts", name)
	if have == nil {
		return config, false, nil
	}
	previous, err := ours(have, name)
	if err != nil {
		return config, false, nil // somebody else's by now
	}
	for _, section := range []string{"clusters", "contexts", "users"} {
		list := child(top, section)
		if list == nil {
			continue
		}
		if i := index(list, name); i >= 0 {
			list.Content = append(list.Content[:i], list.Content[i+1:]...)
		}
		if len(list.Content) == 0 {
			list.Style = yaml.FlowStyle
		}
	}
	if value(top, "current-context") == name {
		if previous != "" && find(top, "contexts", previous) == nil {
			previous = ""
		}
		set(top, "current-context", &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: previous})
	}
	left, err = encode(root)
	return left, bare(top), err
}

// bare reports whether a kubeconfig says nothing.
func bare(top *yaml.Node) bool {
	for i := 0; i+1 < len(top.Content); i += 2 {
		switch v := top.Content[i+1]; top.Content[i].Value {
		case "apiVersion", "kind":
		default:
			if len(v.Content) > 0 || v.Kind == yaml.ScalarNode && v.Tag != "!!null" && v.Value != "" {
				return false
			}
		}
	}
	return true
}

// section is one of the lists of a kubeconfig, with its entry.
type section struct {
	name  string
	entry map[string]any
}

func sections(e Entry, previous string) []section {
	data := base64.StdEncoding.EncodeToString
	return []section{
		{"clusters", map[string]any{"name": e.Name, "cluster": map[string]any{
			"server": e.Server, "certificate-authority-data": data(e.CA),
		}}},
		{"contexts", map[string]any{"name": e.Name, "context": map[string]any{
			"cluster": e.Name, "user": e.Name,
			"extensions": []any{map[string]any{"name": extension, "extension": map[string]any{"stage": "cluster", "previous": previous}}},
		}}},
		{"users", map[string]any{"name": e.Name, "user": map[string]any{
			"client-certificate-data": data(e.ClientCert), "client-key-data": data(e.ClientKey),
		}}},
	}
}

// ours returns what was current before, as our context has it, or an error when
// the context is not ours.
func ours(context *yaml.Node, name string) (previous string, err error) {
	var c struct {
		Context struct {
			Extensions []struct {
				Name      string
				Extension struct{ Previous string }
			}
		}
	}
	if err := context.Decode(&c); err != nil {
		return "", fmt.Errorf("context %s: %w", name, err)
	}
	for _, e := range c.Context.Extensions {
		if e.Name == extension {
			return e.Extension.Previous, nil
		}
	}
	return "", inTheWay(name)
}

// same reports whether cluster and user are what e says.
func same(top *yaml.Node, e Entry) bool {
	for _, s := range sections(e, "") {
		if s.name == "contexts" {
			continue // it is ours, and says nothing else
		}
		var have map[string]any
		n := find(top, s.name, e.Name)
		if n == nil || n.Decode(&have) != nil || fmt.Sprint(have) != fmt.Sprint(s.entry) {
			return false
		}
	}
	return true
}

func inTheWay(name string) error {
	return &takenError{name}
}

// takenError says that the name is another cluster's.
type takenError struct{ name string }

func (e *takenError) Error() string {
	return fmt.Sprintf("it has entries named %s that sandbox did not write", e.name)
}

func (e *takenError) Unwrap() error { return errdefs.ErrAlreadyExists }

func (e *takenError) Hint() string {
	return fmt.Sprintf("give the other one another name: kubectl config rename-context %s OTHER; or remove it: kubectl config delete-context %[1]s, delete-cluster %[1]s, delete-user %[1]s", e.name)
}

func parse(config []byte) (*yaml.Node, error) {
	root := &yaml.Node{}
	d := yaml.NewDecoder(bytes.NewReader(config))
	if err := d.Decode(root); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	if root.Kind == 0 || len(root.Content) == 1 && root.Content[0].Tag == "!!null" {
		root = &yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Tag: "!!map"}}}
	}
	if root.Content[0].Kind != yaml.MappingNode {
		return nil, fmt.Errorf("not a kubeconfig: %w", errdefs.ErrInvalidArgument)
	}
	return root, nil
}

// encode writes as kubectl does: two spaces, lists not indented.
func encode(root *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(root); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

func node(v any) (*yaml.Node, error) {
	n := &yaml.Node{}
	return n, n.Encode(v)
}

// child returns the value of a key, or nil.
func child(m *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			return m.Content[i+1]
		}
	}
	return nil
}

func value(m *yaml.Node, key string) string {
	if n := child(m, key); n != nil && n.Kind == yaml.ScalarNode && n.Tag != "!!null" {
		return n.Value
	}
	return ""
}

func set(m *yaml.Node, key string, v *yaml.Node) {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == key {
			m.Content[i+1] = v
			return
		}
	}
	m.Content = append(m.Content, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: key}, v)
}

func ensure(m *yaml.Node, key, v string) {
	if child(m, key) == nil {
		set(m, key, &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: v})
	}
}

// find returns the entry of a name in one of the lists, or nil.
func find(top *yaml.Node, list, name string) *yaml.Node {
	l := child(top, list)
	if l == nil {
		return nil
	}
	if i := index(l, name); i >= 0 {
		return l.Content[i]
	}
	return nil
}

func index(list *yaml.Node, name string) int {
	for i, entry := range list.Content {
		if entry.Kind == yaml.MappingNode && value(entry, "name") == name {
			return i
		}
	}
	return -1
}
