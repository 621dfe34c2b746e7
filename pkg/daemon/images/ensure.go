package images

import (
	"context"
	"fmt"
	"strings"

	"github.com/distribution/reference"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/stack"
)

// ForStack is the service as the stages of the stack see it.
type ForStack struct {
	*Service
	// Address is the registry endpoint's on this host.
	Address func() string
}

// Ensure implements stack.Images.
func (s ForStack) Ensure(ctx context.Context, name string, p stack.Progress) (stack.Image, error) {
	sources := stack.SourcesOf(ctx)
	got, err := s.Pull(ctx, api.ImagePull{Name: name, Resolve: true, Offline: sources.Offline}, func(f api.Frame) { note(f, p) })
	if err != nil {
		return stack.Image{}, err
	}
	img, err := s.Store.Resolve(name)
	if err != nil {
		return stack.Image{}, err
	}
	named, err := reference.ParseNormalizedNamed(img.Name)
	if err != nil {
		return stack.Image{}, fmt.Errorf("image %s: %w", img.Name, err)
	}
	from := got.From
	if archive := sources.Archive(img.Name); archive != "" && !got.Fresh {
		from = "archive " + archive
	}
	found := stack.Image{
		Ref:  s.Address() + "/" + reference.FamiliarString(named),
		Name: img.Name, Digest: img.Descriptor.Digest.String(), ID: img.ID.String(), From: from, Source: img.Source,
	}
	p.Image(found)
	return found, nil
}

// note makes of what a pull or a build reports what a step shows of it.
func note(f api.Frame, p stack.Progress) {
	switch {
	case f.Progress != nil:
		p.Bytes(f.Progress.Done, f.Progress.Total)
	case f.Build != nil && f.Build.Status == api.BuildRunning:
		p.Note("building image %s: %s", f.Build.Recipe, oneLine(f.Build.Instruction))
	case f.Warning != "":
		p.Note("%s", f.Warning)
	}
}

// oneLine is the beginning of an instruction.
func oneLine(s string) string {
	const most = 60
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
