package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
)

func keychain(opts PullOptions) authn.Keychain {
	switch {
	case opts.Keychain != nil:
		return opts.Keychain
	case opts.ConfigDir != "":
		return configDir(opts.ConfigDir)
	}
	return authn.DefaultKeychain
}

// configDir reads config.json of another user's docker. It takes what is
// written there, and does not run credential helpers: those are programs of
// that user's session, and this may be root.
type configDir string

func (dir configDir) Resolve(target authn.Resource) (authn.Authenticator, error) {
	data, err := os.ReadFile(filepath.Join(string(dir), "config.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return authn.Anonymous, nil
	}
	if err != nil {
		return nil, err
	}
	var config struct {
		Auths map[string]authn.AuthConfig `json:"auths"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("read %s/config.json: %w", dir, err)
	}
	host := target.RegistryStr()
	keys := []string{target.String(), host, "https://" + host, "https://" + host + "/v1/"}
	if host == name.DefaultRegistry {
		keys = []string{authn.DefaultAuthKey, "docker.io"}
	}
	for _, key := range keys {
		if auth, ok := config.Auths[key]; ok && auth != (authn.AuthConfig{}) {
			return authn.FromConfig(auth), nil
		}
	}
	return authn.Anonymous, nil
}
