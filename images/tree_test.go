package images_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
)

// incomparable says why Docker's build of a recipe is not compared.
var incomparable = map[string]string{
	"localstack": "Maven trusts only the authorities that Java has, and Docker's builds can't be told the host's",
	// Linked and packed a third time, each takes Docker minutes.
	"kind-node": tooSlow, "prometheus": tooSlow, "tools": tooSlow, "traefik": tooSlow,
}

// packing are recipes that pack images, with Debian's files, into their own: no
// file can be left out of the comparison. What they download by TLS is in the
// caches that Docker is lent.
var packing = []string{"kind-node"}

const tooSlow = "it takes Docker as long as all others together"

// caBundle is where Debian has the authorities that it trusts. The Docker of
// this test is told of the host's there, as it can't be told otherwise: this file
// is not compared.
const caBundle = "/etc/ssl/certs/ca-certificates.crt"

// TestSameTree builds the recipes with Docker's BuildKit too, from the same
// Dockerfiles, and compares what there is in the images: files and configuration.
func TestSameTree(t *testing.T) {
	need(t, "dockerd", "tar", "nsenter")
	s := openSuite(t)
	b := newDockerBuild(t, s)
	for _, name := range s.names() {
		r := s.Catalogue.Recipes[name]
		if r.UpstreamOnly {
			continue
		}
		if why := incomparable[name]; why != "" {
			t.Logf("%s is not compared: %s", name, why)
			continue
		}
		t.Run(name, func(t *testing.T) {
			results := s.make(t, s.maker(), name)
			if t.Failed() {
				return
			}
			ours := results[len(results)-1].Image
			begun := time.Now()
			theirs := b.build(t, r)
			took := time.Since(begun)
			a, b := s.tree(t, ours), b.tree(t, theirs)
			const status = "/var/lib/dpkg/status"
			if a[status] != b[status] && a[status] != (file{}) {
				// Debian's archive may have newer packages than when ours was built.
				m := s.maker()
				m.NoCache, m.Engine = true, nil
				results = s.make(t, m, name)
				ours = results[len(results)-1].Image
				a = s.tree(t, ours)
			}
			if !slices.Contains(packing, name) {
				delete(a, caBundle)
				delete(b, caBundle)
			}
			report(t, a, b)
			if a, b := s.config(t, ours), theirs.config; !reflect.DeepEqual(a, b) {
				t.Errorf("the configuration, ours\n%s\nand Docker's\n%s", asJSON(t, a), asJSON(t, b))
			}
			t.Logf("%d files are the same; Docker's build took %.1f s", len(a), took.Seconds())
		})
	}
}

// report fails the test for each difference between our tree and Docker's.
func report(t *testing.T, ours, dockers map[string]file) {
	t.Helper()
	var wrong []string
	for path, a := range ours {
		switch b, ok := dockers[path]; {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("%s: %s, and nothing in Docker's", path, a))
		case a != b:
			wrong = append(wrong, fmt.Sprintf("%s: %s, in Docker's %s", path, a, b))
		}
	}
	for path, b := range dockers {
		if _, ok := ours[path]; !ok {
			wrong = append(wrong, fmt.Sprintf("%s: nothing, in Docker's %s", path, b))
		}
	}
	slices.Sort(wrong)
	const most = 30
	for i, w := range wrong {
		if i == most {
			t.Errorf("and %d more", len(wrong)-most)
			break
		}
		t.Error(w)
	}
}

// tree is what the layers of an image of the store make together.
func (s *suite) tree(t *testing.T, img image.Image) map[string]file {
	t.Helper()
	lower, err := s.Store.Unpack(t.Context(), img)
	if err != nil {
		t.Fatal(err)
	}
	return s.merged(t, lower)
}

// merged is what layers make together, top first.
func (s *suite) merged(t *testing.T, lower []string) map[string]file {
	t.Helper()
	view, err := s.Engine.MountLayers(t.Context(), lower, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := walk(view.Path())
	if cerr := view.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func (s *suite) config(t *testing.T, img image.Image) dockerspec.DockerOCIImageConfig {
	t.Helper()
	f, err := s.Store.OpenBlob(img.Manifest.Config.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var whole dockerspec.DockerOCIImage
	if err := json.NewDecoder(f).Decode(&whole); err != nil {
		t.Fatal(err)
	}
	return normalize(whole.Config)
}

// normalize makes what is empty the same as what is missing.
func normalize(c dockerspec.DockerOCIImageConfig) dockerspec.DockerOCIImageConfig {
	c.ArgsEscaped = false //nolint:staticcheck // for Windows; Docker sets it beside CMD
	for _, list := range []*[]string{&c.Env, &c.Entrypoint, &c.Cmd, &c.OnBuild, &c.Shell} {
		if len(*list) == 0 {
			*list = nil
		}
	}
	if len(c.Labels) == 0 {
		c.Labels = nil
	}
	for _, set := range []*map[string]struct{}{&c.ExposedPorts, &c.Volumes} {
		if len(*set) == 0 {
			*set = nil
		}
	}
	return c
}

func asJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// dockerBuild builds recipes in Docker, whose instructions run in the host's
// network.
type dockerBuild struct {
	*dockerDaemon
	cli      string
	suite    *suite
	registry string
	seeded   map[string]bool // caches
}

func newDockerBuild(t *testing.T, s *suite) *dockerBuild {
	t.Helper()
	cli := buildingDocker(t)
	return &dockerBuild{dockerDaemon: startDocker(t, nil), cli: cli, suite: s, registry: serve(t, nil, s.Store), seeded: map[string]bool{}}
}

// buildingDocker finds a command docker that builds with BuildKit: since version
// 23 it needs a plugin for that.
func buildingDocker(t *testing.T) string {
	t.Helper()
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		path := filepath.Join(dir, "docker")
		cmd := exec.CommandContext(t.Context(), path, "build", "--help")
		if cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=1"); cmd.Run() == nil {
			return path
		}
	}
	t.Skip("no command docker in PATH builds with BuildKit: there is none, or its plugin buildx is missing")
	return ""
}

// dockerImage is an image in Docker.
type dockerImage struct {
	layers []string // folders, top first
	config dockerspec.DockerOCIImageConfig
}

// tree is what an image's layers make together, as far as Docker's archives of
// layers have it: of extended attributes only the capabilities.
func (b *dockerBuild) tree(t *testing.T, img dockerImage) map[string]file {
	t.Helper()
	files := b.suite.merged(t, img.layers)
	for path, f := range files {
		attrs := strings.Fields(f.xattrs)
		f.xattrs = ""
		for _, a := range attrs {
			if strings.HasPrefix(a, "security.capability=") {
				f.xattrs = " " + a
			}
		}
		files[path] = f
	}
	return files
}

// build builds one recipe.
func (b *dockerBuild) build(t *testing.T, r *recipe.Recipe) dockerImage {
	t.Helper()
	for _, need := range append([]string{"toolbox"}, r.Needs...) {
		b.base(t, need, need, r)
	}
	for _, name := range sortedKeys(r.Contexts) {
		switch c := r.Contexts[name]; {
		case c.Recipe != "":
			b.base(t, c.Recipe, name, r)
		case c.Dir != "":
			// As from a folder: its owners are not meant.
			b.importFolder(t, name, filepath.Join(r.Dir, c.Dir), "--owner=0", "--group=0")
		default:
			dir, err := recipe.DebianRoot(t.Context(), b.suite.Dirs, *c.Debian, r.Created, b.suite.maker().Env, func(string) {})
			if err != nil {
				t.Fatal(err)
			}
			b.importFolder(t, name, dir)
		}
	}
	for _, id := range r.Caches {
		b.seed(t, id)
	}
	argv := []string{"build", "--network", "host", "--tag", "built"}
	for _, name := range sortedKeys(r.Args) {
		argv = append(argv, "--build-arg", name+"="+r.Args[name])
	}
	b.run(t, nil, append(argv, r.Dir)...)
	info, err := b.client.ImageInspect(t.Context(), "built")
	if err != nil {
		t.Fatal(err)
	}
	img := dockerImage{layers: []string{info.GraphDriver.Data["UpperDir"]}, config: *info.Config}
	if lower := info.GraphDriver.Data["LowerDir"]; lower != "" {
		img.layers = append(img.layers, strings.Split(lower, ":")...)
	}
	img.config.Env = slices.DeleteFunc(img.config.Env, func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(buildEnv, name)
	})
	img.config = normalize(img.config)
	return img
}

// buildEnv is what our builds give to every instruction that runs, and Docker's
// can have from the base image only.
var buildEnv = []string{"SOURCE_DATE_EPOCH", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"}

// base makes another recipe's image known to Docker as name, and, if it is
// Debian, tells it what our builds tell every instruction.
func (b *dockerBuild) base(t *testing.T, from, name string, r *recipe.Recipe) {
	t.Helper()
	ref, err := b.pull(t.Context(), b.registry, from+":latest")
	if err != nil {
		t.Fatal(err)
	}
	if from != "debian" {
		b.run(t, nil, "tag", ref, name)
		return
	}
	dir := t.TempDir()
	bundle, err := os.ReadFile(caBundle)
	if err != nil {
		t.Skip("the host has no ", err)
	}
	dockerfile := fmt.Sprintf("FROM %s\nENV SOURCE_DATE_EPOCH=%d\n", ref, r.Created.Unix())
	if !slices.Contains(packing, r.Name) {
		dockerfile += fmt.Sprintf("COPY bundle %s\nENV PIP_CERT=%[1]s REQUESTS_CA_BUNDLE=%[1]s NODE_EXTRA_CA_CERTS=%[1]s\n", caBundle)
	}
	for file, content := range map[string][]byte{"bundle": bundle, "Dockerfile": []byte(dockerfile)} {
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o644); err != nil { // it gets these bits in the image
			t.Fatal(err)
		}
	}
	b.run(t, nil, "build", "--tag", name, dir)
}

// importFolder makes a folder an image.
func (b *dockerBuild) importFolder(t *testing.T, name, dir string, flags ...string) {
	t.Helper()
	tar := exec.CommandContext(t.Context(), "tar", append(flags, "--create", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--directory", dir, ".")...)
	out, err := tar.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tar.Start(); err != nil {
		t.Fatal(err)
	}
	b.run(t, out, "import", "-", name)
	if err := tar.Wait(); err != nil {
		t.Fatalf("tar %s: %v", dir, err)
	}
}

// seed lets Docker use a Go cache of ours: what it compiles is the same, and
// compiling it again would take long. Ours is mounted on Docker's, where only this
// Docker sees it; what it writes, or removes, it does not in ours.
func (b *dockerBuild) seed(t *testing.T, id string) {
	t.Helper()
	from := filepath.Join(b.suite.Dirs.Build(), "cache", id)
	if _, err := os.Stat(from); err != nil || b.seeded[id] || !strings.HasPrefix(id, "go") {
		return
	}
	b.seeded[id] = true
	mark := ".seed-" + id
	dir := t.TempDir()
	dockerfile := fmt.Sprintf("FROM toolbox\nRUN --mount=type=cache,id=%s,target=/cache touch /cache/%s\n", id, mark)
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o600); err != nil {
		t.Fatal(err)
	}
	b.run(t, nil, "build", "--network", "host", dir)
	to, err := filepath.Glob(filepath.Join(b.dir, "data/overlay2/*/diff", mark))
	if err != nil || len(to) != 1 {
		t.Fatalf("Docker has the cache %s in %q, %v", id, to, err)
	}
	upper, work := filepath.Join(b.dir, id), filepath.Join(b.dir, id+".work")
	for _, dir := range []string{upper, work} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := exec.CommandContext(t.Context(), "nsenter", fmt.Sprintf("--mount=/proc/%d/ns/mnt", b.process.cmd.Process.Pid),
		"mount", "-t", "overlay", "-o", "lowerdir="+from+",upperdir="+upper+",workdir="+work, "overlay", filepath.Dir(to[0]))
	if out, err := mount.CombinedOutput(); err != nil {
		t.Fatalf("mount the cache %s: %v: %s", id, err, out)
	}
}

// run runs the command docker.
func (b *dockerBuild) run(t *testing.T, stdin io.Reader, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, b.cli, argv...)
	cmd.Env, cmd.Stdin = b.env, stdin
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("docker %s: %v:\n%s", strings.Join(argv, " "), err, out[max(len(out)-4000, 0):])
	}
}
