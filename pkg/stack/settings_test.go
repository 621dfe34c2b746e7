package stack

import (
	"maps"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

func TestRemember(t *testing.T) {
	s := Settings{Dirs: state.Dirs{Root: t.TempDir()}}
	type ports = map[string]uint16
	cluster, aws, monitoring := Choices{Nodes: true, Ports: ports{"ingress": 8080}}, Choices{Ports: ports{"localstack": 4566}}, Choices{Ports: ports{"grafana": 3001}}
	for i, tt := range []struct {
		choose api.Settings
		up     []Choices // the stages that came up with it
		want   api.Settings
	}{
		{api.Settings{}, []Choices{cluster, aws, monitoring}, api.Settings{}},
		{api.Settings{Ports: ports{"grafana": 3002}}, []Choices{cluster, aws}, api.Settings{}},
		{api.Settings{Ports: ports{"grafana": 3002}}, []Choices{monitoring}, api.Settings{Ports: ports{"grafana": 3002}}},
		{api.Settings{Nodes: 3, Ports: ports{"localstack": 1}}, []Choices{cluster}, api.Settings{Nodes: 3, Ports: ports{"grafana": 3002}}},
		{api.Settings{Nodes: 2}, []Choices{aws, monitoring}, api.Settings{Nodes: 3, Ports: ports{"grafana": 3002}}},
		{
			api.Settings{Nodes: 1, Ports: ports{"grafana": 3001, "localstack": 4567}},
			[]Choices{cluster, monitoring, aws},
			api.Settings{Nodes: 1, Ports: ports{"grafana": 3001, "localstack": 4567}},
		},
	} {
		for _, up := range tt.up {
			if err := s.Remember(tt.choose, up); err != nil {
				t.Fatal(err)
			}
		}
		got, err := s.Complete(api.Settings{})
		if err != nil || got.Nodes != tt.want.Nodes || !maps.Equal(got.Ports, tt.want.Ports) {
			t.Errorf("%d: %+v, %v, want %+v", i, got, err, tt.want)
		}
	}
	got, err := s.Complete(api.Settings{Nodes: 2, Ports: ports{"ingress": 80, "grafana": 1}})
	if err != nil || got.Nodes != 2 || !maps.Equal(got.Ports, ports{"ingress": 80, "grafana": 1, "localstack": 4567}) {
		t.Errorf("what is chosen now goes first: %+v, %v", got, err)
	}
}
