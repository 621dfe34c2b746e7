package build

import (
	"context"
	"path"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/sandboxlabs/sandbox/pkg/recipe/build/filecopy"
)

// workdirWork makes the working directory, if it is not there.
type workdirWork struct{ Dir, User string }

func (d *dispatcher) workdir(st *step, cmd *instructions.WorkdirCommand) error {
	config := &d.s.config.Config
	dir := cmd.Path
	if !path.IsAbs(dir) {
		dir = path.Join("/", config.WorkingDir, dir)
	}
	config.WorkingDir = path.Clean(dir)
	st.history = stepHistory("WORKDIR %s", config.WorkingDir)
	if config.WorkingDir != "/" {
		st.work = &workdirWork{Dir: config.WorkingDir, User: config.User}
	}
	return nil
}

func (w *workdirWork) sources() []origin { return nil }

func (w *workdirWork) input(context.Context) (any, error) { return w, nil }

func (w *workdirWork) run(x *execution, r *run) error {
	root, err := x.view(r, r.lower, r.upper)
	if err != nil {
		return err
	}
	return filecopy.MkdirAll(root, w.Dir, w.User)
}
