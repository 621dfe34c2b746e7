package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// board shows what pulls and builds are doing: a line for each step that is
// under way, redrawn in place on a live terminal; a line for each that has
// ended; and what a step has said, when it fails. Its methods are called by one
// goroutine.
type board struct {
	term     ui.Terminal
	show     shown
	progress *ui.Progress
	steps    []*boardStep // that are not printed as ended yet
	explain  *explainer
	told     map[string]bool // recipes whose failure was shown
	spoken   map[string]bool // and what the failing step has said
	cached   int
}

// boardStep is one step of a board.
type boardStep struct {
	ui.Step
	key    string
	begun  time.Time
	output string            // its end, at most maxOutput bytes
	line   map[string]string // by stream, what has not come to its end
}

const (
	// maxOutput is how much of a step's output is kept to be shown if it fails,
	// in bytes.
	maxOutput = 64 << 10
	// maxLabel is how wide a step's label may be.
	maxLabel = 60
)

func (p *program) newBoard(show shown) *board {
	return &board{
		term: p.Term, show: show, progress: ui.NewProgress(p.Term), told: map[string]bool{}, spoken: map[string]bool{},
		explain: &explainer{term: p.Term, json: show.json},
	}
}

// frame takes one in.
func (b *board) frame(f api.Frame) {
	if b.show.json {
		_ = ui.JSONLine(b.term.Stdout(), f)
		return
	}
	switch {
	case f.Explain != nil, f.Warning != "":
		b.explain.frame(f)
	case b.show.quiet:
	case f.Progress != nil:
		step := b.step("\x00" + f.Progress.Item)
		begun := step.begun
		step.Step = blobStep(*f.Progress)
		step.Took = time.Since(begun)
		b.redraw()
	case f.Build != nil:
		b.build(*f.Build)
	}
}

// step finds a step, or begins it.
func (b *board) step(key string) *boardStep {
	i := slices.IndexFunc(b.steps, func(s *boardStep) bool { return s.key == key })
	if i < 0 {
		i = len(b.steps)
		b.steps = append(b.steps, &boardStep{key: key, begun: time.Now(), line: map[string]string{}})
	}
	return b.steps[i]
}

// build takes in what a build tells.
func (b *board) build(ev api.BuildEvent) {
	if ev.Status == "packed" && !b.show.plain {
		return // a moment, between the instructions and the image
	}
	step := b.step(strings.Join([]string{ev.Recipe, ev.Stage, ev.Step, ev.Instruction}, "\x00"))
	label := strings.Join(strings.Fields(ev.Recipe+" "+stageLabel(ev)), " ")
	instruction := ev.Instruction
	if instruction == "" {
		instruction = "recipe"
	}
	step.Group, step.Name = ui.Plain(label), ui.Truncate(ui.Plain(instruction), maxLabel)
	if ev.Output != "" {
		step.State = ui.StepActive
		b.output(step, ev)
		return
	}
	switch ev.Status {
	case api.BuildCached:
		b.cached++
		if !b.show.plain && b.term.Live() {
			b.forget(step) // many, and each of no news
			return
		}
		step.State, step.Note = ui.StepSkipped, "cached"
	case api.BuildFailed:
		if ev.Instruction == "" && b.told[ev.Recipe] {
			b.forget(step) // an instruction was it
			return
		}
		b.told[ev.Recipe] = true
		step.State, step.Took, step.Error, step.Note = ui.StepFailed, ev.Took, firstLine(ev.Error), ""
		if ev.Step != "" && step.output != "" {
			b.spoken[ev.Recipe] = true
			b.showOutput(step)
		}
	case api.BuildCancelled:
		step.State, step.Took, step.Note = ui.StepAborted, ev.Took, ""
	case api.BuildRunning, api.BuildTesting:
		step.State = ui.StepActive
		if b.show.plain || !b.term.Live() {
			b.plain(step, "begins")
		}
	default: // done, packed
		if ev.Layer != nil && ev.Layer.Empty && ev.Took == 0 && !b.show.plain {
			b.forget(step) // it only changed the configuration
			return
		}
		step.State, step.Took, step.Note = ui.StepDone, ev.Took, layerNote(ev)
	}
	b.redraw()
}

func stageLabel(ev api.BuildEvent) string {
	if ev.Step == "" {
		return ""
	}
	return strings.TrimSpace(ev.Stage + " " + ev.Step)
}

func layerNote(ev api.BuildEvent) string {
	switch {
	case ev.Layer != nil && !ev.Layer.Empty:
		return fmt.Sprintf("%s, %s", ui.Bytes(ev.Layer.Unpacked), changes(*ev.Layer))
	case ev.Status != api.BuildDone:
		return ev.Status
	}
	return ""
}

// changes are the files of a layer: added, changed, removed.
func changes(l api.ImageLayer) string {
	return fmt.Sprintf("+%d ~%d -%d files", l.Added, l.Changed, l.Removed)
}

// output keeps what a step says, and shows the last line of it beside the step,
// or every line where nothing can be redrawn.
func (b *board) output(step *boardStep, ev api.BuildEvent) {
	step.output += ev.Output
	if over := len(step.output) - maxOutput; over > maxOutput {
		step.output = step.output[over:]
	}
	text := step.line[ev.Stream] + ev.Output
	for {
		line, rest, ok := strings.Cut(text, "\n")
		if !ok {
			break
		}
		text = rest
		step.Note = lastColumn(line)
		if b.show.plain || !b.term.Live() {
			b.plain(step, lastColumn(line))
		}
	}
	if len(text) > maxOutput {
		text = text[len(text)-maxOutput:]
	}
	step.line[ev.Stream] = text
	if bar := lastColumn(text); bar != "" {
		step.Note = bar
	}
}

// lastColumn is what a terminal would show of a line that was written over:
// progress bars end in carriage returns.
func lastColumn(line string) string {
	line = strings.TrimRight(line, "\r")
	return ui.Plain(strings.ReplaceAll(line[strings.LastIndexByte(line, '\r')+1:], "\t", "    "))
}

// plain prints one line of a step.
func (b *board) plain(step *boardStep, text string) {
	label := step.Group
	if label == "" {
		label = step.Name
	}
	if text == "begins" {
		text = step.Name
		if step.Group != "" {
			fmt.Fprintf(b.term.Stderr(), "%s %s\n", b.term.Style().Dim(label+" >"), text)
		}
		return
	}
	fmt.Fprintf(b.term.Stderr(), "%s %s\n", b.term.Style().Dim(label+" |"), text)
}

// showOutput prints what a step that fails has said, unless it was printed as
// it came.
func (b *board) showOutput(step *boardStep) {
	if b.show.plain || !b.term.Live() {
		return
	}
	text := strings.TrimRight(step.output, "\n")
	lines := strings.Split(text, "\n")
	if len(step.output) >= maxOutput {
		lines[0] = "…"
	}
	b.term.Status()
	for _, line := range lines {
		fmt.Fprintf(b.term.Stderr(), "%s %s\n", b.term.Style().Dim(step.Group+" |"), lastColumn(line))
	}
}

func (b *board) forget(step *boardStep) {
	b.steps = slices.DeleteFunc(b.steps, func(s *boardStep) bool { return s == step })
	b.redraw()
}

// redraw brings the terminal up to date.
func (b *board) redraw() {
	if b.show.json || b.show.quiet {
		return
	}
	steps := make([]ui.Step, len(b.steps))
	for i, s := range b.steps {
		steps[i] = s.Step
		steps[i].Active = s.begun
		if s.State == ui.StepActive && !b.term.Live() {
			steps[i].Note = ""
		}
	}
	b.progress.Update(steps)
	b.steps = slices.DeleteFunc(b.steps, func(s *boardStep) bool { return s.State.Final() })
}

func (b *board) close() { b.progress.Close() }

// firstLine is the part of an error before a step's output, which has lines of
// its own.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, ":")
}
