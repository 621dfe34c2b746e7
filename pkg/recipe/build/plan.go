package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// stage is a stage of the Dockerfile of which all is known but its files.
type stage struct {
	name  string
	base  origin
	steps []*step
	key   digest.Digest // of its file system
	// config is what the stage's image would have, with its history's beginning
	// from the base.
	config dockerspec.DockerOCIImage
	env    environ // what expansions and RUN see: ENV and ARG
	args   []instructions.KeyValuePairOptional
	// triggers are its ONBUILDs, for stages that are FROM it.
	triggers []string
}

// step is one instruction.
type step struct {
	stage       *stage
	number      int // from 1
	line        int
	instruction string // as written
	history     ispec.History
	key         digest.Digest // of the layer; empty for what changes the configuration only
	work        work          // nil for those
}

// work makes a layer.
type work interface {
	// input is all that the result depends on but the layers below, as JSON.
	input(ctx context.Context) (any, error)
	// sources are where files are taken from.
	sources() []origin
	run(x *execution, r *run) error
}

// origin is where files are taken from: one of its fields is set, or none for
// an empty tree.
type origin struct {
	stage  *stage
	image  *image.Image
	folder *folder
}

// folder is a build context.
type folder struct {
	name string
	tree filecopy.Tree
	// rootfs says that the owners of files are meant as they are.
	rootfs bool
}

// key identifies the files of an origin; a folder's depends on which are taken.
func (o origin) key() digest.Digest {
	switch {
	case o.stage != nil:
		return o.stage.key
	case o.image != nil:
		return o.image.ChainIDs[len(o.image.ChainIDs)-1]
	}
	return ""
}

// planner follows the instructions of a Dockerfile without running any.
type planner struct {
	ctx     context.Context //nolint:containedctx // of one call of plan
	b       *Builder
	o       *Options
	file    *file
	expand  *expander
	global  environ
	history int // bytes, so far
	ports   int // named so far
	folders map[string]*folder
	images  map[string]*image.Image
	stages  map[int]*stage
	under   map[int]bool // stages that are being planned
}

// plan returns the stage to build, with all that it needs.
func (b *Builder) plan(ctx context.Context, o *Options) (*stage, error) {
	f, problems := parse(o.Dockerfile)
	if err := problemsError(problems); err != nil {
		return nil, err
	}
	p := &planner{
		ctx: ctx, b: b, o: o, file: f, expand: newExpander(f.escape),
		folders: map[string]*folder{}, images: map[string]*image.Image{},
		stages: map[int]*stage{}, under: map[int]bool{},
	}
	var err error
	if p.global, err = f.expandGlobals(p.expand, o.Args, o.Target); err != nil {
		return nil, err
	}
	if err := o.settings(p.global); err != nil {
		return nil, err
	}
	target := len(f.stages) - 1
	if o.Target != "" {
		var ok bool
		if target, ok = p.find(o.Target, len(f.stages)); !ok {
			return nil, fmt.Errorf("the Dockerfile has no stage %q (it has: %s): %w", o.Target, strings.Join(p.names(), ", "), errdefs.ErrNotFound)
		}
	}
	return p.stage(target)
}

// find returns the last stage before a number that has a name, or that number.
func (p *planner) find(name string, before int) (int, bool) {
	for i := before - 1; i >= 0; i-- {
		if st := p.file.stages[i]; st.Name != "" && strings.EqualFold(st.Name, name) {
			return i, true
		}
	}
	n, err := strconv.Atoi(name)
	return n, err == nil && n >= 0 && n < before
}

func (p *planner) names() (names []string) {
	for i, st := range p.file.stages {
		names = append(names, stageName(i, st))
	}
	return names
}

func stageName(i int, st *instructions.Stage) string {
	if st.Name != "" {
		return st.Name
	}
	return strconv.Itoa(i)
}

// stage plans a stage, once.
func (p *planner) stage(i int) (*stage, error) {
	if s := p.stages[i]; s != nil {
		return s, nil
	}
	st := p.file.stages[i]
	s := &stage{name: stageName(i, st)}
	fail := func(err error) (*stage, error) {
		return nil, at(s.name, lineIn(st.Location), st.SourceCode, err)
	}
	if p.under[i] {
		return fail(fmt.Errorf("the stage needs itself: %w", errdefs.ErrInvalidArgument))
	}
	p.under[i] = true
	defer delete(p.under, i)

	word := func(s string) (string, error) { return p.expand.word(s, p.global) }
	baseName, err := word(st.BaseName)
	if err != nil {
		return fail(err)
	}
	if baseName == "" {
		return fail(fmt.Errorf("the name %s of the base is empty: %w", st.BaseName, errdefs.ErrInvalidArgument))
	}
	if platform, err := word(st.Platform); err != nil {
		return fail(err)
	} else if st.Platform != "" {
		if err := checkPlatform(platform); err != nil {
			return fail(fmt.Errorf("platform %s: %w: %w", st.Platform, err, errdefs.ErrNotImplemented))
		}
	}
	if st.Name != "" && p.o.Contexts[st.Name] != "" { // it takes the stage's place
		if s.base, err = p.outside(st.Name); err != nil {
			return fail(err)
		}
		st = &instructions.Stage{Name: st.Name, BaseName: st.Name, Location: st.Location, SourceCode: st.SourceCode}
	} else if s.base, err = p.origin(baseName, i); err != nil {
		return fail(err)
	}
	if err := p.begin(s); err != nil {
		return fail(err)
	}
	if err := p.instructions(s, st, i); err != nil {
		return fail(err)
	}
	p.stages[i] = s
	return s, nil
}

// origin finds what a name means in the stage of this number: an earlier
// stage, a context, an image, or nothing.
func (p *planner) origin(name string, stage int) (origin, error) {
	if i, ok := p.find(name, stage); ok {
		s, err := p.stage(i)
		return origin{stage: s}, err
	}
	if name == "scratch" {
		return origin{}, nil
	}
	return p.outside(name)
}

// source is origin for COPY --from and mounts, which can also name stages that
// come too late.
func (p *planner) source(name string, stage int) (origin, error) {
	if i, ok := p.find(name, len(p.file.stages)); ok && i >= stage {
		if _, early := p.find(name, stage); !early && p.o.Contexts[name] == "" {
			return origin{}, fmt.Errorf("stage %s comes later than where files are taken from it: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return p.origin(name, stage)
}

// outside finds a context or an image.
func (p *planner) outside(name string) (origin, error) {
	if name == "" {
		f, err := p.context("")
		return origin{folder: f}, err
	}
	value, ok := p.o.Contexts[name]
	if !ok {
		value, ok = p.o.Contexts[strings.TrimSuffix(name, ":latest")]
	}
	ref, isImage := strings.CutPrefix(value, "image:")
	if !ok {
		ref, isImage = name, true
	}
	if !isImage {
		f, err := p.context(name)
		return origin{folder: f}, err
	}
	img, err := p.image(ref)
	return origin{image: img}, err
}

// context is a folder by name; "" is that of the build itself.
func (p *planner) context(name string) (*folder, error) {
	if f := p.folders[name]; f != nil {
		return f, nil
	}
	dir, ignoreFile := p.o.ContextDir, p.o.IgnoreFile
	f := &folder{name: name}
	if name != "" {
		dir, f.rootfs = strings.CutPrefix(p.o.Contexts[name], "rootfs:")
		ignoreFile = ""
	}
	if dir == "" {
		return nil, fmt.Errorf("there is no build context to take files from: %w", errdefs.ErrInvalidArgument)
	}
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("context %s: folder %q is not an absolute path: %w", name, dir, errdefs.ErrInvalidArgument)
	}
	f.tree = filecopy.Tree{Root: dir, Cache: p.b.usage.digests()}
	if !f.rootfs {
		var err error
		if f.tree.Ignore, err = filecopy.LoadIgnore(dir, ignoreFile); err != nil {
			return nil, fmt.Errorf("context %s: %w", dir, err)
		}
	}
	p.folders[name] = f
	return f, nil
}

// image finds an image in the store, or has it pulled.
func (p *planner) image(ref string) (*image.Image, error) {
	if img := p.images[ref]; img != nil {
		return img, nil
	}
	img, err := p.b.Store.Resolve(ref)
	if errdefs.IsNotFound(err) && p.b.Pull != nil {
		img, err = p.b.Pull(p.ctx, ref)
	}
	if err != nil {
		return nil, err
	}
	p.images[ref] = &img
	return &img, nil
}

// begin gives a stage what its base has.
func (p *planner) begin(s *stage) error {
	switch {
	case s.base.stage != nil:
		base := s.base.stage
		s.config = cloneConfig(base.config)
		s.env, s.args = base.env, append(s.args, base.args...)
		s.config.Config.OnBuild = base.triggers
	case s.base.image != nil:
		config, err := p.b.readConfig(*s.base.image)
		if err != nil {
			return err
		}
		config.Created = nil
		s.config = config
	default:
		s.config = dockerspec.DockerOCIImage{}
		s.config.Platform = ispec.Platform{OS: "linux", Architecture: strings.TrimPrefix(hostPlatform(), "linux/")}
		s.config.Config.WorkingDir = "/"
	}
	config := &s.config.Config
	if _, ok := environ(config.Env).get("PATH"); !ok {
		config.Env = append(config.Env, "PATH="+defaultPath)
	}
	if s.base.stage == nil {
		s.env = environ(config.Env)
	}
	s.key = s.base.key()
	return nil
}

// readConfig reads an image's configuration with what only Docker's has.
func (b *Builder) readConfig(img image.Image) (config dockerspec.DockerOCIImage, err error) {
	f, err := b.Store.OpenBlob(img.ID)
	if err != nil {
		return config, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, image.DefaultLimits().Document))
	if err != nil {
		return config, fmt.Errorf("read config %s: %w", img.ID, err)
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return config, fmt.Errorf("decode config %s: %w: %w", img.ID, err, errdefs.ErrInvalidArgument)
	}
	return config, nil
}
