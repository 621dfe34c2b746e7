package metrics

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// Engine is what is asked about containers; an engine.Engine has it.
type Engine interface {
	List(ctx context.Context) ([]api.Container, error)
	Stats(ctx context.Context, ref string) (api.Stats, error)
}

const (
	// remembered is for how long an OOM kill is told of after the container's
	// end. Many a container lives for less than a scrape interval, and one that
	// removes itself leaves nothing else to tell of it.
	remembered = 15 * time.Minute
	// maxRemembered bounds how many: a loop of `run --rm` is no reason for
	// series without end.
	maxRemembered = 64
)

// Containers is a prometheus.Collector. It keeps no series: what it tells is
// what there is at the moment of the scrape, and the few OOM kills of late.
type Containers struct {
	engine Engine
	sys    string // where sysfs is mounted
	log    *zap.Logger
	exits  *prometheus.CounterVec

	mu     sync.Mutex
	killed []kill // oldest first
	// oomKills is what was last told of each container that runs: its end must
	// not take the count back.
	oomKills map[string]uint64
}

// kill is a container that has ended by an OOM kill.
type kill struct {
	labels []string
	at     time.Time
	count  uint64
}

var (
	scrapeError = prometheus.NewDesc("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise.", nil, nil)
	byStatus    = prometheus.NewDesc("sandbox_containers", "Containers of the raw engine.", []string{"status"}, nil)
)

// NewContainers returns a collector of the engine's containers. sys is where
// sysfs is mounted, which knows the names of disks.
func NewContainers(engine Engine, sys string, log *zap.Logger) *Containers {
	c := &Containers{engine: engine, sys: sys, log: log, oomKills: map[string]uint64{}}
	c.exits = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "sandbox_container_exits_total",
		Help: "Ends of containers of the raw engine since the daemon started, by reason: done (exit code 0), error, oom_killed.",
	}, []string{"reason"})
	for _, reason := range []string{"done", "error", "oom_killed"} {
		c.exits.WithLabelValues(reason) // from 0 on: the first is an increase, too
	}
	return c
}

// Exited takes note of a container's end.
func (c *Containers) Exited(ct api.Container, exit api.Exit) {
	switch {
	case exit.OOMKilled:
		c.exits.WithLabelValues("oom_killed").Inc()
	case exit.Code != 0:
		c.exits.WithLabelValues("error").Inc()
	default:
		c.exits.WithLabelValues("done").Inc()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.oomKills[ct.ID]
	delete(c.oomKills, ct.ID)
	if !exit.OOMKilled {
		return
	}
	c.killed = append(c.killed, kill{labelsOf(ct), exit.At, max(last, 1)})
	if len(c.killed) > maxRemembered {
		c.killed = append([]kill(nil), c.killed[len(c.killed)-maxRemembered:]...)
	}
}

// Describe implements prometheus.Collector.
func (c *Containers) Describe(ch chan<- *prometheus.Desc) {
	ch <- scrapeError
	ch <- byStatus
	for i := range table {
		ch <- table[i].desc
	}
}

// Collect implements prometheus.Collector.
func (c *Containers) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	failed := 0.0
	defer func() { ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, failed) }()

	list, err := c.engine.List(ctx)
	if err != nil {
		c.log.Warn("list containers for Prometheus", zap.Error(err))
		failed = 1
		return
	}
	count := map[string]int{api.StatusCreated: 0, api.StatusRunning: 0, api.StatusPaused: 0, api.StatusExited: 0}
	seen := map[string]uint64{}
	for _, ct := range list {
		count[ct.Status]++
		if ct.Status != api.StatusRunning && ct.Status != api.StatusPaused {
			continue
		}
		stats, err := c.engine.Stats(ctx, ct.ID)
		if err != nil {
			// It may have ended since it was listed.
			if !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
				c.log.Warn("read a container's statistics for Prometheus", zap.String("container", ct.ID), zap.Error(err))
				failed = 1
			}
			continue
		}
		if stats.Memory != nil {
			seen[ct.ID] = stats.Memory.OOMKill
		}
		s := sample{Stats: stats, started: ct.Started, device: c.device}
		labels := labelsOf(ct)
		for i := range table {
			table[i].collect(ch, labels, &s)
		}
	}
	for status, n := range count {
		ch <- prometheus.MustNewConstMetric(byStatus, prometheus.GaugeValue, float64(n), status)
	}
	c.collectKilled(ch, seen)
}

// collectKilled tells of the containers that are no more, but for those whose
// end the scrape has not noticed yet: a series must not be there twice.
func (c *Containers) collectKilled(ch chan<- prometheus.Metric, seen map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.oomKills = seen
	told := map[string]bool{}
	for id := range seen {
		told[id] = true
	}
	now := time.Now()
	kept := c.killed[:0]
	for _, k := range c.killed {
		if now.Sub(k.at) > remembered {
			continue
		}
		kept = append(kept, k)
		id := filepath.Base(k.labels[0])
		if !told[id] {
			told[id] = true
			ch <- prometheus.MustNewConstMetric(oomEvents, prometheus.CounterValue, float64(k.count), k.labels...)
		}
	}
	c.killed = kept
}

// labelNames are cAdvisor's for every container: id is the path of the cgroup.
var labelNames = []string{"id", "image", "name"}

func labelsOf(c api.Container) []string {
	id := c.Cgroup
	for _, mount := range []string{"/sys/fs/cgroup/unified", "/sys/fs/cgroup"} {
		if below, ok := strings.CutPrefix(id, mount+"/"); ok {
			id = "/" + below
			break
		}
	}
	if filepath.Base(id) != c.ID { // the engine has no cgroups of its own
		id = "/" + c.ID
	}
	return []string{id, strings.ToValidUTF8(c.Image, "\uFFFD"), strings.ToValidUTF8(c.Name, "\uFFFD")}
}

// device is the name of a disk, /dev/sda for 8:0, or its number if sysfs does
// not know it.
func (c *Containers) device(major, minor uint32) string {
	number := strconv.FormatUint(uint64(major), 10) + ":" + strconv.FormatUint(uint64(minor), 10)
	link, err := os.Readlink(filepath.Join(c.sys, "dev", "block", number))
	if err != nil {
		return number
	}
	return "/dev/" + filepath.Base(link)
}
