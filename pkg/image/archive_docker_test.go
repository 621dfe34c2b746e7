package image

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// dockerConfig is a configuration as Docker writes it, with fields that OCI
// does not have.
func dockerConfig(layers ...[]byte) string {
	var ids []string
	for _, l := range layers {
		ids = append(ids, fmt.Sprintf("%q", digest.FromBytes(l)))
	}
	return fmt.Sprintf(`{"architecture":%q,"os":"linux","docker_version":"20.10.24","container":"x",`+
		`"config":{"Cmd":["sh"],"Healthcheck":{"Test":["CMD","true"],"Interval":1000}},"rootfs":{"type":"layers","diff_ids":[%s]}}`,
		runtime.GOARCH, strings.Join(ids, ","))
}

func manifestJSON(t testing.TB, images ...dockerImage) tar.Header {
	t.Helper()
	data, err := json.Marshal(images)
	must(t, err)
	return file("manifest.json", string(data))
}

// Archives of Docker in the forms in which they are found.
func TestImportDocker(t *testing.T) {
	a, b := tarOf(t, file("a", "1")), tarOf(t, file("b", "2"))
	config := dockerConfig(a, b)
	packed, err := compress(b)
	must(t, err)
	enc, err := zstd.NewWriter(nil)
	must(t, err)
	zipped := enc.EncodeAll(b, nil)
	tags := []string{"app:v1", "example.org/app:v2"}
	for _, c := range []struct {
		name    string
		entries []tar.Header
		types   []string
	}{
		// docker save before 25: layers in folders, manifest.json towards the end.
		{"save of 20.10", []tar.Header{
			dir("l1/"), file("l1/VERSION", "1.0"), file("l1/json", "{}"), file("l1/layer.tar", string(a)),
			dir("l2/"), file("l2/VERSION", "1.0"), file("l2/json", "{}"), file("l2/layer.tar", string(b)),
			file("id.json", config), manifestJSON(t, dockerImage{"id.json", tags, []string{"l1/layer.tar", "l2/layer.tar"}}), file("repositories", "{}"),
		}, []string{ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayer}},
		// A layer that two images have is a link, forwards or backwards.
		{"links", []tar.Header{
			symlink("l1/layer.tar", "../l3/layer.tar"), file("l2/layer.tar", string(b)), file("l3/layer.tar", string(a)), hardlink("l4.tar", "l2/layer.tar"),
			file("id.json", config), manifestJSON(t, dockerImage{"id.json", tags, []string{"l1/layer.tar", "l4.tar"}}),
		}, []string{ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayer}},
		// podman and crane: flat, compressed, manifest.json first or last.
		{"compressed", []tar.Header{
			manifestJSON(t, dockerImage{"sha256:0123", tags, []string{"./a.tar", "b.tar.gz"}}),
			file("./sha256:0123", config), file("a.tar", string(a)), file("b.tar.gz", string(packed)),
		}, []string{ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayerGzip}},
		{"zstd", []tar.Header{
			file("c.json", config), file("a.tar", string(a)), file("b.tar.zst", string(zipped)), manifestJSON(t, dockerImage{"c.json", tags, []string{"a.tar", "b.tar.zst"}}),
		}, []string{ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayerZstd}},
		{"blobs", []tar.Header{
			file("blobs/sha256/"+digest.FromBytes(a).Encoded(), string(a)), file("blobs/sha256/"+digest.FromBytes(b).Encoded(), string(b)), file("blobs/sha256/"+digest.FromString(config).Encoded(), config),
			manifestJSON(t, dockerImage{"blobs/sha256/" + digest.FromString(config).Encoded(), tags, []string{"blobs/sha256/" + digest.FromBytes(a).Encoded(), "blobs/sha256/" + digest.FromBytes(b).Encoded()}}),
		}, []string{ispec.MediaTypeImageLayer, ispec.MediaTypeImageLayer}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			data := tarOf(t, c.entries...)
			images, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{})
			must(t, err)
			if len(images) != 2 || images[0].Name != "app:v1" || images[1].Name != "example.org/app:v2" || images[0].ID != digest.FromString(config) {
				t.Errorf("images %+v", images)
			}
			img, err := s.Resolve("app:v1")
			must(t, err)
			var types []string
			for _, l := range img.Manifest.Layers {
				types = append(types, l.MediaType)
			}
			if !slices.Equal(types, c.types) || img.Docker.Healthcheck == nil || img.Config.Config.Cmd[0] != "sh" || img.Source != SourceArchive {
				t.Errorf("layers %v, config %+v", types, img.Config)
			}
			dirs, err := s.Unpack(t.Context(), img)
			must(t, err)
			if got := append(listing(t, dirs[0]), listing(t, dirs[1])...); !slices.Equal(got, []string{"b", "a"}) {
				t.Errorf("layers hold %v", got)
			}
			checkClean(t, s)
			again, err := newStore(t).Import(t.Context(), bytes.NewReader(data), ImportOptions{Name: "other"})
			if err != nil || len(again) != 1 || again[0].Name != "other:latest" || again[0].Descriptor.Digest != img.Descriptor.Digest {
				t.Errorf("again, under another name: %+v, %v", again, err)
			}
		})
	}
}

func TestImportDockerWithoutName(t *testing.T) {
	s := newStore(t)
	a := tarOf(t, file("a", "1"))
	config := dockerConfig(a)
	images, err := s.Import(t.Context(), bytes.NewReader(tarOf(t, file("c", config), file("a", string(a)), manifestJSON(t, dockerImage{"c", nil, []string{"a"}}))), ImportOptions{})
	if err != nil || len(images) != 1 || images[0].Name != "" {
		t.Fatalf("images %+v, %v", images, err)
	}
	if img, err := s.Resolve(digest.FromString(config).String()); err != nil || img.ID != images[0].ID {
		t.Errorf("by ID: %v", err)
	}
}

// An archive that is both is read as a layout; its manifest.json may be what
// it likes.
func TestImportBoth(t *testing.T) {
	a := newArchive(t, "app", tarOf(t, file("f", "1")))
	a.add("manifest.json", []byte("{"))
	a.add("blobs/readme", []byte("x"))
	want := a.seal(t).index.Manifests[0].Digest
	images, err := newStore(t).Import(t.Context(), bytes.NewReader(a.bytes(t)), ImportOptions{})
	if err != nil || images[0].Descriptor.Digest != want {
		t.Errorf("got %+v, %v", images, err)
	}
}

func TestImportDockerRefuses(t *testing.T) {
	layer := tarOf(t, file("f", "1"))
	good := dockerConfig(layer)
	archive := func(manifest string, more ...tar.Header) []byte {
		return tarOf(t, append([]tar.Header{file("c", good), file("l", string(layer)), file("manifest.json", manifest)}, more...)...)
	}
	one := func(config, layer string) string {
		return fmt.Sprintf(`[{"Config":%q,"RepoTags":["app"],"Layers":[%q]}]`, config, layer)
	}
	gone := strings.Replace(good, "diff_ids", "DIFF", 1)
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"bad JSON", archive("["), `"manifest.json": unexpected EOF`},
		{"object", archive("{}"), `"manifest.json": json: cannot unmarshal`},
		{"large manifest", archive(strings.Repeat(" ", 5<<20)), `"manifest.json": 5242880 bytes, at most`},
		{"config missing", archive(one("none", "l")), `image 0 of manifest.json: config: file "none" is missing`},
		{"config path out", archive(one("../../etc/shadow", "l")), `config: file "../../etc/shadow": path with ".."`},
		{"config absolute", archive(one("/etc/shadow", "l")), `config: file "/etc/shadow": absolute path`},
		{"config empty", archive(one("", "l")), "empty path"},
		{"config no JSON", archive(one("l", "l")), "decode blob"},
		{"config large", archive(one("big", "l"), file("big", strings.Repeat(" ", 5<<20))), "5242880 bytes is more than"},
		{"layer missing", archive(one("c", "none")), `layer 0: file "none" is missing`},
		{"layer path out", archive(one("c", "a/../../l")), `layer 0: file "a/../../l": path with ".."`},
		{"layer absolute", archive(one("c", "/dev/sda")), "absolute path"},
		{"layer is a folder", archive(one("c", "d"), dir("d")), "is missing"},
		{"layer is a device", archive(one("c", "d"), tar.Header{Typeflag: tar.TypeBlock, Name: "d", Devmajor: 8}), "is missing"},
		{"other layer", archive(one("c", "c")), `file "c" has the digest`},
		{"layer of another length", archive(one("c", "m"), file("m", string(layer)+"x")), `file "m" has the digest`},
		{"too few layers", archive(`[{"Config":"c","Layers":[]}]`), "it has 0 layers, its config 1 diff IDs"},
		{"no diff IDs", archive(one("g", "l"), file("g", gone)), "it has 1 layers, its config 0 diff IDs"},
		{"no layers", archive(`[{"Config":"g","Layers":[]}]`, file("g", gone)), "0 layers"},
		{"diff ID", archive(one("g", "l"), file("g", strings.Replace(good, "sha256:", "sha256:..", 1))), "digest"},
		{"other machine", archive(one("g", "l"), file("g", strings.Replace(good, runtime.GOARCH, "s390x", 1))), "s390x"},
		{"symlink out", archive(one("c", "s"), symlink("s", "../../etc/shadow")), `"s": link to "../../etc/shadow" leads out`},
		{"absolute symlink", archive(one("c", "s"), symlink("s", "/etc/shadow")), `"s": link to "/etc/shadow" leads out`},
		{"hard link out", archive(one("c", "s"), hardlink("s", "../x")), "leads out"},
		{"symlinks in a circle", archive(one("c", "s"), symlink("s", "t"), symlink("t", "s")), "in a circle"},
		{"symlink to nothing", archive(one("c", "s"), symlink("s", "d/none")), `file "s" is missing`},
		{"bad name", archive(`[{"Config":"c","RepoTags":["../x"],"Layers":["l"]}]`), `image name "../x"`},
		{"many images", archive("[" + strings.TrimSuffix(strings.Repeat(`{"Config":"c","Layers":["l"]},`, 1001), ",") + "]"), "more than 1000 images"},
		{"many names", archive(`[{"Config":"c","RepoTags":["a"` + strings.Repeat(`,"a"`, 1000) + `],"Layers":["l"]}]`), "more than 1000 images"},
		{"wrong blob", archive(one("c", "l"), file("blobs/sha256/"+digest.FromString("x").Encoded(), "y")), "another digest"},
		{"truncated", archive(one("c", "l"))[:1024+512], "unexpected EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			images, err := s.Import(t.Context(), bytes.NewReader(c.data), ImportOptions{})
			if err == nil {
				t.Fatalf("imported %d images", len(images))
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "import image: ") {
				t.Errorf("got %q, want it to say %q", err, c.want)
			}
			if !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) {
				t.Errorf("no class fits %q", err)
			}
			if list, err := s.List(); err != nil || len(list) > 0 {
				t.Errorf("a refused image is listed: %v, %v", list, err)
			}
			checkClean(t, s)
		})
	}
}

func TestImportDockerBounds(t *testing.T) {
	layer := tarOf(t, file("f", strings.Repeat("x", 1000)))
	data := tarOf(t, file("c", dockerConfig(layer)), file("l", string(layer)), manifestJSON(t, dockerImage{"c", nil, []string{"l"}}))
	for want, change := range map[string]func(*Limits){
		"more than 2 files":      func(l *Limits) { l.Files = 2 },
		"more than 400 bytes":    func(l *Limits) { l.Archive = 400 },
		"at most 10 are allowed": func(l *Limits) { l.Document = 10 },
	} {
		s := newStore(t)
		change(&s.limits)
		if _, err := s.Import(t.Context(), bytes.NewReader(data), ImportOptions{}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
		checkClean(t, s)
	}
}
