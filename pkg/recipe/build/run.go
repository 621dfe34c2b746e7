package build

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine"
)

// runWork is RUN.
type runWork struct {
	Args    []string
	Env     []string // sorted
	User    string
	Dir     string
	Network string
	// Hostname is what arguments ask for.
	Hostname string `json:",omitempty"`
	Mounts   []*mount
	// Script is a here-document that names its own interpreter. The shell starts
	// it: SHELL may do more than that.
	Script *script
}

// script is a file of a RUN, at scriptDir+Name.
type script struct{ Name, Data string }

// scriptDir is where BuildKit has such files.
const scriptDir = "/dev/pipes/"

// run plans a RUN.
func (d *dispatcher) run(st *step, cmd *instructions.RunCommand) error {
	config := d.s.config.Config
	w := &runWork{User: config.User, Dir: config.WorkingDir, Hostname: d.p.o.Args[argHostname], Env: slices.Sorted(slices.Values(d.s.env))}
	if w.Dir == "" {
		w.Dir = "/"
	}
	var err error
	if w.Args, w.Script, err = runArgs(cmd); err != nil {
		return err
	}
	if cmd.PrependShell {
		w.Args = d.withShell(w.Args)
	}
	if len(w.Args) == 0 || w.Args[0] == "" {
		return fmt.Errorf("there is no command: %w", errdefs.ErrInvalidArgument)
	}
	if w.Network = instructions.GetNetwork(cmd); w.Network == instructions.NetworkDefault {
		w.Network = ""
	}
	for _, m := range instructions.GetMounts(cmd) {
		planned, err := d.mount(m)
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		w.Mounts = append(w.Mounts, planned)
	}
	st.work = w
	st.history = stepHistory("RUN %s", d.runText(w.Args))
	return nil
}

// runArgs is what runs, without the shell. Here-documents are dealt with as
// BuildKit does.
func runArgs(cmd *instructions.RunCommand) ([]string, *script, error) {
	args := cmd.CmdLine
	if len(cmd.Files) == 0 {
		return args, nil, nil
	}
	if len(args) != 1 || !cmd.PrependShell {
		return nil, nil, fmt.Errorf("a here-document needs the shell form: %w", errdefs.ErrInvalidArgument)
	}
	if heredoc := parser.MustParseHeredoc(args[0]); heredoc != nil { // and nothing else
		f := cmd.Files[0]
		data := f.Data
		if f.Chomp {
			data = parser.ChompHeredocContent(data)
		}
		if strings.HasPrefix(data, "#!") {
			return []string{scriptDir + path.Base(f.Name)}, &script{path.Base(f.Name), data}, nil
		}
		return []string{data}, nil, nil
	}
	var text strings.Builder // the shell reads them
	text.WriteString(args[0])
	for _, f := range cmd.Files {
		text.WriteString("\n" + f.Data + f.Name)
	}
	return []string{text.String()}, nil, nil
}

// runText is a command in the history, with the ARGs that it saw.
func (d *dispatcher) runText(args []string) string {
	var seen []string
	for _, arg := range d.s.args {
		value, ok := d.s.env.get(arg.Key)
		if !ok {
			value = arg.ValueString()
		}
		seen = environ(seen).with(arg.Key, value)
	}
	if len(seen) > 0 {
		seen = append([]string{fmt.Sprintf("|%d", len(seen))}, seen...)
	}
	return strings.Join(append(seen, args...), " ")
}

func (w *runWork) sources() (all []origin) {
	for _, m := range w.Mounts {
		all = append(all, m.from)
	}
	return all
}

func (w *runWork) input(ctx context.Context) (any, error) {
	for _, m := range w.Mounts {
		if err := m.identify(ctx); err != nil {
			return nil, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	}
	return w, nil
}

func (w *runWork) run(x *execution, r *run) error {
	spec := api.ContainerSpec{
		Command: w.Args, User: w.User, WorkDir: w.Dir, Hostname: "build",
		Network: api.Network{Mode: w.Network},
	}
	if w.Network == "host" {
		spec.Hostname = ""
	}
	if w.Hostname != "" {
		spec.Hostname = w.Hostname
	}
	// What the host lends comes first, so that the Dockerfile can have its own;
	// HOSTNAME, which engines set, is not there in Docker's builds.
	env, mounts, err := x.b.hostFor(x.o.Args)
	if err != nil {
		return err
	}
	if !x.o.Epoch.IsZero() {
		env = append(env, fmt.Sprintf("SOURCE_DATE_EPOCH=%d", x.o.Epoch.Unix()))
	}
	spec.Env = slices.Concat([]string{"HOSTNAME"}, env, w.Env)
	if own, ok := environ(w.Env).get(javaOptions); ok { // options of both
		lent, _ := environ(env).get(javaOptions)
		spec.Env = append(spec.Env, javaOptions+"="+strings.TrimSpace(lent+" "+own))
	}
	spec.Mounts = mounts
	if w.Script != nil {
		m, err := r.scriptMount(*w.Script)
		if err != nil {
			return err
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	if err := x.openCaches(r, w.Mounts); err != nil {
		return err
	}
	for _, m := range w.Mounts {
		if err := x.mount(r, m, &spec); err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	}
	tail, text := &tail{}, &text{}
	exit, err := x.b.Engine.RunLayer(r.ctx, engine.LayerRun{
		LowerDirs: r.lower, UpperDir: r.upper, Spec: spec,
		Output: func(stream string, data []byte) {
			tail.write(stream, data)
			if out := text.add(stream, data); out != "" {
				x.emit(r.step, api.BuildEvent{Stream: stream, Output: out})
			}
		},
	}, x.o.Trace)
	if err != nil {
		return err
	}
	if exit.Code != 0 {
		return &ExitError{Code: exit.Code, OOMKilled: exit.OOMKilled, Message: exit.Message, Output: tail.lines()}
	}
	return nil
}

func (r *run) scriptMount(s script) (api.Mount, error) {
	dir, err := r.temp("script")
	if err != nil {
		return api.Mount{}, err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // the user need not be root
		return api.Mount{}, err
	}
	err = os.WriteFile(path.Join(dir, s.Name), []byte(s.Data), 0o755)
	return api.Mount{Type: "bind", Source: dir, Target: strings.TrimSuffix(scriptDir, "/"), Options: []string{"ro"}}, err
}
