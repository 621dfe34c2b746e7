package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/network"
	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/internals"
)

// networkPart is the raw engine's network as the stage internals sees it.
func networkPart(n *network.Network) internals.Part {
	return internals.Part{
		Ensure: func(ctx context.Context, _ stack.Progress) (string, error) {
			if err := n.Up(ctx, nil); err != nil {
				return "", err
			}
			s := n.Status()
			return fmt.Sprintf("%s, %s, %s", s.Bridge, s.Gateway, s.Firewall), nil
		},
		Remove: func(ctx context.Context) error { return n.Down(ctx, nil) },
		Status: func(context.Context) (api.StatusItem, error) {
			s := n.Status()
			if s.Bridge == "" {
				return api.StatusItem{What: "network", State: stack.StateDown}, nil
			}
			item := api.StatusItem{What: "network", Where: s.Bridge + " " + s.Gateway.String(), State: stack.StateUp, Note: s.Firewall}
			if len(s.Warnings) > 0 {
				item.State, item.Note = stack.StateDegraded, strings.Join(s.Warnings, "; ")
			}
			return item, nil
		},
	}
}
