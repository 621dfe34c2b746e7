// Package ecs takes the place of traefik's provider for Amazon's container
// service, see the Dockerfile.
package ecs

import (
	"errors"

	"github.com/traefik/traefik/v3/pkg/config/dynamic"
	"github.com/traefik/traefik/v3/pkg/safe"
)

// Provider is what traefik's `providers.ecs` is read into.
type Provider struct{}

// Init fails: who asks for the provider is to learn at once that it is missing.
func (*Provider) Init() error {
	return errors.New("no provider for Amazon ECS in this build of traefik")
}

// Provide is never called, since Init fails.
func (p *Provider) Provide(chan<- dynamic.Message, *safe.Pool) error { return p.Init() }
