package stack

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// maxNodes is more than one machine of the usual size carries.
const maxNodes = 10

// settingsName is that of the settings' file among those of the stages.
const settingsName = "settings"

// Remember completes options by what earlier ones have chosen, and keeps the
// result for the next.
func Remember(dirs state.Dirs, opts api.UpOptions) (api.UpOptions, error) {
	if opts.Nodes < 0 || opts.Nodes > maxNodes {
		return opts, fmt.Errorf("a cluster of %d nodes: it may have 1 to %d: %w", opts.Nodes, maxNodes, errdefs.ErrInvalidArgument)
	}
	kept, err := Kept(dirs)
	if err != nil {
		return opts, err
	}
	if opts.Nodes == 0 {
		opts.Nodes = kept.Nodes
	}
	ports := maps.Clone(kept.Ports)
	if ports == nil {
		ports = map[string]uint16{}
	}
	maps.Copy(ports, opts.Ports)
	if opts.Ports = ports; len(ports) == 0 {
		opts.Ports = nil
	}
	if opts.Nodes == kept.Nodes && maps.Equal(opts.Ports, kept.Ports) {
		return opts, nil
	}
	return opts, state.WriteJSON(dirs.Stage(settingsName), opts.Settings)
}

// Kept returns the choices that the last `up` has kept.
func Kept(dirs state.Dirs) (s api.Settings, err error) {
	err = state.ReadJSON(dirs.Stage(settingsName), &s)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return s, err
}
