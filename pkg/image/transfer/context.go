package transfer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// endpoint is where a Docker engine is.
type endpoint struct {
	host          string // "" for the usual socket
	ca, cert, key string // files; empty without TLS
}

// endpointOf finds the engine that the docker command would talk to: the host
// that was given, DOCKER_HOST with its certificates, or a context, by
// DOCKER_CONTEXT or `docker context use`.
func endpointOf(host string) (endpoint, error) {
	if host != "" {
		return withCertificates(host), nil
	}
	if host = os.Getenv("DOCKER_HOST"); host != "" {
		return withCertificates(host), nil
	}
	config, err := configDir()
	if err != nil {
		return endpoint{}, nil //nolint:nilerr // without a home there is no context
	}
	name := os.Getenv("DOCKER_CONTEXT")
	if name == "" {
		var settings struct {
			CurrentContext string `json:"currentContext"`
		}
		if err := readJSON(filepath.Join(config, "config.json"), &settings); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return endpoint{}, fmt.Errorf("docker's configuration: %w", err)
		}
		name = settings.CurrentContext
	}
	if name == "" || name == "default" {
		return endpoint{}, nil
	}
	return contextEndpoint(config, name)
}

func configDir() (string, error) {
	if dir := os.Getenv("DOCKER_CONFIG"); dir != "" {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	return filepath.Join(home, ".docker"), err
}

// withCertificates adds those of DOCKER_CERT_PATH, as the docker command does.
func withCertificates(host string) endpoint {
	where := endpoint{host: host}
	if dir := os.Getenv("DOCKER_CERT_PATH"); dir != "" {
		where.ca, where.cert, where.key = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	}
	return where
}

// contextEndpoint reads a context where docker keeps it: in a folder named by
// the digest of its name.
func contextEndpoint(config, name string) (endpoint, error) {
	sum := sha256.Sum256([]byte(name))
	id := hex.EncodeToString(sum[:])
	var meta struct {
		Endpoints map[string]struct {
			Host string
		}
	}
	err := readJSON(filepath.Join(config, "contexts", "meta", id, "meta.json"), &meta)
	if errors.Is(err, fs.ErrNotExist) {
		return endpoint{}, fmt.Errorf("docker has no context %q (docker context ls shows those that it has): %w", name, errdefs.ErrNotFound)
	}
	if err != nil {
		return endpoint{}, fmt.Errorf("docker's context %s: %w", name, err)
	}
	where := endpoint{host: meta.Endpoints["docker"].Host}
	tls := filepath.Join(config, "contexts", "tls", id, "docker")
	if _, err := os.Stat(filepath.Join(tls, "ca.pem")); err == nil {
		where.ca, where.cert, where.key = filepath.Join(tls, "ca.pem"), filepath.Join(tls, "cert.pem"), filepath.Join(tls, "key.pem")
	}
	return where, nil
}

func readJSON(file string, v any) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}
