package cli

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) imageLayers() *cli.Command {
	return &cli.Command{
		Name: "layers", Usage: "show what each instruction of an image's build did",
		ArgsUsage: "IMAGE",
		Description: `
SIZE is what the layer takes in the store, UNPACKED what its files take. FILES are
those added, changed and removed. WASTED is what a later layer replaces or removes:
it is in the image, and nobody sees it.

EXAMPLES
  sandbox image layers prometheus
  sandbox image layers --tree prometheus
  sandbox image layers --json prometheus | jq '.[] | select(.wasted > 0)'`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "tree", Usage: "list the files of each layer", DisableDefaultText: true},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print instructions in full", DisableDefaultText: true},
			jsonFlag(),
		},
		Action: p.action(1, 1, func(ctx context.Context, c *cli.Context) error {
			layers, err := p.client().ImageLayers(ctx, c.Args().First(), c.Bool("tree"))
			switch {
			case err != nil:
				return err
			case c.Bool("json"):
				return ui.JSON(p.Term.Stdout(), layers)
			case c.Bool("tree"):
				p.printTree(layers)
				return nil
			}
			width := maxLabel
			if _, columns := p.Term.Size(); columns > 0 {
				width = max(20, columns-55)
			}
			if c.Bool("no-trunc") {
				width = 1 << 20
			}
			style := p.Term.OutStyle()
			return layersTable(layers, style, width).Write(p.Term.Stdout(), style)
		}),
	}
}

// layersTable has a row for each instruction, the first one first, and a total.
func layersTable(layers []api.ImageLayer, style ui.Style, width int) *ui.Table {
	t := &ui.Table{Header: []string{"INSTRUCTION", "SIZE", "UNPACKED", "FILES", "WASTED"}, Right: []int{1, 2, 4}}
	var total api.ImageLayer
	for _, l := range layers {
		instruction := ui.Truncate(oneLine(l.Instruction), width)
		if l.Empty {
			t.Add(style.Dim(instruction))
			continue
		}
		t.Add(instruction, ui.Bytes(l.Size), ui.Bytes(l.Unpacked), layerFiles(style, l), wasted(style, l.Wasted))
		total.Size += l.Size
		total.Unpacked += l.Unpacked
		total.Wasted += l.Wasted
		total.Added += l.Added
		total.Changed += l.Changed
		total.Removed += l.Removed
	}
	t.Add(style.Bold("total"), ui.Bytes(total.Size), ui.Bytes(total.Unpacked), layerFiles(style, total), wasted(style, total.Wasted))
	return t
}

// oneLine is an instruction as one line.
func oneLine(instruction string) string {
	return ui.Plain(strings.Join(strings.Fields(instruction), " "))
}

func layerFiles(style ui.Style, l api.ImageLayer) string {
	return strings.Join([]string{
		style.Green(fmt.Sprintf("+%d", l.Added)), style.Yellow(fmt.Sprintf("~%d", l.Changed)), style.Red(fmt.Sprintf("-%d", l.Removed)),
	}, " ")
}

func wasted(style ui.Style, n int64) string {
	if n == 0 {
		return ""
	}
	return style.Yellow(ui.Bytes(n))
}

// printTree prints the files of each layer below its instruction.
func (p *program) printTree(layers []api.ImageLayer) {
	out, style := p.Term.Stdout(), p.Term.OutStyle()
	for i, l := range layers {
		if l.Empty {
			fmt.Fprintln(out, style.Dim(oneLine(l.Instruction)))
			continue
		}
		note := fmt.Sprintf("%s, %s", ui.Bytes(l.Unpacked), layerFiles(style, l))
		if l.Wasted > 0 {
			note += ", " + style.Yellow(ui.Bytes(l.Wasted)+" wasted")
		}
		fmt.Fprintf(out, "%s  %s\n", style.Bold(oneLine(l.Instruction)), note)
		for _, line := range treeLines(style, l.Tree) {
			fmt.Fprintln(out, line)
		}
		if i < len(layers)-1 {
			fmt.Fprintln(out)
		}
	}
}

// treeNode is a folder or file of a layer.
type treeNode struct {
	file     *api.ImageFile // nil for a folder that the layer only passes through
	name     string
	children []*treeNode
}

// treeLines draws files as a tree, as tree(1) does.
func treeLines(style ui.Style, files []api.ImageFile) []string {
	root := &treeNode{}
	nodes := map[string]*treeNode{"": root}
	var node func(p string) *treeNode
	node = func(p string) *treeNode {
		p = strings.Trim(path.Clean("/"+p), "/")
		if n := nodes[p]; n != nil {
			return n
		}
		n := &treeNode{name: path.Base(p)}
		nodes[p] = n
		parent := node(path.Dir("/" + p))
		parent.children = append(parent.children, n)
		return n
	}
	for i := range files {
		node(files[i].Path).file = &files[i]
	}
	var lines []string
	var draw func(n *treeNode, indent string)
	draw = func(n *treeNode, indent string) {
		slices.SortFunc(n.children, func(a, b *treeNode) int { return strings.Compare(a.name, b.name) })
		for i, child := range n.children {
			branch, deeper := "├── ", "│   "
			if i == len(n.children)-1 {
				branch, deeper = "└── ", "    "
			}
			lines = append(lines, style.Dim(indent+branch)+treeEntry(style, child))
			draw(child, indent+deeper)
		}
	}
	draw(root, "")
	return lines
}

// treeEntry is one file: its change, name, size and mode.
func treeEntry(style ui.Style, n *treeNode) string {
	name := ui.Plain(n.name)
	if n.file == nil {
		return "  " + style.Dim(name+"/")
	}
	f := n.file
	dir := strings.HasPrefix(f.Mode, "d")
	if dir {
		name += "/"
	}
	mark := map[string]string{"added": style.Green("+ " + name), "changed": style.Yellow("~ " + name), "removed": style.Red("- " + name)}[f.Change]
	if f.Change == "removed" {
		return mark
	}
	if !dir {
		mark += "  " + ui.Bytes(f.Size)
	}
	mark += "  " + style.Dim(f.Mode)
	if f.Wasted {
		mark += "  " + style.Yellow("wasted")
	}
	return mark
}
