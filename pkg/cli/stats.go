package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
	cli "github.com/urfave/cli/v2"
)

func (p *program) statsCommand() *cli.Command {
	return &cli.Command{
		Name: "stats", Category: groupLook,
		Usage:     "show what containers use of CPU, memory, processes, disk and network",
		ArgsUsage: "[CONTAINER...]",
		Description: `
Every second, for all running containers or those given. A "-" is what this
host's kernel cannot tell: the controller is missing, see sandbox doctor.

EXAMPLES
  sandbox stats
  sandbox stats --no-stream web
  sandbox stats --json web | jq .memory.current`,
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "no-stream", Usage: "one sample only", DisableDefaultText: true},
			&cli.BoolFlag{Name: "json", Usage: "print JSON: an object a line, or an array with --no-stream", DisableDefaultText: true},
			&cli.BoolFlag{Name: "no-trunc", Usage: "print IDs in full", DisableDefaultText: true},
		},
		Action: p.action(0, -1, p.stats),
	}
}

// samples is the latest sample of each container, in the order of the list.
type samples struct {
	mu     sync.Mutex
	order  []string
	latest map[string]api.Stats
}

func (s *samples) put(v api.Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.latest[v.ID] = v
}

func (s *samples) drop(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.latest, id)
}

func (s *samples) list() []api.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := []api.Stats{}
	for _, id := range s.order {
		if v, ok := s.latest[id]; ok {
			out = append(out, v)
		}
	}
	return out
}

// settleTime is how long the samples of one second may take to arrive.
const settleTime = 150 * time.Millisecond

// errEnough ends a stream whose reader has all it wanted.
var errEnough = errors.New("enough")

func (p *program) stats(ctx context.Context, c *cli.Context) error {
	containers, err := p.statsTargets(ctx, c.Args().Slice())
	if err != nil {
		return err
	}
	once, asJSON, full := c.Bool("no-stream"), c.Bool("json"), c.Bool("no-trunc")
	s := &samples{latest: map[string]api.Stats{}}
	for _, item := range containers {
		s.order = append(s.order, item.ID)
	}
	changed := make(chan struct{}, 1)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var failed error
	for _, item := range containers {
		wg.Go(func() {
			n := 0
			err := p.client().StreamStats(ctx, item.ID, func(v api.Stats) error {
				// A percentage takes two samples.
				if n++; n == 1 {
					s.put(v)
					return nil
				}
				s.put(v)
				if asJSON && !once {
					mu.Lock()
					defer mu.Unlock()
					return ui.JSONLine(p.Term.Stdout(), v)
				}
				select {
				case changed <- struct{}{}:
				default:
				}
				if once {
					return errEnough
				}
				return nil
			})
			if !once {
				s.drop(item.ID)
			}
			if err != nil && !errors.Is(err, errEnough) && !isNotFound(err) {
				mu.Lock()
				defer mu.Unlock()
				failed = joinErrors(failed, err)
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	var settled <-chan time.Time
	for running := true; running; {
		select {
		case <-changed:
			// The samples of a second come one after the other: drawn together.
			if settled == nil {
				settled = time.After(settleTime)
			}
		case <-settled:
			settled = nil
			if !once && !asJSON {
				p.drawStats(s.list(), full)
			}
		case <-all:
			running = false
		}
	}
	p.Term.Status()
	if failed != nil || !once {
		return failed
	}
	if asJSON {
		return ui.JSON(p.Term.Stdout(), s.list())
	}
	return statsTable(s.list(), full).Write(p.Term.Stdout(), p.Term.OutStyle())
}

// drawStats replaces the table on a live terminal; elsewhere it prints another.
func (p *program) drawStats(list []api.Stats, full bool) {
	t := statsTable(list, full)
	if p.Term.Live() {
		p.Term.Status(t.Lines(p.Term.Style())...)
		return
	}
	_ = t.Write(p.Term.Stdout(), p.Term.OutStyle())
}

func (p *program) statsTargets(ctx context.Context, refs []string) ([]api.Container, error) {
	if len(refs) == 0 {
		all, err := p.client().ListContainers(ctx)
		return slices.DeleteFunc(all, func(c api.Container) bool {
			return c.Status != api.StatusRunning && c.Status != api.StatusPaused
		}), err
	}
	var out []api.Container
	for _, ref := range refs {
		item, err := p.client().InspectContainer(ctx, ref)
		if err != nil {
			return nil, err
		}
		if item.Status != api.StatusRunning && item.Status != api.StatusPaused {
			return nil, fmt.Errorf("%s is not running, it is %s", item.Name, item.Status)
		}
		out = append(out, item)
	}
	return out, nil
}

func statsTable(list []api.Stats, full bool) *ui.Table {
	t := &ui.Table{
		Header: []string{"CONTAINER ID", "NAME", "CPU %", "THROTTLED", "MEMORY / LIMIT", "MEM %", "PIDS", "DISK R / W", "NET IN / OUT"},
		Right:  []int{2, 3, 4, 5, 6, 7, 8},
	}
	size := func(n uint64) string { return strings.ReplaceAll(ui.Bytes(int64(n)), " ", "") } //nolint:gosec // below 8 EiB
	for _, s := range list {
		cpu, throttled, memory, percent, pids, disk, net := "-", "-", "-", "-", "-", "-", "-"
		if c := s.CPU; c != nil {
			cpu, throttled = fmt.Sprintf("%.1f%%", c.Percent), "0"
			if c.Periods > 0 {
				throttled = fmt.Sprintf("%d/%d", c.Throttled, c.Periods)
			}
		}
		if m := s.Memory; m != nil {
			memory = size(m.Current)
			if m.Limit > 0 {
				memory += " / " + size(m.Limit)
				percent = fmt.Sprintf("%.1f%%", 100*float64(m.Current)/float64(m.Limit))
			}
		}
		if n := s.Pids; n != nil {
			pids = fmt.Sprint(n.Current)
			if n.Limit > 0 {
				pids += fmt.Sprintf(" / %d", n.Limit)
			}
		}
		if io := s.IO; io != nil {
			disk = size(io.ReadBytes) + " / " + size(io.WriteBytes)
		}
		if n := s.Net; n != nil {
			net = size(n.RxBytes) + " / " + size(n.TxBytes)
		}
		t.Add(shortID(s.ID, full), ui.Plain(s.Name), cpu, throttled, memory, percent, pids, disk, net)
	}
	return t
}
