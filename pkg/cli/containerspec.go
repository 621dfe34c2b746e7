package cli

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// request is what the command line of `run` or `create` asks for.
type request struct {
	spec        api.ContainerSpec
	engine      string
	detach      bool
	interactive bool
	explain     bool
	json        bool
	cidFile     string
	pull        string // "", missing, always, never
	detachKeys  string
	sigProxy    bool
}

// specFlag is one flag of `run` and `create`: how it is typed, what it says in
// --help, what it does to the request, and which config.json fields it ends up
// in, by which --explain names the flag behind an operation.
type specFlag struct {
	name, short string
	aliases     []string
	category    string
	placeholder string // "" makes it a switch
	list        bool   // may be repeated
	usage       string
	example     string // a right value, shown after a wrong one
	fields      []string
	apply       func(r *request, value string, o outside) error
}

// Categories of the flags, in the order of --help.
const (
	catProcess   = "The process"
	catResources = "Limits (cgroup v2)"
	catFiles     = "Files and mounts"
	catNetwork   = "Network"
	catSecurity  = "Rights"
	catIsolation = "Namespaces"
	catSandbox   = "What sandbox does"
)

// set stores what parse makes of the value.
func set[T any](parse func(string) (T, error), field func(*request) *T) func(*request, string, outside) error {
	return func(r *request, value string, _ outside) error {
		v, err := parse(value)
		if err == nil {
			*field(r) = v
		}
		return err
	}
}

// add appends what parse makes of the value.
func add[T any](parse func(string) (T, error), field func(*request) *[]T) func(*request, string, outside) error {
	return func(r *request, value string, _ outside) error {
		v, err := parse(value)
		if err == nil {
			*field(r) = append(*field(r), v)
		}
		return err
	}
}

// on stores a switch, whose value is "true" or "false" by now.
func on(field func(*request) *bool) func(*request, string, outside) error {
	return func(r *request, value string, _ outside) error {
		*field(r) = value == "true"
		return nil
	}
}

func text(s string) (string, error) { return s, nil }

func throttle(rate func(string) (uint64, error), field func(*request) *[]api.ThrottleDevice) func(*request, string, outside) error {
	return add(func(s string) (api.ThrottleDevice, error) { return parseThrottle(s, rate) }, field)
}

// specFlags is the table of all flags of `run` and `create`.
func specFlags() []specFlag {
	return slices.Concat(processFlags(), resourceFlags(), fileFlags(), networkFlags(), rightsFlags(), isolationFlags(), sandboxFlags())
}

// buildRequest applies typed flags in the order given (so that the last one of
// a kind counts) and checks what they say together. args is IMAGE and what
// follows it.
func buildRequest(typed []typedFlag, args []string, o outside) (request, error) {
	r := request{engine: "raw", sigProxy: true}
	table := map[string]specFlag{}
	for _, f := range specFlags() {
		table[f.name] = f
	}
	for _, t := range typed {
		f, ok := table[t.name]
		if !ok {
			continue
		}
		if err := f.apply(&r, t.value, o); err != nil {
			return r, badValue(f, t.value, err)
		}
		for _, field := range f.fields {
			r.flag(field, t.text, f.list)
		}
	}
	if len(args) == 0 {
		return r, &usageError{message: "an image is missing", hint: "for example: sandbox run --rm toolbox echo hello"}
	}
	r.spec.Image, r.spec.Command = args[0], args[1:]
	if r.spec.Image == "" {
		return r, usagef("the image's name is empty")
	}
	return r, r.check()
}

// flag notes which flag is behind a config.json field.
func (r *request) flag(field, text string, list bool) {
	if r.spec.Flags == nil {
		r.spec.Flags = map[string]string{}
	}
	if old := r.spec.Flags[field]; old != "" && list {
		text = old + " " + text
	}
	r.spec.Flags[field] = text
}

func badValue(f specFlag, value string, err error) error {
	if u, ok := errors.AsType[*usageError](err); ok {
		return u
	}
	message := fmt.Sprintf("invalid value %q for --%s: %s", value, f.name, err)
	if f.example != "" {
		message += fmt.Sprintf("; for example: --%s %s", f.name, f.example)
	}
	return &usageError{message: message}
}

// check looks at what no flag can see alone.
func (r *request) check() error {
	s, res := &r.spec, &r.spec.Resources
	switch {
	case res.MemorySwap > 0 && res.Memory == 0:
		return usagef("--memory-swap needs --memory: it is the sum of memory and swap; for example: -m 64m --memory-swap 128m")
	case res.MemorySwap > 0 && res.MemorySwap < res.Memory:
		return usagef("--memory-swap is the sum of memory and swap, and cannot be less than --memory; for example: -m 64m --memory-swap 128m")
	case res.Memory > 0 && res.MemoryReservation > res.Memory:
		return usagef("--memory-reservation cannot be more than --memory; for example: -m 64m --memory-reservation 32m")
	case res.CPUWeight > 0 && res.CPUShares > 0:
		return usagef("--cpu-weight and --cpu-shares say the same thing in two scales: give one of them")
	}
	if s.Network.Mode == "host" || s.Network.Mode == "none" || isContainerMode(s.Network.Mode) {
		if len(s.Network.Publish) > 0 {
			return usagef("--publish needs a network of the container's own, and there is none with --network %s", s.Network.Mode)
		}
	}
	if s.Hostname != "" && isContainerMode(s.Network.Mode) {
		return usagef("--hostname cannot be given with --network %s: the name is the other container's", s.Network.Mode)
	}
	targets := map[string]bool{}
	for _, m := range s.Mounts {
		if targets[m.Target] {
			return usagef("two mounts have the target %s", m.Target)
		}
		targets[m.Target] = true
	}
	if s.Privileged && s.UserNS != "" && s.UserNS != "host" {
		return usagef("--privileged and --userns %s exclude each other: add --userns host", s.UserNS)
	}
	return nil
}

func processFlags() []specFlag {
	return []specFlag{
		{name: "detach", short: "d", category: catProcess, usage: "run in the background and print the container's ID", apply: on(func(r *request) *bool { return &r.detach })},
		{name: "interactive", short: "i", category: catProcess, usage: "keep stdin open", apply: func(r *request, v string, _ outside) error {
			r.interactive, r.spec.OpenStdin = v == "true", v == "true"
			return nil
		}},
		{name: "tty", short: "t", category: catProcess, usage: "give the process a terminal (usually -it)", fields: []string{"process.terminal"}, apply: on(func(r *request) *bool { return &r.spec.TTY })},
		{name: "name", category: catProcess, placeholder: "NAME", usage: "name the container; otherwise it gets one", example: "web", apply: set(parseName, func(r *request) *string { return &r.spec.Name })},
		{name: "env", short: "e", category: catProcess, placeholder: "NAME[=VALUE]", list: true, usage: "set a variable; a bare NAME takes its value from here", example: "LANG=C", apply: func(r *request, v string, o outside) error {
			assignment, ok, err := parseEnv(v, o)
			if ok && err == nil {
				r.spec.Env = append(r.spec.Env, assignment)
			}
			return err
		}},
		{name: "env-file", category: catProcess, placeholder: "FILE", list: true, usage: "read variables from a file, one a line", example: "./app.env", apply: func(r *request, v string, o outside) error {
			env, err := parseEnvFile(v, o)
			// -e counts more than a file, wherever it stands.
			r.spec.Env = append(env, r.spec.Env...)
			return err
		}},
		{name: "workdir", short: "w", category: catProcess, placeholder: "DIR", usage: "start in this folder of the container", example: "/tmp", fields: []string{"process.cwd"}, apply: set(func(s string) (string, error) {
			if !strings.HasPrefix(s, "/") {
				return "", errors.New("not an absolute path")
			}
			return s, nil
		}, func(r *request) *string { return &r.spec.WorkDir })},
		{name: "user", short: "u", category: catProcess, placeholder: "USER[:GROUP]", usage: "run as this user, by name or number", example: "1000:1000", fields: []string{"process.user"}, apply: set(text, func(r *request) *string { return &r.spec.User })},
		{name: "entrypoint", category: catProcess, placeholder: "PROGRAM", usage: "replace the image's entrypoint; '' removes it", example: "/bin/sh", apply: func(r *request, v string, _ outside) error {
			r.spec.Entrypoint = []string{v}
			return nil
		}},
		{name: "init", category: catProcess, usage: "run an init as PID 1 that forwards signals and reaps zombies", fields: []string{"process.args"}, apply: on(func(r *request) *bool { return &r.spec.Init })},
		{name: "stop-signal", category: catProcess, placeholder: "SIGNAL", usage: "what `stop` sends first", example: "SIGTERM", apply: set(parseSignal, func(r *request) *string { return &r.spec.StopSignal })},
		{name: "stop-timeout", category: catProcess, placeholder: "SECONDS", usage: "how long `stop` waits before it kills", example: "10", apply: func(r *request, v string, _ outside) error {
			n, err := parseInt(-1, math.MaxInt32)(v)
			if err == nil {
				seconds := int(n)
				r.spec.StopTimeout = &seconds
			}
			return err
		}},
		{name: "label", short: "l", category: catProcess, placeholder: "NAME[=VALUE]", list: true, usage: "attach a label", example: "tier=web", apply: func(r *request, v string, _ outside) error {
			name, value, _ := strings.Cut(v, "=")
			if name == "" {
				return errors.New("the label has no name")
			}
			if r.spec.Labels == nil {
				r.spec.Labels = map[string]string{}
			}
			r.spec.Labels[name] = value
			return nil
		}},
	}
}

func resourceFlags() []specFlag {
	return []specFlag{
		{name: "memory", short: "m", category: catResources, placeholder: "SIZE", usage: "most memory: memory.max", example: "64m", fields: []string{"linux.resources.memory.limit"}, apply: set(parseMemory, func(r *request) *int64 { return &r.spec.Resources.Memory })},
		{name: "memory-swap", category: catResources, placeholder: "SIZE", usage: "most memory and swap together, -1 for no limit: memory.swap.max", example: "128m", fields: []string{"linux.resources.memory.swap"}, apply: set(parseMemorySwap, func(r *request) *int64 { return &r.spec.Resources.MemorySwap })},
		{name: "memory-reservation", category: catResources, placeholder: "SIZE", usage: "memory that is protected under pressure: memory.low", example: "32m", fields: []string{"linux.resources.memory.reservation"}, apply: set(parseSize, func(r *request) *int64 { return &r.spec.Resources.MemoryReservation })},
		{name: "cpus", category: catResources, placeholder: "N", usage: "most CPU time, in CPUs: cpu.max", example: "0.5", fields: []string{"linux.resources.cpu.quota", "linux.resources.cpu.period"}, apply: set(parseCPUs, func(r *request) *int64 { return &r.spec.Resources.NanoCPUs })},
		{name: "cpu-weight", category: catResources, placeholder: "N", usage: "share of CPU time when it is short, 1 to 10000: cpu.weight", example: "200", fields: []string{"linux.resources.unified", "linux.resources.unified.cpu.weight"}, apply: set(parseUint(1, 10000), func(r *request) *uint64 { return &r.spec.Resources.CPUWeight })},
		{name: "cpu-shares", short: "c", category: catResources, placeholder: "N", usage: "the same in cgroup v1's scale, 2 to 262144", example: "512", fields: []string{"linux.resources.cpu.shares"}, apply: set(parseUint(2, 262144), func(r *request) *uint64 { return &r.spec.Resources.CPUShares })},
		{name: "cpuset-cpus", category: catResources, placeholder: "LIST", usage: "run on these CPUs only: cpuset.cpus", example: "0-1,3", fields: []string{"linux.resources.cpu.cpus"}, apply: set(parseCPUSet, func(r *request) *string { return &r.spec.Resources.CpusetCPUs })},
		{name: "cpuset-mems", category: catResources, placeholder: "LIST", usage: "use memory of these NUMA nodes only: cpuset.mems", example: "0", fields: []string{"linux.resources.cpu.mems"}, apply: set(parseCPUSet, func(r *request) *string { return &r.spec.Resources.CpusetMems })},
		{name: "pids-limit", category: catResources, placeholder: "N", usage: "most processes and threads, -1 for no limit: pids.max", example: "20", fields: []string{"linux.resources.pids.limit"}, apply: set(parsePidsLimit, func(r *request) *int64 { return &r.spec.Resources.PidsLimit })},
		{name: "device-read-bps", category: catResources, placeholder: "DEVICE:RATE", list: true, usage: "most bytes read per second: io.max rbps", example: "/dev/sda:1mb", fields: []string{"linux.resources.blockIO.throttleReadBpsDevice"}, apply: throttle(bytesPerSecond, func(r *request) *[]api.ThrottleDevice { return &r.spec.Resources.DeviceReadBps })},
		{name: "device-write-bps", category: catResources, placeholder: "DEVICE:RATE", list: true, usage: "most bytes written per second: io.max wbps", example: "/dev/sda:1mb", fields: []string{"linux.resources.blockIO.throttleWriteBpsDevice"}, apply: throttle(bytesPerSecond, func(r *request) *[]api.ThrottleDevice { return &r.spec.Resources.DeviceWriteBps })},
		{name: "device-read-iops", category: catResources, placeholder: "DEVICE:RATE", list: true, usage: "most reads per second: io.max riops", example: "/dev/sda:100", fields: []string{"linux.resources.blockIO.throttleReadIOPSDevice"}, apply: throttle(operationsPerSecond, func(r *request) *[]api.ThrottleDevice { return &r.spec.Resources.DeviceReadIOps })},
		{name: "device-write-iops", category: catResources, placeholder: "DEVICE:RATE", list: true, usage: "most writes per second: io.max wiops", example: "/dev/sda:100", fields: []string{"linux.resources.blockIO.throttleWriteIOPSDevice"}, apply: throttle(operationsPerSecond, func(r *request) *[]api.ThrottleDevice { return &r.spec.Resources.DeviceWriteIOps })},
		{name: "ulimit", category: catResources, placeholder: "NAME=SOFT[:HARD]", list: true, usage: "a limit per process: setrlimit", example: "nofile=1024:2048", fields: []string{"process.rlimits"}, apply: add(parseUlimit, func(r *request) *[]api.Ulimit { return &r.spec.Ulimits })},
		{name: "oom-score-adj", category: catResources, placeholder: "N", usage: "how soon the kernel kills it when memory is short, -1000 to 1000", example: "500", fields: []string{"process.oomScoreAdj"}, apply: func(r *request, v string, _ outside) error {
			n, err := parseInt(-1000, 1000)(v)
			if err == nil {
				score := int(n)
				r.spec.OOMScoreAdj = &score
			}
			return err
		}},
	}
}
