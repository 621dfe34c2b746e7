package stack

import (
	"errors"
	"io/fs"
	"maps"
	"sync"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// maxNodes is more than one machine of the usual size carries.
const maxNodes = 10

// settingsName is that of the settings' file among those of the stages.
const settingsName = "settings"

// Choices are what of api.Settings concerns a stage.
type Choices struct {
	// Ports are the usual ones of services that can be moved, by their names.
	Ports map[string]uint16
	Nodes bool
}

// Chooser is a Stage that some of api.Settings concern.
type Chooser interface{ Choices() Choices }

// choices are those of a stage.
func choices(s Stage) Choices {
	if c, ok := s.(Chooser); ok {
		return c.Choices()
	}
	return Choices{}
}

// Settings keeps the choices of an `up` for the next, each when the stage that
// it concerns is up: a port that could not be had is not asked for again.
type Settings struct {
	Dirs state.Dirs
	mu   sync.Mutex // stages end side by side
}

// Complete adds what is kept to what was chosen.
func (s *Settings) Complete(chosen api.Settings) (api.Settings, error) {
	kept, err := Kept(s.Dirs)
	if err != nil {
		return chosen, err
	}
	return merge(kept, chosen), nil
}

// Remember keeps, of what was chosen, that which concerns one stage.
func (s *Settings) Remember(chosen api.Settings, of Choices) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	kept, err := Kept(s.Dirs)
	if err != nil {
		return err
	}
	var concerned api.Settings
	if of.Nodes {
		concerned.Nodes = chosen.Nodes
	}
	for name := range of.Ports {
		if port := chosen.Ports[name]; port != 0 {
			concerned = merge(concerned, api.Settings{Ports: map[string]uint16{name: port}})
		}
	}
	next := merge(kept, concerned)
	if next.Nodes == kept.Nodes && maps.Equal(next.Ports, kept.Ports) {
		return nil
	}
	return state.WriteJSON(s.Dirs.Stage(settingsName), next)
}

// merge returns old settings with newer ones in their place.
func merge(old, newer api.Settings) api.Settings {
	if newer.Nodes == 0 {
		newer.Nodes = old.Nodes
	}
	ports := maps.Clone(old.Ports)
	if ports == nil {
		ports = map[string]uint16{}
	}
	maps.Copy(ports, newer.Ports)
	if newer.Ports = ports; len(ports) == 0 {
		newer.Ports = nil
	}
	return newer
}

// Kept returns the choices that are kept.
func Kept(dirs state.Dirs) (s api.Settings, err error) {
	err = state.ReadJSON(dirs.Stage(settingsName), &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}
