package stack

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// choosy is a stage with a service, and a choice that it refuses.
type choosy struct {
	fakeStage
	ports map[string]uint16
}

func (c *choosy) Choices() Choices { return Choices{Ports: c.ports} }

func (c *choosy) Check(_ context.Context, opts api.UpOptions) error {
	if opts.Nodes == 7 {
		return errors.New("it has bad luck")
	}
	return nil
}

func TestCheck(t *testing.T) {
	g, err := New(
		&fakeStage{name: "plain"},
		&choosy{fakeStage{name: "web"}, map[string]uint16{"http": 80, "https": 443}},
		&choosy{fakeStage{name: "mail", needs: []string{"plain"}}, map[string]uint16{"smtp": 25}},
	)
	if err != nil {
		t.Fatal(err)
	}
	type ports = map[string]uint16
	for _, tt := range []struct {
		opts api.UpOptions
		err  string
	}{
		{api.UpOptions{}, ""},
		{api.UpOptions{Settings: api.Settings{Ports: ports{"smtp": 587}}}, ""},
		{api.UpOptions{Settings: api.Settings{Ports: ports{"http": 443, "https": 80}}}, ""},
		{api.UpOptions{Settings: api.Settings{Ports: ports{"smpt": 587}}}, `port of "smpt": the services are http, https, smtp`},
		{api.UpOptions{Settings: api.Settings{Ports: ports{"smtp": 443}}}, "https and smtp cannot both have port 443"},
		{api.UpOptions{Settings: api.Settings{Nodes: 7}}, "it has bad luck"},
		{api.UpOptions{Only: []string{"plain"}, Settings: api.Settings{Nodes: 7}}, ""},
		{api.UpOptions{Settings: api.Settings{Nodes: -1}}, "1 to 10"},
		{api.UpOptions{Settings: api.Settings{Nodes: maxNodes + 1}}, "1 to 10"},
	} {
		err := g.Check(t.Context(), tt.opts)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%+v: %v, want %q", tt.opts, err, tt.err)
		}
		if strings.Contains(tt.err, "port") && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%+v: %v", tt.opts, err)
		}
	}
}

func TestCovers(t *testing.T) {
	me, you := &api.User{UID: 1000}, &api.User{UID: 1001}
	for _, tt := range []struct {
		one, other api.UpOptions
		want       bool
	}{
		{api.UpOptions{}, api.UpOptions{}, true},
		{api.UpOptions{User: me}, api.UpOptions{User: &api.User{UID: 1000}}, true},
		{api.UpOptions{User: me}, api.UpOptions{}, true},
		{api.UpOptions{}, api.UpOptions{User: me}, false},
		{api.UpOptions{User: you}, api.UpOptions{User: me}, false},
		{api.UpOptions{Settings: api.Settings{Nodes: 3}}, api.UpOptions{}, true},
		{api.UpOptions{Settings: api.Settings{Nodes: 3}}, api.UpOptions{Settings: api.Settings{Nodes: 2}}, false},
		{api.UpOptions{Offline: true}, api.UpOptions{}, true},
		{api.UpOptions{}, api.UpOptions{Offline: true}, false},
		{api.UpOptions{}, api.UpOptions{Archive: "/a.tar"}, false},
		{api.UpOptions{}, api.UpOptions{Settings: api.Settings{Nodes: 3}}, false},
		{api.UpOptions{}, api.UpOptions{Settings: api.Settings{Ports: map[string]uint16{"http": 81}}}, false},
	} {
		if got := Covers(tt.one, tt.other); got != tt.want {
			t.Errorf("%+v covers %+v: %v", tt.one, tt.other, got)
		}
	}
}
