package image

import (
	"archive/tar"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/image/layer"
)

// What an ImageFile.Change says.
const (
	changeAdded   = "added"
	changeChanged = "changed"
	changeRemoved = "removed"
)

// maxPath is the longest path of the kernel, in bytes (PATH_MAX, limits.h).
const maxPath = 4095

// layersView is the tree that layers make together, one after the other. It
// follows overlayfs: a file hides what had its name, a directory joins the
// one that had it, unless a whiteout or an opaque mark says otherwise.
type layersView struct {
	root    *viewNode
	now     *viewLayer
	entries int
	limit   int // of entries in all layers
}

// viewLayer is one layer: its row, and what it has done to each path.
type viewLayer struct {
	api.ImageLayer
	changes map[string]*viewChange
}

type viewChange struct {
	file *viewFile // what is there, or was
	kind string
	name *viewNode // nil: removed
}

// viewFile is an inode: hard links share it.
type viewFile struct {
	layer *viewLayer
	size  int64
	mode  string
	uid   int
	gid   int
	names int
}

// viewNode is a name in the tree.
type viewNode struct {
	dir      bool
	file     *viewFile
	link     string     // of a symlink
	seen     *viewLayer // the topmost that has the name
	children map[string]*viewNode
	wasted   bool // by a layer above
}

func (v *layersView) begin(row *viewLayer) {
	row.changes = map[string]*viewChange{}
	v.now = row
}

// entry applies one entry of the current layer's tar.
func (v *layersView) entry(hdr *tar.Header) error {
	if v.entries++; v.entries > v.limit {
		return fmt.Errorf("the image has more than %d entries: %w", v.limit, errdefs.ErrInvalidArgument)
	}
	name, err := layer.EntryPath(hdr.Name)
	if err != nil {
		return err
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader || name == "." {
		return nil
	}
	if len(name) > maxPath {
		return fmt.Errorf("its path has %d bytes, at most %d can be unpacked: %w", len(name), maxPath, errdefs.ErrInvalidArgument)
	}
	up, base := path.Split(name)
	dir, up, err := v.parent(path.Clean("./"+up), 0)
	if err != nil {
		return err
	}
	switch {
	case base == layer.WhiteoutOpaque:
		v.removeOlder(dir, up)
	case strings.HasPrefix(base, layer.WhiteoutMeta):
	case strings.HasPrefix(base, layer.WhiteoutPrefix):
		v.whiteout(dir, path.Join(up, strings.TrimPrefix(base, layer.WhiteoutPrefix)))
	case hdr.Typeflag == tar.TypeChar && hdr.Devmajor == 0 && hdr.Devminor == 0:
		v.whiteout(dir, path.Join(up, base))
	default:
		return v.put(dir, path.Join(up, base), hdr)
	}
	return nil
}

// parent returns the directory at name, with the path that it really has, and
// makes what is missing of it, as unpacking does. Symlinks of this layer are
// followed; of those below unpacking knows nothing.
func (v *layersView) parent(name string, hops int) (*viewNode, string, error) {
	node, at := v.root, "."
	if name == "." {
		return node, at, nil
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		next := node.children[part]
		at = path.Join(at, part)
		if next != nil && next.link != "" && next.seen == v.now {
			if hops > 40 { // as many as the kernel follows (path_resolution(7))
				return nil, "", fmt.Errorf("symlinks go round in a circle: %w", errdefs.ErrInvalidArgument)
			}
			rest := path.Join(append([]string{path.Dir(at), next.link}, parts[i+1:]...)...)
			if path.IsAbs(next.link) || rest == ".." || strings.HasPrefix(rest, "../") {
				return nil, "", fmt.Errorf("a symlink leads out of the layer: %w", errdefs.ErrInvalidArgument)
			}
			return v.parent(rest, hops+1)
		}
		if next == nil || !next.dir {
			if v.entries++; v.entries > v.limit {
				return nil, "", fmt.Errorf("the image has more than %d entries: %w", v.limit, errdefs.ErrInvalidArgument)
			}
			if err := v.put(node, at, &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}); err != nil {
				return nil, "", err
			}
			next = node.children[part]
		}
		next.seen = v.now
		node = next
	}
	return node, at, nil
}

// put makes an entry at name, in dir.
func (v *layersView) put(dir *viewNode, name string, hdr *tar.Header) error {
	base := path.Base(name)
	old := dir.children[base]
	file := &viewFile{layer: v.now, size: hdr.Size, mode: lsMode(hdr), uid: hdr.Uid, gid: hdr.Gid}
	node := &viewNode{dir: hdr.Typeflag == tar.TypeDir, file: file, seen: v.now}
	switch hdr.Typeflag {
	case tar.TypeDir:
		file.size = 0
		if old != nil && old.dir {
			old.seen = v.now
			v.redo(old, name, file)
			return nil
		}
	case tar.TypeSymlink:
		node.link, file.size = hdr.Linkname, 0
	case tar.TypeLink:
		target, err := v.linkTarget(hdr.Linkname)
		if err != nil {
			return err
		}
		node.file, node.link = target.file, target.link
	case tar.TypeReg, tar.TypeGNUSparse:
	default:
		file.size = 0
	}
	kind := changeAdded
	if old != nil {
		kind = changeChanged
		v.drop(old, name, false)
	}
	if node.file.names++; node.file.names == 1 {
		v.now.Unpacked += node.file.size
	}
	if dir.children == nil {
		dir.children = map[string]*viewNode{}
	}
	dir.children[base] = node
	v.change(name, kind, node.file, node)
	return nil
}

// linkTarget finds the file of this layer that a hard link names.
func (v *layersView) linkTarget(link string) (*viewNode, error) {
	name, err := layer.EntryPath(link)
	if err != nil {
		return nil, fmt.Errorf("hard link to %q: %w", link, err)
	}
	node := v.root
	for part := range strings.SplitSeq(name, "/") {
		if node = node.children[part]; node == nil {
			break
		}
	}
	if node == nil || node.dir || node.file.layer != v.now {
		return nil, fmt.Errorf("hard link to %q: no such file in this layer: %w", link, errdefs.ErrInvalidArgument)
	}
	return node, nil
}

// redo lets this layer's directory join the one that is there. Tars repeat
// the directories of every file, so that only a new mode or owner is a change.
func (v *layersView) redo(old *viewNode, name string, file *viewFile) {
	before := old.file
	old.file = file
	if c := v.now.changes[name]; c != nil && c.kind != changeRemoved {
		c.file = file
		return
	}
	if before.mode != file.mode || before.uid != file.uid || before.gid != file.gid || v.now.changes[name] != nil {
		v.change(name, changeChanged, file, old)
	}
}

// whiteout removes what the layers below have at name. What this layer has
// there itself stays.
func (v *layersView) whiteout(dir *viewNode, name string) {
	node := dir.children[path.Base(name)]
	switch {
	case node == nil:
	case node.seen == v.now:
		if node.dir {
			v.removeOlder(node, name)
		}
	default:
		v.drop(node, name, true)
		delete(dir.children, path.Base(name))
	}
}

// removeOlder removes what the layers below have in a directory.
func (v *layersView) removeOlder(dir *viewNode, name string) {
	for base, child := range dir.children {
		at := path.Join(name, base)
		switch {
		case child.seen != v.now:
			v.drop(child, at, true)
			delete(dir.children, base)
		case child.dir:
			v.removeOlder(child, at)
		}
	}
}

// drop takes a name off its file, and all below it when it is a directory.
// removed says that nothing of this layer takes its place.
func (v *layersView) drop(node *viewNode, name string, removed bool) {
	node.wasted = true
	if removed {
		v.change(name, changeRemoved, node.file, nil)
	}
	for base, child := range node.children {
		v.drop(child, path.Join(name, base), true)
	}
	if node.dir {
		return
	}
	if node.file.names--; node.file.names > 0 {
		return
	}
	if node.file.layer == v.now { // two entries of one name
		v.now.Unpacked -= node.file.size
	} else {
		node.file.layer.Wasted += node.file.size
	}
}

// change records what this layer does to name. What it has removed and made
// anew it has changed; what it has made and removed has never been.
func (v *layersView) change(name, kind string, file *viewFile, node *viewNode) {
	before := v.now.changes[name]
	switch {
	case before == nil:
	case before.kind == changeRemoved && kind == changeAdded:
		kind = changeChanged
	case before.kind == changeAdded && kind == changeChanged:
		kind = changeAdded
	case before.kind == changeAdded && kind == changeRemoved:
		delete(v.now.changes, name)
		return
	}
	v.now.changes[name] = &viewChange{file: file, kind: kind, name: node}
}

// finish counts the layer's changes, and lists them for tree.
func (l *viewLayer) finish(tree bool) {
	for name, c := range l.changes {
		switch c.kind {
		case changeAdded:
			l.Added++
		case changeChanged:
			l.Changed++
		case changeRemoved:
			l.Removed++
		}
		if !tree {
			continue
		}
		l.Tree = append(l.Tree, api.ImageFile{
			Path: name, Change: c.kind, Size: c.file.size, Mode: c.file.mode, Wasted: c.name != nil && c.name.wasted,
		})
	}
	// Of a directory and its files the directory comes first, and next to them.
	slices.SortFunc(l.Tree, func(a, b api.ImageFile) int {
		return slices.Compare(strings.Split(a.Path, "/"), strings.Split(b.Path, "/"))
	})
}

// lsMode is an entry's type and permissions as ls(1) shows them.
func lsMode(hdr *tar.Header) string {
	kind := map[byte]byte{
		tar.TypeDir: 'd', tar.TypeSymlink: 'l', tar.TypeFifo: 'p', tar.TypeChar: 'c', tar.TypeBlock: 'b',
	}[hdr.Typeflag]
	if kind == 0 {
		kind = '-'
	}
	out := []byte{kind}
	for i := range 9 {
		if hdr.Mode&(1<<(8-i)) == 0 {
			out = append(out, '-')
		} else {
			out = append(out, "rwx"[i%3])
		}
	}
	for i, bit := range []int64{0o4000, 0o2000, 0o1000} {
		if hdr.Mode&bit == 0 {
			continue
		}
		mark, at := "sst"[i], 3*(i+1)
		if out[at] == '-' {
			mark -= 'a' - 'A' // without the x below it
		}
		out[at] = mark
	}
	return string(out)
}
