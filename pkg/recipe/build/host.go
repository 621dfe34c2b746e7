package build

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Host is what a RUN is lent of this host, so that downloads work: by
// environment and by files below /dev, for the time of the process. None of it
// is in a layer, in the image's configuration, or in a key.
type Host struct {
	Env      []string // KEY=VALUE: proxies
	CABundle string   // a PEM file of certificates to trust; may be empty
}

// proxies are the variables that Docker, too, hands on without being asked.
var proxies = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}

// bundles is where distributions have their CA bundle; crypto/x509 looks there.
var bundles = []string{
	"/etc/ssl/certs/ca-certificates.crt", // Debian, Ubuntu, Arch, Gentoo
	"/etc/pki/tls/certs/ca-bundle.crt",   // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",             // openSUSE
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
	"/etc/ssl/cert.pem", // Alpine
}

// HostFromEnv is this process's host: the proxies of its environment, in both
// cases, and SSL_CERT_FILE, or the distribution's bundle.
func HostFromEnv() Host {
	var h Host
	for _, name := range proxies {
		value := os.Getenv(name)
		if value == "" {
			value = os.Getenv(strings.ToLower(name))
		}
		if value != "" {
			h.Env = append(h.Env, name+"="+value, strings.ToLower(name)+"="+value)
		}
	}
	for _, file := range append([]string{os.Getenv("SSL_CERT_FILE")}, bundles...) {
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			h.CABundle = file
			break
		}
	}
	return h
}

// Where a RUN sees the host's certificates: below /dev, which is in no layer.
const (
	lentDir   = "/dev/.sandbox"
	lentCA    = lentDir + "/ca.crt"
	lentTrust = lentDir + "/ca.p12"
)

// javaOptions is what every Java virtual machine reads its options from.
const javaOptions = "JAVA_TOOL_OPTIONS"

// trustVars tell programs of lentCA: OpenSSL and Go, curl, Python's requests and
// pip, Node, git, the AWS tools, cargo, Deno, and Nix.
var trustVars = []string{
	"SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "NODE_EXTRA_CA_CERTS",
	"GIT_SSL_CAINFO", "AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT", "NIX_SSL_CERT_FILE",
}

// hostFor is what a RUN is lent. args are the build's: its proxies win.
func (b *Builder) hostFor(args map[string]string) (env []string, mounts []api.Mount, err error) {
	e := environ(b.Host.Env)
	// In this order the name in lower case wins over that in upper case.
	for _, key := range slices.Sorted(maps.Keys(args)) {
		if slices.Contains(proxies, strings.ToUpper(key)) {
			e = e.with(strings.ToUpper(key), args[key]).with(strings.ToLower(key), args[key])
		}
	}
	env = slices.Clone(e)
	if b.Host.CABundle == "" {
		return env, nil, nil
	}
	bundle, store, err := b.trust()
	if err != nil {
		return nil, nil, fmt.Errorf("CA bundle %s: %w", b.Host.CABundle, err)
	}
	for _, name := range trustVars {
		env = append(env, name+"="+lentCA)
	}
	mounts = append(mounts, api.Mount{Type: "bind", Source: bundle, Target: lentCA, Options: []string{"ro"}})
	if store != "" {
		env = append(env, fmt.Sprintf(
			javaOptions+"=-Djavax.net.ssl.trustStore=%s -Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=%s",
			lentTrust, pkcs12.DefaultPassword))
		mounts = append(mounts, api.Mount{Type: "bind", Source: store, Target: lentTrust, Options: []string{"ro"}})
	}
	return env, mounts, nil
}

// trust copies the bundle, so that every user of a container can read it, and
// makes a store of it as Java wants it: PKCS #12. Both are made once per content;
// of a bundle without certificates there is no store.
func (b *Builder) trust() (bundle, store string, err error) {
	data, err := os.ReadFile(b.Host.CABundle)
	if err != nil {
		return "", "", err
	}
	sum := sha256.Sum256(data)
	dir := filepath.Join(b.Dirs.Build(), "trust")
	bundle = filepath.Join(dir, hex.EncodeToString(sum[:8])+".crt")
	store = strings.TrimSuffix(bundle, ".crt") + ".p12"
	certs := certificates(data)
	if len(certs) == 0 {
		store = ""
	}
	if exists(bundle) && (store == "" || exists(store)) {
		return bundle, store, nil
	}
	// Those of bundles that are no more; what has them mounted keeps them. Files
	// that are being written, by another build, begin with a dot.
	old, _ := filepath.Glob(filepath.Join(dir, "[^.]*"))
	for _, file := range old {
		if file != bundle && file != store {
			if rerr := os.Remove(file); !errors.Is(rerr, os.ErrNotExist) { // it was quicker
				err = errors.Join(err, rerr)
			}
		}
	}
	if store != "" {
		encoded, eerr := pkcs12.Modern.EncodeTrustStore(certs, pkcs12.DefaultPassword)
		if eerr != nil {
			return "", "", fmt.Errorf("make a Java trust store: %w", eerr)
		}
		err = errors.Join(err, state.WriteFile(store, encoded, 0o644))
	}
	return bundle, store, errors.Join(err, state.WriteFile(bundle, data, 0o644))
}

// certificates are those that Go can parse: Java would not take others either.
func certificates(data []byte) (certs []*x509.Certificate) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && block.Type == "CERTIFICATE" {
			certs = append(certs, cert)
		}
	}
	return certs
}
