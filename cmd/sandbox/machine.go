package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/host"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// machine is cli.Host on this machine.
type machine struct {
	dirs    state.Dirs
	host    *host.Host
	service *host.Service
}

func newMachine(dirs state.Dirs) *machine {
	// The daemon's working folder is /, and its unit has none.
	dirs = state.Dirs{Root: absolute(dirs.Root), Run: absolute(dirs.Run)}
	h := host.This(dirs.Root)
	program, err := os.Executable()
	if err != nil {
		program = os.Args[0]
	}
	return &machine{dirs: dirs, host: h, service: &host.Service{Host: h, Dirs: dirs, Program: program}}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (m *machine) Socket() string { return m.dirs.Socket() }
func (m *machine) IsRoot() bool   { return os.Geteuid() == 0 }

func (m *machine) Check(ctx context.Context) ([]api.Finding, error) { return m.host.Check(ctx) }

func (m *machine) Fix(ctx context.Context, findings []api.Finding) ([]string, error) {
	return m.host.Fix(ctx, findings)
}

func (m *machine) Start(ctx context.Context) (cli.Starting, error) {
	s, err := m.service.Start(ctx)
	return cli.Starting{How: s.How, Ended: s.Ended, Log: s.Log}, err
}

func (m *machine) Uninstall(ctx context.Context) ([]string, error) {
	err := m.service.Remove(ctx)
	left, lookErr := m.service.Leftovers(ctx)
	return left, errors.Join(err, lookErr)
}

func (m *machine) Serve(ctx context.Context) error { return serve(ctx, m.dirs, m.host) }
