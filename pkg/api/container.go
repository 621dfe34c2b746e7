// Package api holds the wire types of the daemon's HTTP API, which are also
// the vocabulary of the engines. It imports nothing of ours.
package api

import "time"

// ContainerSpec is what the user asks for: `docker run`'s flags, parsed.
// Sizes are bytes. Zero values mean "not given".
type ContainerSpec struct {
	Name       string            `json:"name,omitempty"`
	Image      string            `json:"image"`
	Entrypoint []string          `json:"entrypoint,omitempty"` // nil: the image's; [""]: none
	Command    []string          `json:"command,omitempty"`
	Env        []string          `json:"env,omitempty"` // KEY=VALUE
	WorkDir    string            `json:"workdir,omitempty"`
	User       string            `json:"user,omitempty"` // name|uid[:group|gid]
	Hostname   string            `json:"hostname,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`

	TTY        bool   `json:"tty,omitempty"`
	OpenStdin  bool   `json:"open_stdin,omitempty"`
	Init       bool   `json:"init,omitempty"`
	AutoRemove bool   `json:"auto_remove,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
	Privileged bool   `json:"privileged,omitempty"`
	StopSignal string `json:"stop_signal,omitempty"`
	// StopTimeout is for how many seconds a stop waits before it kills;
	// nil: 10, negative: for ever.
	StopTimeout *int `json:"stop_timeout,omitempty"`

	Mounts      []Mount           `json:"mounts,omitempty"` // -v, --tmpfs, --mount
	CapAdd      []string          `json:"cap_add,omitempty"`
	CapDrop     []string          `json:"cap_drop,omitempty"`
	SecurityOpt []string          `json:"security_opt,omitempty"` // no-new-privileges, seccomp=unconfined|FILE's JSON, apparmor=…
	Ulimits     []Ulimit          `json:"ulimits,omitempty"`
	UserNS      string            `json:"userns,omitempty"`   // "", host, auto, UID:GID:SIZE (container 0 maps to host UID/GID)
	PIDMode     string            `json:"pid_mode,omitempty"` // "", host, container:ID
	IPCMode     string            `json:"ipc_mode,omitempty"`
	Sysctls     map[string]string `json:"sysctls,omitempty"`
	Devices     []string          `json:"devices,omitempty"` // HOST[:CONTAINER[:rwm]]
	ShmSize     int64             `json:"shm_size,omitempty"`
	OOMScoreAdj *int              `json:"oom_score_adj,omitempty"`
	Resources   Resources         `json:"resources"`
	Network     Network           `json:"network"`

	// Flags maps config.json fields ("linux.resources.memory.limit") to the
	// flags as typed ("--memory 64m"), for explain.
	Flags map[string]string `json:"flags,omitempty"`
}

// Mount is one -v, --tmpfs or --mount.
type Mount struct {
	Type    string   `json:"type"` // bind, tmpfs
	Source  string   `json:"source,omitempty"`
	Target  string   `json:"target"`
	Options []string `json:"options,omitempty"` // ro, rw, rshared, size=64m, …
	// CreateSource makes a bind's missing source, as a folder: -v, not --mount.
	CreateSource bool `json:"create_source,omitempty"`
}

// Ulimit is one --ulimit NAME=SOFT[:HARD].
type Ulimit struct {
	Name string `json:"name"` // nofile, nproc, … as ulimit names them
	Soft uint64 `json:"soft"`
	Hard uint64 `json:"hard"`
}

// Resources are the cgroup limits; zero means no limit was asked for.
type Resources struct {
	Memory            int64            `json:"memory,omitempty"`             // bytes
	MemorySwap        int64            `json:"memory_swap,omitempty"`        // memory+swap in bytes, -1 unlimited
	MemoryReservation int64            `json:"memory_reservation,omitempty"` // bytes
	NanoCPUs          int64            `json:"nano_cpus,omitempty"`          // 1e9 is one CPU
	CPUWeight         uint64           `json:"cpu_weight,omitempty"`         // cgroup v2, 1-10000
	CPUShares         uint64           `json:"cpu_shares,omitempty"`         // docker's -c, converted to a weight
	CpusetCPUs        string           `json:"cpuset_cpus,omitempty"`
	CpusetMems        string           `json:"cpuset_mems,omitempty"`
	PidsLimit         int64            `json:"pids_limit,omitempty"` // -1 unlimited
	DeviceReadBps     []ThrottleDevice `json:"device_read_bps,omitempty"`
	DeviceWriteBps    []ThrottleDevice `json:"device_write_bps,omitempty"`
	DeviceReadIOps    []ThrottleDevice `json:"device_read_iops,omitempty"`
	DeviceWriteIOps   []ThrottleDevice `json:"device_write_iops,omitempty"`
}

// ThrottleDevice limits one block device, by its path.
type ThrottleDevice struct {
	Path string `json:"path"`
	Rate uint64 `json:"rate"`
}

// Network is how the container is connected.
type Network struct {
	Mode       string        `json:"mode,omitempty"` // "", bridge, none, host, container:ID
	Publish    []PortMapping `json:"publish,omitempty"`
	DNS        []string      `json:"dns,omitempty"`
	ExtraHosts []string      `json:"extra_hosts,omitempty"` // NAME:IP
}

// PortMapping is one -p. HostPort 0 asks for a free one.
type PortMapping struct {
	HostIP        string `json:"host_ip,omitempty"`
	HostPort      uint16 `json:"host_port"`
	ContainerPort uint16 `json:"container_port"`
	Protocol      string `json:"protocol"` // tcp, udp
}

// Status of a container, runtime-spec's words plus paused and exited.
const (
	StatusCreating = "creating"
	StatusCreated  = "created"
	StatusRunning  = "running"
	StatusPaused   = "paused"
	StatusExited   = "exited" // runtime-spec's "stopped"
)

// Container is one container as listed and inspected.
type Container struct {
	ID        string        `json:"id"` // 64 hex digits
	Name      string        `json:"name"`
	Engine    string        `json:"engine"` // raw, containerd, docker
	Image     string        `json:"image"`
	ImageID   string        `json:"image_id,omitempty"`
	Status    string        `json:"status"`
	PID       int           `json:"pid,omitempty"` // the first process, in the host's PID namespace
	Created   time.Time     `json:"created"`
	Started   time.Time     `json:"started,omitzero"`
	Finished  time.Time     `json:"finished,omitzero"`
	Exit      *Exit         `json:"exit,omitempty"`
	IP        string        `json:"ip,omitempty"`
	Gateway   string        `json:"gateway,omitempty"`
	MAC       string        `json:"mac,omitempty"`
	Ports     []PortMapping `json:"ports,omitempty"`
	Cgroup    string        `json:"cgroup,omitempty"` // absolute path in the cgroup file system
	Rootfs    string        `json:"rootfs,omitempty"`
	LowerDirs []string      `json:"lower_dirs,omitempty"` // top layer first
	UpperDir  string        `json:"upper_dir,omitempty"`
	LogPath   string        `json:"log_path,omitempty"`
	Command   []string      `json:"command"` // argv as executed
	Spec      ContainerSpec `json:"spec"`
	Warnings  []string      `json:"warnings,omitempty"`
}

// Exit is how a container ended.
type Exit struct {
	Code      int       `json:"code"` // 128+N when killed by signal N
	OOMKilled bool      `json:"oom_killed,omitempty"`
	Message   string    `json:"message,omitempty"`
	At        time.Time `json:"at"`
}

// ExecSpec is one `exec`.
type ExecSpec struct {
	Command    []string `json:"command"`
	Env        []string `json:"env,omitempty"`
	WorkDir    string   `json:"workdir,omitempty"`
	User       string   `json:"user,omitempty"`
	TTY        bool     `json:"tty,omitempty"`
	OpenStdin  bool     `json:"open_stdin,omitempty"`
	Privileged bool     `json:"privileged,omitempty"`
}

// Stats is one sample of a container's cgroup. Counters are cumulative.
// A pointer is nil where the host lacks the controller.
type Stats struct {
	ID     string       `json:"id"`
	Name   string       `json:"name"`
	Time   time.Time    `json:"time"`
	CPU    *CPUStats    `json:"cpu,omitempty"`
	Memory *MemoryStats `json:"memory,omitempty"`
	Pids   *PidsStats   `json:"pids,omitempty"`
	IO     *IOStats     `json:"io,omitempty"`
	Net    *NetStats    `json:"net,omitempty"`
}

type CPUStats struct {
	UsageUsec     uint64 `json:"usage_usec"`
	UserUsec      uint64 `json:"user_usec"`
	SystemUsec    uint64 `json:"system_usec"`
	Periods       uint64 `json:"nr_periods"`
	Throttled     uint64 `json:"nr_throttled"`
	ThrottledUsec uint64 `json:"throttled_usec"`
	// QuotaUsec of CPU time in each PeriodUsec are the limit, cpu.max; 0: none.
	QuotaUsec  uint64  `json:"quota_usec,omitempty"`
	PeriodUsec uint64  `json:"period_usec,omitempty"`
	Percent    float64 `json:"percent"` // of one CPU since the previous sample, 0 in the first
}

type MemoryStats struct {
	Current uint64 `json:"current"`
	Limit   uint64 `json:"limit"` // 0: none
	Swap    uint64 `json:"swap"`
	Anon    uint64 `json:"anon"`
	File    uint64 `json:"file"`
	OOM     uint64 `json:"oom"`
	OOMKill uint64 `json:"oom_kill"`

	// Of memory.stat, and memory.peak: bytes, and page faults.
	FileMapped      uint64 `json:"file_mapped"`
	InactiveFile    uint64 `json:"inactive_file"` // what the kernel takes back first
	Kernel          uint64 `json:"kernel"`
	Peak            uint64 `json:"peak,omitempty"` // 0 before Linux 5.19
	PageFaults      uint64 `json:"pgfault"`
	MajorPageFaults uint64 `json:"pgmajfault"`
}

type PidsStats struct {
	Current uint64 `json:"current"`
	Limit   uint64 `json:"limit"` // 0: none
	Max     uint64 `json:"max"`   // how often a fork was refused
	// Processes are those of Current that are not threads of others.
	Processes uint64 `json:"processes"`
}

type IOStats struct {
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
	ReadOps    uint64 `json:"read_ops"`
	WriteOps   uint64 `json:"write_ops"`
	// Devices are the disks that this is the sum of.
	Devices []IODevice `json:"devices,omitempty"`
}

// IODevice is a line of io.stat.
type IODevice struct {
	Major      uint32 `json:"major"`
	Minor      uint32 `json:"minor"`
	ReadBytes  uint64 `json:"read_bytes"`
	WriteBytes uint64 `json:"write_bytes"`
	ReadOps    uint64 `json:"read_ops"`
	WriteOps   uint64 `json:"write_ops"`
}

type NetStats struct {
	RxBytes   uint64 `json:"rx_bytes"`
	TxBytes   uint64 `json:"tx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	TxPackets uint64 `json:"tx_packets"`
	// Interfaces are the links that this is the sum of.
	Interfaces []NetInterface `json:"interfaces,omitempty"`
}

// NetInterface is one network link, with the counters of /proc/PID/net/dev.
type NetInterface struct {
	Name      string `json:"name"`
	RxBytes   uint64 `json:"rx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	RxErrors  uint64 `json:"rx_errors"`
	RxDropped uint64 `json:"rx_dropped"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
	TxErrors  uint64 `json:"tx_errors"`
	TxDropped uint64 `json:"tx_dropped"`
}

// LogLine is one line (or part of a line over 16 KiB) of a container's output.
type LogLine struct {
	Time   time.Time `json:"time"`
	Stream string    `json:"stream"` // stdout, stderr
	Data   string    `json:"log"`    // with its newline, if it had one
}

// Process is one row of `sandbox top`/`ps` inside a container.
type Process struct {
	PID     int    `json:"pid"`    // in the host's PID namespace
	NSPID   int    `json:"ns_pid"` // in the container's
	Command string `json:"command"`
}
