package build_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/sandboxlabs/sandbox/pkg/image"
	"github.com/sandboxlabs/sandbox/pkg/recipe/build"
)

// testCA writes a bundle of one certificate.
func testCA(t *testing.T) (file string, der []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "school proxy"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err = x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, der
}

// TestHost: a RUN has the host's proxies and certificates, the image does not.
func TestHost(t *testing.T) {
	b := newBuilder(t)
	const proxy = "http://lent-by-the-host.example:3128"
	ca, der := testCA(t)
	b.Host = build.Host{Env: []string{"HTTPS_PROXY=" + proxy, "https_proxy=" + proxy}, CABundle: ca}
	// What the scripts say is in no layer, and so is what they look for.
	const dockerfile = `FROM toolbox AS a
RUN --mount=target=/ctx sh -e /ctx/lent
ENV SSL_CERT_FILE=/mine JAVA_TOOL_OPTIONS=-Xmine
RUN --mount=target=/ctx sh -e /ctx/own
RUN touch /made
FROM a
USER 1000
RUN --mount=target=/ctx sh -e /ctx/user
`
	files := map[string]string{
		"lent": `
test "$HTTPS_PROXY" = "$https_proxy"
test -n "$https_proxy"
for v in SSL_CERT_FILE CURL_CA_BUNDLE REQUESTS_CA_BUNDLE PIP_CERT NODE_EXTRA_CA_CERTS GIT_SSL_CAINFO AWS_CA_BUNDLE; do
	eval f=\$$v
	grep -q CERTIFICATE "$f"
done
case "$JAVA_TOOL_OPTIONS" in *trustStore=/dev/.sandbox/ca.p12*) ;; *) exit 1;; esac
base64 /dev/.sandbox/ca.p12
! echo x > /dev/.sandbox/ca.crt
`,
		"own": `
test $SSL_CERT_FILE = /mine
case "$JAVA_TOOL_OPTIONS" in *ca.p12*-Xmine) ;; *) exit 1;; esac
`,
		"user":  "cat /dev/.sandbox/ca.crt > /dev/null\n",
		"given": "test $HTTPS_PROXY = http://given.example\ntest $https_proxy = http://given.example\n",
	}
	img, r := b.must(dockerfile, files)

	// Java's store is one that Java can read, with the certificate in it.
	var text strings.Builder
	for _, ev := range r.events {
		if strings.Contains(ev.Instruction, "lent") && ev.Stream == "stdout" {
			text.WriteString(ev.Output)
		}
	}
	store, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(text.String(), "\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	certs, err := pkcs12.DecodeTrustStore(store, pkcs12.DefaultPassword)
	if err != nil || len(certs) != 1 || !bytes.Equal(certs[0].Raw, der) {
		t.Errorf("%d certificates, %v", len(certs), err)
	}

	secrets := []string{"lent-by-the-host", ".sandbox", "CERTIFICATE", "ca.p12", "CURL_CA_BUNDLE"}
	b.search(img, secrets)

	// Neither is in a key: what they are does not matter to the layers.
	b.Host = build.Host{Env: []string{"HTTPS_PROXY=http://other.example:1"}}
	if again, r := b.must(dockerfile, files); len(r.ran()) > 0 || again.Descriptor.Digest != img.Descriptor.Digest {
		t.Errorf("another proxy: ran %q", r.ran())
	}
	// The Dockerfile's own proxy wins, and is no more in the image than the host's.
	img, _ = b.must("FROM toolbox\nRUN --mount=target=/ctx sh -e /ctx/given && touch /made\n", files,
		func(o *build.Options) {
			o.Args = map[string]string{"https_proxy": "http://given.example", "HTTPS_PROXY": "http://loses.example"}
		})
	b.search(img, []string{"given.example"})
}

// search looks for strings in everything that an image consists of.
func (b *builder) search(img image.Image, secrets []string) {
	b.t.Helper()
	look := func(where string, data []byte) {
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				b.t.Errorf("%s holds %q", where, s)
			}
		}
	}
	base, err := b.Store.Resolve("toolbox")
	if err != nil {
		b.t.Fatal(err)
	}
	for i, l := range img.Manifest.Layers {
		if slices.Contains(base.Config.RootFS.DiffIDs, img.Config.RootFS.DiffIDs[i]) {
			continue
		}
		f, err := b.Store.OpenBlob(l.Digest)
		if err != nil {
			b.t.Fatal(err)
		}
		zr, err := gzip.NewReader(f)
		if err != nil {
			b.t.Fatal(err)
		}
		data, err := io.ReadAll(zr)
		f.Close()
		if err != nil {
			b.t.Fatal(err)
		}
		look("layer "+l.Digest.String(), data)
	}
	for _, d := range []struct {
		name   string
		digest interface{ String() string }
	}{{"config", img.ID}, {"manifest", img.Descriptor.Digest}} {
		data, err := os.ReadFile(filepath.Join(b.Dirs.Images(), "blobs", "sha256", strings.TrimPrefix(d.digest.String(), "sha256:")))
		if err != nil {
			b.t.Fatal(err)
		}
		look(d.name, data)
	}
	// And in what the cache has kept.
	err = filepath.WalkDir(filepath.Join(b.Dirs.Build(), "layers"), func(p string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || e.Name() == "record.json" {
			return err
		}
		data, err := os.ReadFile(p)
		look(p, append(data, p...))
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestHostFromEnv(t *testing.T) {
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"} {
		t.Setenv(name, "")
	}
	ca, _ := testCA(t)
	t.Setenv("SSL_CERT_FILE", ca)
	t.Setenv("http_proxy", "http://a")
	t.Setenv("NO_PROXY", "b,c")
	h := build.HostFromEnv()
	if want := []string{"HTTP_PROXY=http://a", "http_proxy=http://a", "NO_PROXY=b,c", "no_proxy=b,c"}; !slices.Equal(h.Env, want) {
		t.Errorf("%q", h.Env)
	}
	if h.CABundle != ca {
		t.Errorf("bundle %s", h.CABundle)
	}
	t.Setenv("SSL_CERT_FILE", "/does/not/exist")
	if h := build.HostFromEnv(); h.CABundle == "/does/not/exist" {
		t.Errorf("bundle %s", h.CABundle)
	}
}
