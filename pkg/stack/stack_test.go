package stack

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sandboxlabs/sandbox/pkg/api"
)

// fakeStage is a stage of one step each way.
type fakeStage struct {
	name     string
	needs    []string
	do, undo func(context.Context) error
	items    []api.StatusItem
}

func (s *fakeStage) Name() string    { return s.name }
func (s *fakeStage) Needs() []string { return s.needs }
func (s *fakeStage) Up(api.UpOptions) []Step {
	return []Step{{Name: "start", Do: func(ctx context.Context, p Progress) error {
		if s.do == nil {
			return nil
		}
		return s.do(ctx)
	}, Undo: s.undo}}
}
func (s *fakeStage) Down(api.DownOptions) []Step { return s.Up(api.UpOptions{}) }
func (s *fakeStage) Status(context.Context) ([]api.StatusItem, error) {
	return s.items, nil
}

// stages reads "a; b a; c a b": a name and its needs.
func stages(graph string) []Stage {
	var out []Stage
	for line := range strings.SplitSeq(graph, ";") {
		words := strings.Fields(line)
		out = append(out, &fakeStage{name: words[0], needs: words[1:]})
	}
	return out
}

func planned(p *Plan) string {
	var names []string
	for _, t := range p.Tasks() {
		names = append(names, t.Stage)
	}
	return strings.Join(names, " ")
}

func TestGraph(t *testing.T) {
	for _, tc := range []struct {
		graph, order, err string
	}{
		{"a", "a", ""},
		{"c b; b a; a", "a b c", ""},
		{"d b c; b a; c a; a", "a b c d", ""},
		{"a; b; a", "", "two stages are named a"},
		{"a x", "", "stage a needs x, which is not a stage"},
		{"a a", "", "cycle: a -> a"},
		{"a; b a d; c b; d c", "", "cycle: b -> d -> c -> b"},
	} {
		g, err := New(stages(tc.graph)...)
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want %s", tc.graph, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.graph, err)
			continue
		}
		if order := strings.Join(g.Names(), " "); order != tc.order {
			t.Errorf("%s: order %s, want %s", tc.graph, order, tc.order)
		}
	}
}

func TestSelect(t *testing.T) {
	g, err := New(stages("internals; cluster internals; monitoring cluster; aws")...)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		only, without string
		want, err     string
	}{
		{"", "", "internals cluster monitoring aws", ""},
		{"internals", "", "internals", ""},
		{"monitoring", "", "internals cluster monitoring", ""},
		{"aws internals", "", "internals aws", ""},
		{"", "aws", "internals cluster monitoring", ""},
		{"", "cluster", "internals aws", ""},
		{"monitoring aws", "aws", "", "stage aws is asked for, but aws is to be left out"},
		{"monitoring", "internals", "", "stage monitoring is asked for, but internals is to be left out"},
		{"", "internals aws", "", "no stage is left"},
		{"moon", "", "", `unknown stage "moon": the stages are internals, cluster, monitoring, aws`},
		{"", "moon", "", `unknown stage "moon"`},
	} {
		p, err := g.Up(api.UpOptions{Only: strings.Fields(tc.only), Without: strings.Fields(tc.without)})
		if tc.err != "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("only %q, without %q: error %v, want %s", tc.only, tc.without, err, tc.err)
			}
			continue
		}
		if err != nil || planned(p) != tc.want {
			t.Errorf("only %q, without %q: %v, %v, want %s", tc.only, tc.without, planned(p), err, tc.want)
		}
	}
	p, err := g.Down(api.DownOptions{})
	if err != nil || planned(p) != "aws monitoring cluster internals" {
		t.Errorf("down: %s, %v", planned(p), err)
	}
}

// log collects the last status of each stage's task.
type log struct {
	mu    sync.Mutex
	tasks map[string]api.Task
}

func (l *log) update(t api.Task) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.tasks == nil {
		l.tasks = map[string]api.Task{}
	}
	l.tasks[t.Stage] = t
}

func (l *log) status(stage string) string { return l.tasks[stage].Status }

// TestSideBySide: two stages that wait for each other's beginning can only end
// if they run at the same time, and the one that needs both runs after them.
func TestSideBySide(t *testing.T) {
	x, y := make(chan int), make(chan int)
	var order []string
	var mu sync.Mutex
	note := func(name string, more func()) func(context.Context) error {
		return func(context.Context) error {
			more()
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return nil
		}
	}
	all := []Stage{
		&fakeStage{name: "last", needs: []string{"x", "y"}, do: note("last", func() {})},
		&fakeStage{name: "x", do: note("x", func() { close(x); <-y })},
		&fakeStage{name: "y", do: note("y", func() { close(y); <-x })},
	}
	g, err := New(all...)
	if err != nil {
		t.Fatal(err)
	}
	p, err := g.Up(api.UpOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var l log
	if err := p.Run(t.Context(), l.update); err != nil {
		t.Error(err)
	}
	if len(order) != 3 || order[2] != "last" {
		t.Errorf("order: %v", order)
	}
	// Down is the other way round.
	order = nil
	all[1].(*fakeStage).do = note("x", func() {})
	all[2].(*fakeStage).do = note("y", func() {})
	if p, err = g.Down(api.DownOptions{}); err == nil {
		err = p.Run(t.Context(), l.update)
	}
	if err != nil || order[0] != "last" {
		t.Errorf("order of down: %v, %v", order, err)
	}
}

func TestFailureSpares(t *testing.T) {
	var undone []string
	undo := func(name string) func(context.Context) error {
		return func(ctx context.Context) error { undone = append(undone, name); return ctx.Err() }
	}
	g, err := New(
		&fakeStage{name: "bad", do: func(context.Context) error { return errors.New("broken") }, undo: undo("bad")},
		&fakeStage{name: "child", needs: []string{"bad"}},
		&fakeStage{name: "grandchild", needs: []string{"child"}},
		&fakeStage{name: "good", undo: undo("good")},
	)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := g.Up(api.UpOptions{})
	var l log
	err = p.Run(t.Context(), l.update)
	if err == nil || err.Error() != "stage bad: start: broken" {
		t.Errorf("error: %v", err)
	}
	for stage, want := range map[string]string{"bad": api.Failed, "child": api.Skipped, "grandchild": api.Skipped, "good": api.Done} {
		if l.status(stage) != want {
			t.Errorf("%s: %s, want %s", stage, l.status(stage), want)
		}
	}
	if !slices.Equal(undone, []string{"bad"}) {
		t.Errorf("undone: %v", undone)
	}
}

func TestCancel(t *testing.T) {
	why := errors.New("the user has had enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	begun := make(chan struct{})
	g, err := New(
		&fakeStage{name: "slow", do: func(ctx context.Context) error {
			close(begun)
			<-ctx.Done()
			return ctx.Err()
		}, undo: func(context.Context) error { return errors.New("and it does not go away") }},
		&fakeStage{name: "next", needs: []string{"slow"}},
	)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := g.Up(api.UpOptions{})
	go func() { <-begun; cancel(why) }()
	var l log
	done := make(chan error)
	go func() { done <- p.Run(ctx, l.update) }()
	select {
	case err = <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("hangs")
	}
	if !errors.Is(err, why) || !strings.Contains(err.Error(), "undo start: and it does not go away") {
		t.Errorf("error: %v", err)
	}
	if l.status("slow") != api.Aborted || l.status("next") != api.Skipped {
		t.Errorf("%+v", l.tasks)
	}
	// Nothing begins when it is over before it began.
	l = log{}
	if err := p.Run(ctx, l.update); !errors.Is(err, why) || l.status("slow") != api.Skipped {
		t.Errorf("%v, %+v", err, l.tasks)
	}
}

func TestStatus(t *testing.T) {
	item := func(states ...string) (out []api.StatusItem) {
		for _, s := range states {
			out = append(out, api.StatusItem{State: s})
		}
		return out
	}
	g, err := New(
		&fakeStage{name: "a", items: item("up", "up")},
		&fakeStage{name: "b", items: item("up", "down")},
		&fakeStage{name: "c", items: item("down")},
		&fakeStage{name: "d"},
	)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range g.Status(t.Context()) {
		got = append(got, s.Name+":"+s.Status)
	}
	if s := strings.Join(got, " "); s != "a:up b:degraded c:down d:down" {
		t.Error(s)
	}
}
