package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
	bolt "go.etcd.io/bbolt"
)

// Where containerd's plugins keep their files, below its root.
const (
	contentDir  = "io.containerd.content.v1.content"
	metadataDir = "io.containerd.metadata.v1.bolt"
	database    = "meta.db"
	// namespace is the one that the kubelet's images are in.
	namespace = "k8s.io"
)

// stored is an image that is in the store.
type stored struct {
	name   string
	target ispec.Descriptor
	size   int64 // of its layers, compressed, in bytes
}

// fill makes the images and puts them into containerd's store below root,
// which must not have one yet.
func fill(ctx context.Context, root, trees string, list []entry, created time.Time) ([]stored, error) {
	// Modes are those that containerd makes these folders with.
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("create %s: %w", root, err)
	}
	for dir, mode := range map[string]os.FileMode{contentDir: 0o755, metadataDir: 0o711} {
		if err := os.Mkdir(filepath.Join(root, dir), mode); err != nil {
			return nil, fmt.Errorf("create store: %w", err)
		}
	}
	ctx = namespaces.WithNamespace(ctx, namespace)

	// The database of this run, of which the node gets a copy.
	work, err := os.MkdirTemp(root, ".preload-")
	if err != nil {
		return nil, fmt.Errorf("create work folder: %w", err)
	}
	defer os.RemoveAll(work)
	first := filepath.Join(work, database)
	db, closeDB, err := openStore(ctx, root, first, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	defer closeDB()
	if err := db.Update(func(tx *bolt.Tx) error {
		return metadata.NewNamespaceStore(tx).Create(ctx, namespace, nil)
	}); err != nil {
		return nil, fmt.Errorf("create namespace %s: %w", namespace, err)
	}
	result, err := writeImages(ctx, db, trees, list, created)
	if err != nil {
		return nil, err
	}
	if err := closeDB(); err != nil {
		return nil, fmt.Errorf("close %s: %w", first, err)
	}
	if err := copyDatabase(filepath.Join(root, metadataDir, database), first, created); err != nil {
		return nil, err
	}
	return result, verify(ctx, root, result)
}

// openStore opens the content below root as the given database describes it.
func openStore(ctx context.Context, root, path string, opts *bolt.Options) (*metadata.DB, func() error, error) {
	cs, err := local.NewStore(filepath.Join(root, contentDir))
	if err != nil {
		return nil, nil, fmt.Errorf("open content store: %w", err)
	}
	bdb, err := bolt.Open(path, 0o644, opts)
	if err != nil {
		return nil, nil, fmt.Errorf("open %s: %w", path, err)
	}
	db := metadata.NewDB(bdb, cs, nil)
	if !opts.ReadOnly {
		if err := db.Init(ctx); err != nil {
			bdb.Close()
			return nil, nil, fmt.Errorf("initialize %s: %w", path, err)
		}
	}
	return db, bdb.Close, nil
}

// verify reads the store as containerd will.
func verify(ctx context.Context, root string, want []stored) error {
	path := filepath.Join(root, metadataDir, database)
	db, closeDB, err := openStore(ctx, root, path, &bolt.Options{ReadOnly: true})
	if err != nil {
		return err
	}
	defer closeDB()
	have := metadata.NewImageStore(db)
	for _, w := range want {
		img, err := have.Get(ctx, w.name)
		if err != nil {
			return fmt.Errorf("verify %s: %w", w.name, err)
		}
		ok, _, _, missing, err := images.Check(ctx, db.ContentStore(), img.Target, platforms.Default())
		if err != nil {
			return fmt.Errorf("verify %s: %w", w.name, err)
		}
		if !ok || len(missing) > 0 {
			return fmt.Errorf("verify %s: %d blobs are missing", w.name, len(missing))
		}
	}
	return nil
}
