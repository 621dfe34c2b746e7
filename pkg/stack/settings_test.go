package stack

import (
	"maps"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

func TestRemember(t *testing.T) {
	dirs := state.Dirs{Root: t.TempDir()}
	for i, tt := range []struct{ choose, want api.Settings }{
		{api.Settings{}, api.Settings{}},
		{api.Settings{Ports: map[string]uint16{"grafana": 3002}}, api.Settings{Ports: map[string]uint16{"grafana": 3002}}},
		{api.Settings{Nodes: 3}, api.Settings{Nodes: 3, Ports: map[string]uint16{"grafana": 3002}}},
		{api.Settings{}, api.Settings{Nodes: 3, Ports: map[string]uint16{"grafana": 3002}}},
		{
			api.Settings{Nodes: 1, Ports: map[string]uint16{"grafana": 3001, "aws": 4567}},
			api.Settings{Nodes: 1, Ports: map[string]uint16{"grafana": 3001, "aws": 4567}},
		},
	} {
		got, err := Remember(dirs, api.UpOptions{Only: []string{"aws"}, Settings: tt.choose})
		if err != nil || got.Nodes != tt.want.Nodes || !maps.Equal(got.Ports, tt.want.Ports) || len(got.Only) != 1 {
			t.Errorf("%d: %+v, %v, want %+v", i, got, err, tt.want)
		}
	}
	for _, nodes := range []int{-1, maxNodes + 1} {
		if _, err := Remember(dirs, api.UpOptions{Settings: api.Settings{Nodes: nodes}}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%d nodes: %v", nodes, err)
		}
	}
	if got, err := Remember(dirs, api.UpOptions{}); err != nil || got.Nodes != 1 {
		t.Errorf("after what was refused: %+v, %v", got, err)
	}
}
