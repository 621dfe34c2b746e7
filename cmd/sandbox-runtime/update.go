package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func update(ctx context.Context, g *global, args []string) (int, error) {
	fs := flags("update")
	file := fs.String("resources", "", "`file` with linux.resources as JSON, - for standard input")
	fs.StringVar(file, "r", "", "short for --resources")
	var (
		memory   = fs.Int64("memory", 0, "memory limit in `bytes`, -1 for none")
		reserve  = fs.Int64("memory-reservation", 0, "memory that is protected, in `bytes`")
		swap     = fs.Int64("memory-swap", 0, "memory and swap in `bytes`, -1 for no limit")
		quota    = fs.Int64("cpu-quota", 0, "CPU time per period in `µs`, -1 for no limit")
		period   = fs.Uint64("cpu-period", 0, "period in `µs`")
		burst    = fs.Uint64("cpu-burst", 0, "CPU time that may be saved up, in `µs`")
		shares   = fs.Uint64("cpu-share", 0, "CPU `shares` (cgroup v1's scale), converted to a weight")
		idle     = fs.Int64("cpu-idle", 0, "1: only CPU time that nobody else wants")
		cpus     = fs.String("cpuset-cpus", "", "`CPUs`, such as 0-2,5")
		mems     = fs.String("cpuset-mems", "", "memory `nodes`")
		pids     = fs.Int64("pids-limit", 0, "number of processes, -1 for no limit")
		ioWeight = fs.Uint("blkio-weight", 0, "I/O `weight`, 10 to 1000")
	)
	args, err := parse(fs, args, 1, 1)
	if err != nil {
		return 2, err
	}
	res := new(specs.LinuxResources)
	if *file != "" {
		if err := readResources(*file, res); err != nil {
			return 1, err
		}
	}
	mem, cpu := &specs.LinuxMemory{}, &specs.LinuxCPU{Cpus: *cpus, Mems: *mems}
	set := map[string]func(){
		"memory":             func() { mem.Limit = memory },
		"memory-reservation": func() { mem.Reservation = reserve },
		"memory-swap":        func() { mem.Swap = swap },
		"cpu-quota":          func() { cpu.Quota = quota },
		"cpu-period":         func() { cpu.Period = period },
		"cpu-burst":          func() { cpu.Burst = burst },
		"cpu-share":          func() { cpu.Shares = shares },
		"cpu-idle":           func() { cpu.Idle = idle },
		"pids-limit":         func() { res.Pids = &specs.LinuxPids{Limit: pids} },
		"blkio-weight": func() {
			w := uint16(min(*ioWeight, 1000)) //nolint:gosec // bounded
			res.BlockIO = &specs.LinuxBlockIO{Weight: &w}
		},
	}
	fs.Visit(func(given *flag.Flag) {
		name := given.Name
		if f, ok := set[name]; ok {
			f()
		}
		switch name {
		case "memory", "memory-reservation", "memory-swap":
			res.Memory = mem
		case "cpu-quota", "cpu-period", "cpu-burst", "cpu-share", "cpu-idle", "cpuset-cpus", "cpuset-mems":
			res.CPU = cpu
		}
	})
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	return 0, r.Update(ctx, args[0], res)
}

func readResources(file string, res *specs.LinuxResources) error {
	in := os.Stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	if err := json.NewDecoder(in).Decode(res); err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	return nil
}
