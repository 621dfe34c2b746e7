package cli

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) imageCommand() *cli.Command {
	return &cli.Command{
		Name: "image", Category: groupImages, Usage: "work with images: get them, build them, look inside",
		Description: `
EXAMPLES
  sandbox image build prometheus
  sandbox image layers prometheus
  sandbox image import --from docker my-app`,
		Subcommands: []*cli.Command{
			p.imageList("ls", "list images", ""),
			p.imagePull("pull", "bring images in from a registry", ""),
			p.imageBuild("build", "build images from recipes, or from a Dockerfile", ""),
			p.imageLint(), p.imageNew(),
			p.imageLayers(), p.imageInspect(), p.imageSBOM(),
			p.imageImport(), p.imageExport(),
			p.imageTag(), p.imageRemove("rm", "remove images", ""), p.imagePrune(),
		},
	}
}

// The commands that people who know docker look for at the top.

func (p *program) imagesCommand() *cli.Command {
	return p.imageList("images", "list images (also: image ls)", groupImages)
}

func (p *program) pullCommand() *cli.Command {
	return p.imagePull("pull", "bring images in from a registry (also: image pull)", groupImages)
}

func (p *program) buildCommand() *cli.Command {
	return p.imageBuild("build", "build an image (also: image build)", groupImages)
}

func (p *program) rmiCommand() *cli.Command {
	return p.imageRemove("rmi", "remove images (also: image rm)", groupImages)
}

func (p *program) imageList(name, usage, group string) *cli.Command {
	return &cli.Command{
		Name: name, Category: group, Usage: usage,
		Description: `
EXAMPLES
  sandbox images
  sandbox images -q --no-trunc
  sandbox image ls --json
  sandbox image ls --recipes`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "print only the IDs", DisableDefaultText: true},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print IDs in full", DisableDefaultText: true},
			&cli.BoolFlag{Name: "recipes", Usage: "list what can be built, instead", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			if c.Bool("recipes") {
				return p.recipeList(ctx, c.Bool("json"), c.Bool("quiet"))
			}
			images, err := p.client().Images(ctx)
			if err != nil {
				return err
			}
			if images == nil {
				images = []api.Image{}
			}
			out, full := p.Term.Stdout(), c.Bool("no-trunc")
			switch {
			case c.Bool("json"):
				return ui.JSON(out, images)
			case c.Bool("quiet"):
				for _, i := range images {
					fmt.Fprintln(out, imageID(i.ID, full))
				}
				return nil
			}
			t := ui.Table{Header: []string{"IMAGE", "IMAGE ID", "CREATED", "SIZE", "SOURCE"}, Right: []int{3}}
			for _, i := range images {
				t.Add(imageName(i.Name), imageID(i.ID, full), ui.Ago(time.Now(), i.Created), ui.Bytes(i.Size), ui.Plain(i.Source))
			}
			return t.Write(out, p.Term.OutStyle())
		}),
	}
}

// recipeList lists the recipes that build knows by name.
func (p *program) recipeList(ctx context.Context, asJSON, quiet bool) error {
	folder, err := absolute(os.Getenv("SANDBOX_RECIPES"))
	if err != nil {
		return err
	}
	recipes, err := p.client().Recipes(ctx, folder)
	out := p.Term.Stdout()
	switch {
	case err != nil:
		return err
	case asJSON:
		return ui.JSON(out, recipes)
	}
	t := ui.Table{Header: []string{"RECIPE", "VERSION", "WHAT IT IS"}}
	for _, r := range recipes {
		if quiet {
			fmt.Fprintln(out, ui.Plain(r.Name))
			continue
		}
		what := ui.Plain(r.Description)
		if r.UpstreamOnly {
			what += p.Term.OutStyle().Dim(" (not built: " + ui.Plain(r.Upstream) + ")")
		}
		t.Add(ui.Plain(r.Name), ui.Plain(r.Version), what)
	}
	if quiet {
		return nil
	}
	return t.Write(out, p.Term.OutStyle())
}

// imageName is a name for a table; docker shows the lack of one so, too.
func imageName(name string) string {
	if name == "" {
		return "<none>"
	}
	return ui.Plain(name)
}

// imageID is a digest in full, or its first 12 digits.
func imageID(id string, full bool) string {
	if full {
		return id
	}
	return shortID(id, false)
}

func (p *program) imageInspect() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "print all about images, as JSON: digests, configuration, who uses them",
		ArgsUsage: "IMAGE...",
		Description: `
EXAMPLES
  sandbox image inspect toolbox
  sandbox image inspect toolbox | jq -r '.[0].config.config.Cmd'
  sandbox image inspect toolbox | jq -r '.[0].digest'`,
		Flags: []cli.Flag{&cli.BoolFlag{Name: "json", Hidden: true}}, // it is JSON anyway
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			found := []api.ImageDetail{}
			var failed error
			for _, ref := range c.Args().Slice() {
				img, err := p.client().InspectImage(ctx, ref)
				if err != nil {
					failed = joinErrors(failed, err)
					continue
				}
				found = append(found, img)
			}
			if err := ui.JSON(p.Term.Stdout(), found); err != nil {
				return err
			}
			return failed
		}),
	}
}

func (p *program) imageTag() *cli.Command {
	return &cli.Command{
		Name: "tag", Usage: "give an image a further name",
		ArgsUsage: "IMAGE NAME",
		Description: `
An image that had the name loses it.

EXAMPLES
  sandbox image tag app:latest app:v1
  sandbox image tag 3c5f1d9e8a7b registry.example/team/app:v1`,
		Action: p.action(2, 2, func(ctx context.Context, c *cli.Context) error {
			return p.client().TagImage(ctx, c.Args().Get(0), c.Args().Get(1))
		}),
	}
}

func (p *program) imageRemove(name, usage, group string) *cli.Command {
	return &cli.Command{
		Name: name, Category: group, Usage: usage,
		ArgsUsage: "IMAGE...",
		Description: `
Takes a name away; with the last one the image goes, and what only it has. An
image that containers use stays, unless forced: then it loses the name, and they
keep their files.

EXAMPLES
  sandbox image rm app:v1
  sandbox rmi $(sandbox images -q)
  sandbox image rm --force 3c5f1d9e8a7b      with all its names`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "also if containers use it, and all names of an ID", DisableDefaultText: true},
		},
		Action: p.action(1, -1, func(ctx context.Context, c *cli.Context) error {
			return p.each(ctx, c.Args().Slice(), 1, func(ctx context.Context, ref string) error {
				return p.client().RemoveImage(ctx, ref, c.Bool("force"))
			})
		}),
	}
}

func (p *program) imagePrune() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "remove what nobody needs: nameless images, old build cache",
		Description: `
Removes images without a name, layers and blobs that no image, container or
build uses, and what the build cache has not used for two weeks. The image that
is part of sandbox stays.

EXAMPLES
  sandbox image prune
  sandbox image prune --all --dry-run
  sandbox image prune --all --build-cache`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "all", Aliases: []string{"a"}, Usage: "also images with names that no container uses", DisableDefaultText: true},
			&cli.BoolFlag{Name: "build-cache", Usage: "also the whole build cache: the next builds start anew", DisableDefaultText: true},
			&cli.BoolFlag{Name: "dry-run", Usage: "only print which images would go", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(0, 0, func(ctx context.Context, c *cli.Context) error {
			got, err := p.client().PruneImages(ctx, api.ImagePrune{All: c.Bool("all"), BuildCache: c.Bool("build-cache"), DryRun: c.Bool("dry-run")})
			if err != nil {
				return err
			}
			out := p.Term.Stdout()
			if c.Bool("json") {
				return ui.JSON(out, got)
			}
			for _, name := range got.Images {
				fmt.Fprintln(out, ui.Plain(name))
			}
			if !c.Bool("dry-run") {
				fmt.Fprintln(p.Term.Stderr(), reclaimed(got))
			}
			return nil
		}),
	}
}

// reclaimed says what a prune has given back.
func reclaimed(got api.Pruned) string {
	parts := []string{counted(len(got.Images), "image"), counted(got.Layers, "layer"), counted(got.Blobs, "blob")}
	s := fmt.Sprintf("reclaimed %s: %s", ui.Bytes(got.Bytes), strings.Join(parts, ", "))
	if got.Cache > 0 {
		s += fmt.Sprintf("; %s of it from the build cache", ui.Bytes(got.Cache))
	}
	return s
}

// counted is a number of things.
func counted(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}
