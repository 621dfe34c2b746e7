package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/cli"
	"github.com/sandboxlabs/sandbox/pkg/daemon"
	"github.com/sandboxlabs/sandbox/pkg/host"
	"github.com/sandboxlabs/sandbox/pkg/image/registry"
	"github.com/sandboxlabs/sandbox/pkg/image/transfer"
	"github.com/sandboxlabs/sandbox/pkg/recipe"
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

func (m *machine) User() *api.User { return invoker(os.Getuid(), os.Getenv) }

func (m *machine) Check(ctx context.Context) ([]api.Finding, error) { return m.host.Check(ctx) }

func (m *machine) Fix(ctx context.Context, findings []api.Finding) ([]string, error) {
	return m.host.Fix(ctx, findings)
}

func (m *machine) Start(ctx context.Context) (cli.Starting, error) {
	s, err := m.service.Start(ctx)
	return cli.Starting{How: s.How, Ended: s.Ended, Log: s.Log}, err
}

func (m *machine) SaveImages(ctx context.Context, engine string, names []string, w io.Writer) error {
	e, err := transfer.Open(engine)
	if err == nil {
		err = e.Save(ctx, names, w)
	}
	return forUser(err)
}

func (m *machine) LoadImages(ctx context.Context, engine string, r io.Reader) ([]string, error) {
	e, err := transfer.Open(engine)
	if err != nil {
		return nil, forUser(err)
	}
	loaded, err := e.Load(ctx, r)
	return loaded, forUser(err)
}

func (m *machine) Lint(ctx context.Context, dirs []string) ([]api.RecipeProblem, error) {
	problems, err := lint(ctx, dirs)
	return problems, forUser(err)
}

func (m *machine) NewRecipe(_ context.Context, dir, name string) (string, error) {
	folder, err := recipe.New(dir, name)
	return folder, forUser(err)
}

func (m *machine) AWS(endpoint string) cli.AWS { return newAWS(m.dirs, endpoint) }

// forUser gives an error of work that the daemon has no part in the form in
// which its errors come, with class and hint.
func forUser(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return daemon.WireError(err)
}

func (m *machine) Uninstall(ctx context.Context) ([]string, error) {
	err := m.service.Remove(ctx)
	left, lookErr := m.service.Leftovers(ctx)
	return left, errors.Join(err, lookErr)
}

func (m *machine) Serve(ctx context.Context, opts cli.Serving) error {
	if err := registry.CheckAddr(opts.Registry); err != nil {
		return forUser(err)
	}
	return serve(ctx, m.dirs, m.host, opts)
}
