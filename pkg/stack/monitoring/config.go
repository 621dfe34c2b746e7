package monitoring

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/template"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// settings is the stage's record, in state.Dirs.Stage: what its services were
// configured with.
type settings struct {
	// Ports are those that were moved.
	Ports map[string]uint16 `json:"ports,omitempty"`
	// Daemon is the daemon's address in Docker's network, its gateway's.
	Daemon netip.AddrPort `json:"daemon"`
	// Digests are those of each service's folder, and Loaded of those that the
	// service is known to run with.
	Digests map[string]string `json:"digests"`
	Loaded  map[string]string `json:"loaded,omitempty"`
	// Grafana is true when it runs, and NoGrafana says why it cannot.
	Grafana    bool   `json:"grafana,omitempty"`
	NoGrafana  string `json:"no_grafana,omitempty"`
	RootShared bool   `json:"root_shared,omitempty"`
	// APIServer is the cluster's, HOST:PORT; empty if none is connected.
	APIServer string `json:"api_server,omitempty"`

	dir string
}

func (set *settings) port(service string) uint16 {
	if p := set.Ports[service]; p != 0 {
		return p
	}
	return ports[service]
}

// folder is what a service is shown.
func (set *settings) folder(service string) string { return filepath.Join(set.dir, service) }

func (s *Stage) defaults() settings { return settings{dir: s.Dirs.StageDir(Name)} }

// settings reads the record: errdefs.ErrFailedPrecondition if there is none.
func (s *Stage) settings() (settings, error) {
	set := s.defaults()
	err := state.ReadJSON(s.Dirs.Stage(Name), &set)
	if errors.Is(err, fs.ErrNotExist) {
		return set, fmt.Errorf("stage %s is not configured: %w", Name, errdefs.ErrFailedPrecondition)
	}
	return set, err
}

// record changes the record.
func (s *Stage) record(change func(*settings)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.settings()
	if err != nil && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	change(&set)
	return state.WriteJSON(s.Dirs.Stage(Name), set)
}

// configure writes the files that the services are shown, in place: a folder
// that is bound into a container must stay the same folder. moved are ports;
// nil for those of the record.
func (s *Stage) configure(_ context.Context, moved map[string]uint16, p stack.Progress) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	set, err := s.settings()
	fresh := errdefs.IsFailedPrecondition(err)
	if err != nil && !fresh {
		return err
	}
	at, ok := s.Telemetry()
	if !ok {
		return stack.WithHint(
			fmt.Errorf("the daemon has no address in Docker's network for metrics and alerts: %w", errdefs.ErrFailedPrecondition),
			"sandbox status says why; another port: SANDBOX_TELEMETRY_PORT in the daemon's environment",
		)
	}
	set.Daemon = at
	if moved != nil || fresh {
		set.Ports = map[string]uint16{}
		for name := range ports {
			if moved[name] != 0 {
				set.Ports[name] = moved[name]
			}
		}
	}
	if set.RootShared, err = rootShared(); err != nil {
		return err
	}
	changed, err := s.write(&set)
	if err != nil {
		return err
	}
	if err := state.WriteJSON(s.Dirs.Stage(Name), set); err != nil {
		return err
	}
	if changed == 0 {
		p.Note("already there")
	} else {
		p.Note("%d files in %s", changed, set.dir)
	}
	return nil
}

// templates are the files that are filled in.
var templates = []string{"prometheus/prometheus.yml", "alertmanager/alertmanager.yml"}

// write makes the services' folders what the content says, and returns how many
// files that has changed.
func (s *Stage) write(set *settings) (changed int, err error) {
	files := map[string][]byte{}
	for _, service := range []string{"prometheus", "alertmanager", "grafana"} {
		err := fs.WalkDir(s.Content, service, func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || name == "prometheus/cluster.yml" || strings.HasPrefix(name, "prometheus/tests/") {
				return err
			}
			files[name], err = fs.ReadFile(s.Content, name)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	for _, name := range templates {
		if files[name], err = fill(name, files[name], map[string]any{
			"Daemon": set.Daemon.String(), "Node": set.node().String(), "Grafana": set.Grafana,
		}); err != nil {
			return 0, err
		}
	}
	// The cluster's part is Connect's, and stays until that takes it away.
	keep := func(name string) bool {
		return set.APIServer != "" && (name == clusterFile || strings.HasPrefix(name, clusterFolder+"/"))
	}
	if changed, err = converge(set.dir, files, keep); err != nil {
		return changed, err
	}
	return changed, set.digest()
}

// digest takes the digests of the folders, as they are on disk.
func (set *settings) digest() error {
	set.Digests = map[string]string{}
	for _, service := range []string{"prometheus", "alertmanager", "grafana"} {
		sum := sha256.New()
		root := os.DirFS(set.folder(service))
		err := fs.WalkDir(root, ".", func(name string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || strings.HasPrefix(path.Base(name), ".") {
				return err
			}
			// Dashboards and credentials are read again by themselves.
			if service == "grafana" && strings.HasPrefix(name, "dashboards/") || service+"/"+path.Dir(name) == clusterFolder {
				return nil
			}
			b, err := fs.ReadFile(root, name)
			fmt.Fprintf(sum, "%s %d\n", name, len(b))
			sum.Write(b)
			return err
		})
		if err != nil {
			return err
		}
		set.Digests[service] = hex.EncodeToString(sum.Sum(nil)[:8])
	}
	return nil
}

// fill executes a template.
func fill(name string, text []byte, data any) ([]byte, error) {
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	err = t.Execute(&b, data)
	return b.Bytes(), err
}

// converge makes a folder hold the files and, but for those to keep, no others.
// The users of containers read them: they are for all to read.
func converge(dir string, files map[string][]byte, keep func(name string) bool) (changed int, err error) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		done, err := put(dir, name, files[name])
		if err != nil {
			return changed, err
		}
		if done {
			changed++
		}
	}
	err = filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil || files[name] != nil || keep(name) {
			return err
		}
		changed++
		return os.Remove(file)
	})
	return changed, err
}

// put writes a file of a folder unless it is there, with the folders above it.
func put(dir, name string, data []byte) (changed bool, err error) {
	to := filepath.Join(dir, filepath.FromSlash(name))
	for at := filepath.Dir(to); len(at) >= len(dir); at = filepath.Dir(at) {
		if err := os.MkdirAll(at, 0o755); err != nil {
			return false, err
		}
		if err := os.Chmod(at, 0o755); err != nil { //nolint:gosec // configuration, for other users to read
			return false, err
		}
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, data) {
		return false, nil
	}
	return true, state.WriteFile(to, data, 0o644)
}
