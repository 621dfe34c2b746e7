package build

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"
	ispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// keyVersion changes when the same instruction is to give another result.
const keyVersion = 1

// historyComment marks the entries of histories that are made as BuildKit
// makes them, as docker history shows.
const historyComment = "sandbox.dockerfile.v0"

// dispatcher goes through the instructions of one stage.
type dispatcher struct {
	p      *planner
	s      *stage
	number int // of the stage
	cmdSet bool
}

// instructions plans what a stage's base has left to do, and its own.
func (p *planner) instructions(s *stage, st *instructions.Stage, number int) error {
	d := &dispatcher{p: p, s: s, number: number}
	triggers := s.config.Config.OnBuild
	s.config.Config.OnBuild = nil
	line := lineIn(st.Location)
	if s.base.folder != nil {
		d.whole(s.base, st.SourceCode, line)
		s.base = origin{}
	}
	for _, t := range triggers {
		cmd, err := parseTrigger(t)
		if err != nil {
			return fmt.Errorf("ONBUILD %s of the base: %w: %w", t, err, errdefs.ErrInvalidArgument)
		}
		// The image may have been built by another program.
		c := &checker{file: p.file}
		c.onbuild(t, line)
		if err := problemsError(c.problems); err != nil {
			return err
		}
		if err := d.dispatch(cmd, "ONBUILD "+t, line); err != nil {
			return err
		}
	}
	for _, cmd := range st.Commands {
		if err := d.dispatch(cmd, fmt.Sprint(cmd), lineIn(cmd.Location())); err != nil {
			return err
		}
	}
	return d.keys()
}

// dispatch plans one instruction.
func (d *dispatcher) dispatch(cmd instructions.Command, text string, line int) error {
	st := &step{stage: d.s, number: len(d.s.steps) + 1, line: line, instruction: text}
	err := d.p.expand.instruction(cmd, d.s.env)
	if err == nil {
		switch cmd := cmd.(type) {
		case *instructions.RunCommand:
			err = d.run(st, cmd)
		case *instructions.CopyCommand:
			err = d.copy(st, cmd)
		case *instructions.AddCommand:
			err = d.add(st, cmd)
		case *instructions.WorkdirCommand:
			err = d.workdir(st, cmd)
		case *instructions.ArgCommand:
			err = d.arg(st, cmd)
		case *instructions.OnbuildCommand:
			d.s.triggers = append(d.s.triggers, cmd.Expression)
			d.s.config.Config.OnBuild = append(d.s.config.Config.OnBuild, cmd.Expression)
			return nil // as in BuildKit it leaves no trace in the history
		default:
			err = d.configure(st, cmd)
		}
	}
	if d.p.history += len(st.history.CreatedBy); err == nil && (len(d.s.env) > maxVariables || d.p.history > maxHistory) {
		err = fmt.Errorf("the stage has more than %d variables, or their values fill a history of %d bytes: %w", maxVariables, maxHistory, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return at(d.s.name, line, text, err)
	}
	st.history.Comment = historyComment
	st.history.EmptyLayer = st.work == nil
	if !d.p.o.Epoch.IsZero() {
		epoch := d.p.o.Epoch.UTC()
		st.history.Created = &epoch
	}
	d.s.steps = append(d.s.steps, st)
	return nil
}

// keys gives each layer its key: a digest of the layers below, which are known
// by their keys, and of all that the instruction sees.
func (d *dispatcher) keys() error {
	seen := map[digest.Digest]int{}
	for _, st := range d.s.steps {
		if st.work == nil {
			continue
		}
		input, err := st.work.input(d.p.ctx)
		if err != nil {
			return at(d.s.name, st.line, st.instruction, err)
		}
		below := d.s.key
		if l, ok := st.work.(interface{ apart() bool }); ok && l.apart() {
			below = "" // it does not look at what it is put on
		}
		key := func(n int) (digest.Digest, error) {
			b, err := json.Marshal(struct {
				Version  int
				Platform string
				Below    digest.Digest
				Kind     string
				Input    any
				Epoch    int64
				Again    int `json:",omitempty"`
			}{keyVersion, hostPlatform(), below, fmt.Sprintf("%T", st.work), input, d.p.o.Epoch.Unix(), n})
			return digest.FromBytes(b), err
		}
		if st.key, err = key(0); err != nil {
			return err
		}
		// The same layer twice in one stack is none that overlayfs takes.
		if seen[st.key]++; seen[st.key] > 1 {
			if st.key, err = key(seen[st.key]); err != nil {
				return err
			}
		}
		d.s.key = digest.FromString(d.s.key.String() + "\n" + st.key.String())
	}
	return nil
}

// stepHistory is what an instruction adds to the image's history.
func stepHistory(format string, args ...any) ispec.History {
	return ispec.History{CreatedBy: fmt.Sprintf(format, args...)}
}

// total is how many steps the stage has.
func (s *stage) total() int { return len(s.steps) }
