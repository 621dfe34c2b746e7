package build

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// defaultShell is Docker's for Linux.
var defaultShell = []string{"/bin/sh", "-c"}

// configure plans an instruction that changes the image's configuration only,
// and writes its history as BuildKit does.
func (d *dispatcher) configure(st *step, cmd instructions.Command) error {
	config := &d.s.config.Config
	switch cmd := cmd.(type) {
	case *instructions.EnvCommand:
		text := "ENV"
		for _, kv := range cmd.Env {
			config.Env = environ(config.Env).with(kv.Key, kv.Value)
			d.s.env = d.s.env.with(kv.Key, kv.Value)
			text += " " + kv.String()
		}
		st.history = stepHistory("%s", text)
	case *instructions.LabelCommand:
		text := "LABEL"
		for _, kv := range cmd.Labels {
			if config.Labels == nil {
				config.Labels = map[string]string{}
			}
			config.Labels[kv.Key] = kv.Value
			text += " " + kv.String()
		}
		st.history = stepHistory("%s", text)
	case *instructions.MaintainerCommand:
		d.s.config.Author = cmd.Maintainer
		st.history = stepHistory("MAINTAINER %s", cmd.Maintainer)
	case *instructions.CmdCommand:
		config.Cmd = d.commandLine(cmd.ShellDependantCmdLine)
		config.ArgsEscaped = true //nolint:staticcheck // docker build sets it
		d.cmdSet = true
		st.history = stepHistory("CMD %q", config.Cmd)
	case *instructions.EntrypointCommand:
		config.Entrypoint = d.commandLine(cmd.ShellDependantCmdLine)
		if !d.cmdSet { // the base's CMD was meant for the base's entrypoint
			config.Cmd = nil
		}
		st.history = stepHistory("ENTRYPOINT %q", config.Entrypoint)
	case *instructions.HealthCheckCommand:
		health := *cmd.Health
		config.Healthcheck = &health
		st.history = stepHistory("HEALTHCHECK %+v", health)
	case *instructions.ExposeCommand:
		ports, err := d.p.expand.ports(cmd.Ports, d.s.env)
		if err != nil {
			return err
		}
		for _, p := range ports {
			if err := d.expose(p); err != nil {
				return err
			}
		}
		st.history = stepHistory("EXPOSE %v", ports)
	case *instructions.VolumeCommand:
		for _, v := range cmd.Volumes {
			if v == "" {
				return fmt.Errorf("a volume's path is empty: %w", errdefs.ErrInvalidArgument)
			}
			config.Volumes = withMember(config.Volumes, v)
		}
		st.history = stepHistory("VOLUME %v", cmd.Volumes)
	case *instructions.UserCommand:
		config.User = cmd.User
		st.history = stepHistory("USER %s", cmd.User)
	case *instructions.StopSignalCommand:
		if !validSignal(cmd.Signal) {
			return fmt.Errorf("%q is no signal: %w", cmd.Signal, errdefs.ErrInvalidArgument)
		}
		config.StopSignal = cmd.Signal
		st.history = stepHistory("STOPSIGNAL %s", cmd.Signal)
	case *instructions.ShellCommand:
		config.Shell = cmd.Shell
		st.history = stepHistory("SHELL %v", cmd.Shell)
	default:
		return fmt.Errorf("%s is not supported: %w", upper(cmd.Name()), errdefs.ErrNotImplemented)
	}
	return nil
}

// arg declares variables, which RUN and expansions see and the image does not
// keep.
func (d *dispatcher) arg(st *step, cmd *instructions.ArgCommand) error {
	text := "ARG"
	for _, arg := range cmd.Args {
		given, ok := d.p.o.Args[arg.Key]
		switch {
		case ok:
			arg.Value = &given
		case arg.Value == nil:
			if v, ok := d.p.global.get(arg.Key); ok {
				arg.Value = &v
			}
		default:
			v, err := d.p.expand.word(*arg.Value, d.s.env)
			if err != nil {
				return err
			}
			arg.Value = &v
		}
		text += " " + arg.Key
		if arg.Value != nil {
			d.s.env = d.s.env.with(arg.Key, *arg.Value)
			text += "=" + *arg.Value
		}
		d.s.args = append(d.s.args, arg)
	}
	st.history = stepHistory("%s", text)
	return nil
}

// commandLine is the argv of an instruction's shell or exec form.
func (d *dispatcher) commandLine(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return d.withShell(c.CmdLine)
}

func (d *dispatcher) withShell(args []string) []string {
	shell := d.s.config.Config.Shell
	if len(shell) == 0 {
		shell = defaultShell
	}
	return append(slices.Clone(shell), strings.Join(args, " "))
}

// absolute is a path below the working directory; a slash at its end stays.
func (d *dispatcher) absolute(p string) string {
	dir := strings.HasSuffix(p, "/") || p == "." || p == "" || strings.HasSuffix(p, "/.")
	if !path.IsAbs(p) {
		p = path.Join("/", d.s.config.Config.WorkingDir, p)
	}
	if p = path.Clean(p); dir && p != "/" {
		p += "/"
	}
	return p
}

func withMember(set map[string]struct{}, member string) map[string]struct{} {
	if set == nil {
		set = map[string]struct{}{}
	}
	set[member] = struct{}{}
	return set
}

// cloneConfig copies what instructions change in place.
func cloneConfig(c dockerspec.DockerOCIImage) dockerspec.DockerOCIImage {
	c.History = slices.Clone(c.History)
	c.Config.Env = slices.Clone(c.Config.Env)
	c.Config.OnBuild = slices.Clone(c.Config.OnBuild)
	c.Config.Labels = maps.Clone(c.Config.Labels)
	c.Config.Volumes = maps.Clone(c.Config.Volumes)
	c.Config.ExposedPorts = maps.Clone(c.Config.ExposedPorts)
	return c
}
