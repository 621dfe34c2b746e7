package terraform

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclparse"
	"github.com/zclconf/go-cty/cty"
)

// configuration is what InitDir needs to know of a folder's.
type configuration struct {
	backend *backend
	// local are the names by which the configuration calls the AWS provider.
	local     []string
	providers []provider
	usesAWS   bool // there is something that a provider without a block would serve
	empty     bool // there are no files
}

// backend is a block in which the state is kept.
type backend struct {
	kind  string // "s3", …; "cloud"
	where string // FILE:LINE
	// attributes are expressions, as they are written, by name.
	attributes map[string]string
}

// provider is one block of the AWS provider.
type provider struct {
	name, alias string
	attributes  map[string]bool // which it has, of those that matter here
}

func (p provider) String() string {
	if p.alias == "" {
		return p.name
	}
	return p.name + "." + p.alias
}

// Attributes of a backend that the override takes over from it. All others say
// where it is and who may reach it, which is for the override to say.
var taken = []string{"bucket", "key", "encrypt", "workspace_key_prefix", "dynamodb_table", "use_lockfile"}

// Attributes of a provider that would lead it to the real AWS, or to files that
// a learner does not have.
var foreign = []string{
	"profile", "shared_config_files", "shared_credentials_files", "token", "allowed_account_ids", "forbidden_account_ids", "use_fips_endpoint", "use_dualstack_endpoint",
}

// read parses all files of a folder that Terraform and OpenTofu read. shown is
// how errors call the folder.
func read(dir, shown string) (*configuration, error) {
	names, err := files(dir)
	if err != nil {
		return nil, err
	}
	c := &configuration{empty: len(names) == 0}
	r := &reader{configuration: c, parser: hclparse.NewParser(), sources: map[string]bool{}}
	for _, name := range names {
		src, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		// Errors name the file as the user would.
		path := filepath.Join(shown, name)
		var f *hcl.File
		var diags hcl.Diagnostics
		if strings.HasSuffix(name, ".json") {
			f, diags = r.parser.ParseJSON(src, path)
		} else {
			f, diags = r.parser.ParseHCL(src, path)
		}
		if diags.HasErrors() {
			return nil, problem(diags)
		}
		if err := r.file(f); err != nil {
			return nil, err
		}
	}
	if len(r.sources) == 0 && !r.taken {
		c.local = []string{"aws"}
	}
	for name := range r.sources {
		c.local = append(c.local, name)
	}
	slices.Sort(c.local)
	r.choose()
	return c, nil
}

// files lists the names of the configuration's files, sorted. A .tofu file
// stands for the .tf file of the same name, but Terraform reads that one.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		if e.IsDir() || name == FileName || strings.HasPrefix(name, ".") || strings.HasSuffix(name, "~") || strings.HasPrefix(name, "#") {
			continue
		}
		for _, ext := range []string{".tf", ".tofu", ".tf.json", ".tofu.json"} {
			if strings.HasSuffix(name, ext) {
				names = append(names, name)
				break
			}
		}
	}
	return names, nil
}

// reader gathers a configuration from its files.
type reader struct {
	*configuration
	parser  *hclparse.Parser
	sources map[string]bool // local names that required_providers gives the AWS provider
	taken   bool            // required_providers gives the name aws to another
	all     []provider      // of whatever provider
	types   []string        // of resources and data sources
	modules bool
}

var rootSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: "terraform"},
	{Type: "provider", LabelNames: []string{"name"}},
	{Type: "resource", LabelNames: []string{"type", "name"}},
	{Type: "data", LabelNames: []string{"type", "name"}},
	{Type: "module", LabelNames: []string{"name"}},
}}

var terraformSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: "backend", LabelNames: []string{"type"}},
	{Type: "cloud"},
	{Type: "required_providers"},
}}

func (r *reader) file(f *hcl.File) error {
	content, _, diags := f.Body.PartialContent(rootSchema)
	if diags.HasErrors() {
		return problem(diags)
	}
	for _, b := range content.Blocks {
		var err error
		switch b.Type {
		case "terraform":
			err = r.settings(b.Body)
		case "provider":
			err = r.provider(b)
		case "resource", "data":
			r.types = append(r.types, b.Labels[0])
		case "module":
			r.modules = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) settings(body hcl.Body) error {
	content, _, diags := body.PartialContent(terraformSchema)
	if diags.HasErrors() {
		return problem(diags)
	}
	for _, b := range content.Blocks {
		switch b.Type {
		case "backend":
			have := &backend{kind: b.Labels[0], where: where(b.DefRange), attributes: map[string]string{}}
			if err := r.attributes(b.Body, taken, func(name string, e hcl.Expression) error {
				have.attributes[name] = r.source(e)
				return nil
			}); err != nil {
				return err
			}
			r.backend = have
		case "cloud":
			r.backend = &backend{kind: "cloud", where: where(b.DefRange)}
		case "required_providers":
			attributes, diags := b.Body.JustAttributes()
			if diags.HasErrors() {
				return problem(diags)
			}
			for name, a := range attributes {
				r.require(name, a.Expr)
			}
		}
	}
	return nil
}

// require takes up an entry of required_providers: NAME = {source = …}, or a
// version alone, whose source is hashicorp/NAME.
func (r *reader) require(name string, e hcl.Expression) {
	source := "hashicorp/" + name
	if pairs, diags := hcl.ExprMap(e); !diags.HasErrors() {
		for _, p := range pairs {
			if hcl.ExprAsKeyword(p.Key) == "source" || literal(p.Key) == "source" {
				source = literal(p.Value)
			}
		}
	}
	if parts := strings.Split(source, "/"); strings.EqualFold(strings.Join(parts[max(0, len(parts)-2):], "/"), "hashicorp/aws") {
		r.sources[name] = true
	} else if name == "aws" {
		r.taken = true
	}
}

func (r *reader) provider(b *hcl.Block) error {
	p := provider{name: b.Labels[0], attributes: map[string]bool{}}
	err := r.attributes(b.Body, append([]string{"alias", "region"}, foreign...), func(name string, e hcl.Expression) error {
		p.attributes[name] = true
		if name != "alias" {
			return nil
		}
		if p.alias = literal(e); p.alias == "" {
			return fmt.Errorf("%s: the alias of provider %s is not a plain text: %w", where(e.Range()), p.name, errdefs.ErrInvalidArgument)
		}
		return nil
	})
	r.all = append(r.all, p)
	return err
}

// attributes calls use for those of names that a body has.
func (r *reader) attributes(body hcl.Body, names []string, use func(string, hcl.Expression) error) error {
	schema := &hcl.BodySchema{}
	for _, name := range names {
		schema.Attributes = append(schema.Attributes, hcl.AttributeSchema{Name: name})
	}
	content, _, diags := body.PartialContent(schema)
	if diags.HasErrors() {
		return problem(diags)
	}
	for _, name := range names {
		if a := content.Attributes[name]; a != nil {
			if err := use(name, a.Expr); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose finds the providers to be pointed at the endpoint, when all files are
// read: required_providers may be in the last one.
func (r *reader) choose() {
	for _, p := range r.all {
		if !slices.Contains(r.local, p.name) {
			continue
		}
		i := slices.IndexFunc(r.providers, func(q provider) bool { return q.String() == p.String() })
		if i < 0 {
			r.providers = append(r.providers, p)
			continue
		}
		for name := range p.attributes { // an override file of the user's
			r.providers[i].attributes[name] = true
		}
	}
	for _, t := range r.types {
		prefix, _, _ := strings.Cut(t, "_")
		r.usesAWS = r.usesAWS || slices.Contains(r.local, prefix) || prefix == "aws"
	}
	r.usesAWS = r.usesAWS || r.modules || len(r.sources) > 0
}

// source is an expression as it is written.
func (r *reader) source(e hcl.Expression) string {
	rng := e.Range()
	return string(rng.SliceBytes(r.parser.Sources()[rng.Filename]))
}

// literal is the value of an expression that is a plain text, or "".
func literal(e hcl.Expression) string {
	v, diags := e.Value(nil)
	if diags.HasErrors() || v.IsNull() || !v.IsKnown() || v.Type() != cty.String {
		return ""
	}
	return v.AsString()
}

func where(r hcl.Range) string { return fmt.Sprintf("%s:%d", r.Filename, r.Start.Line) }

// problem says what is no HCL, and where: the first of several.
func problem(diags hcl.Diagnostics) error {
	for _, d := range diags {
		if d.Severity != hcl.DiagError {
			continue
		}
		text := strings.TrimSuffix(d.Summary, ".")
		if d.Detail != "" {
			text += ": " + strings.TrimSuffix(strings.ReplaceAll(d.Detail, "\n", " "), ".")
		}
		if d.Subject != nil {
			text = where(*d.Subject) + ": " + text
		}
		return fmt.Errorf("%s: %w", text, errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("%w: %w", diags, errdefs.ErrInvalidArgument)
}
