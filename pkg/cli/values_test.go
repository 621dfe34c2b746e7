package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// check compares what parse makes of values with what is wanted of it. A line
// is the value, an arrow and the result; or ! and a part of the error. The
// value may be quoted.
func check[T any](t *testing.T, name string, parse func(string) (T, error), table string) {
	t.Helper()
	for line := range strings.Lines(strings.TrimSpace(table)) {
		in, want, ok := strings.Cut(line, " -> ")
		if !ok {
			t.Fatalf("%s: %q has no arrow", name, line)
		}
		in, want = strings.Trim(strings.TrimSpace(in), `"`), strings.TrimSpace(want)
		v, err := parse(in)
		message, wantError := strings.CutPrefix(want, "! ")
		switch {
		case wantError && err == nil:
			t.Errorf("%s %q is accepted as %v, want an error with %q", name, in, v, message)
		case wantError && !strings.Contains(err.Error(), message):
			t.Errorf("%s %q: error %q, want %q in it", name, in, err, message)
		case !wantError && err != nil:
			t.Errorf("%s %q: %v, want %s", name, in, err, want)
		case !wantError && fmt.Sprintf("%v", v) != want:
			t.Errorf("%s %q is %v, want %s", name, in, v, want)
		}
	}
}

func TestSizes(t *testing.T) {
	check(t, "size", parseSize, `
		0        -> 0
		512      -> 512
		512b     -> 512
		1k       -> 1024
		1kb      -> 1024
		64m      -> 67108864
		64M      -> 67108864
		64MiB    -> 67108864
		1.5g     -> 1610612736
		2T       -> 2199023255552
		64 m     -> 67108864
		""       -> ! not a size
		m        -> ! not a size
		64x      -> ! not a size
		-1       -> ! not a size
		-64m     -> ! not a size
		64mm     -> ! not a size
		1e3      -> 1000
		1e30     -> ! a size
		99999999p -> ! a size
		0x10     -> ! not a size
		∞        -> ! not a size`)
	check(t, "memory", parseMemory, `
		6m       -> 6291456
		0        -> 0
		5m       -> ! less than 6m
		1        -> ! less than 6m
		64x      -> ! not a size`)
	check(t, "memory-swap", parseMemorySwap, `
		-1       -> -1
		128m     -> 134217728
		-2       -> ! not a size`)
}

func TestCPUs(t *testing.T) {
	check(t, "cpus", parseCPUs, `
		0.5          -> 500000000
		1            -> 1000000000
		1.5          -> 1500000000
		0.1          -> 100000000
		.5           -> 500000000
		0.01         -> 10000000
		0            -> 0
		64           -> 64000000000
		0.001        -> ! less than 0.01
		0.0000000001 -> ! finer
		-1           -> ! less than no CPU
		1/2          -> ! not a number
		1e3          -> ! not a number
		0x1          -> ! not a number
		half         -> ! not a number
		""           -> ! not a number
		99999999999  -> ! more CPUs`)
	check(t, "cpuset", parseCPUSet, `
		0        -> 0
		0-3      -> 0-3
		0,2-3,5  -> 0,2-3,5
		3-1      -> ! not a range
		a        -> ! not a list
		0,       -> ! not a list
		-1       -> ! not a list
		""       -> ! not a list
		0-       -> ! not a range
		99999    -> ! not a list`)
	check(t, "cpu-weight", parseUint(1, 10000), `
		1     -> 1
		10000 -> 10000
		0     -> ! from 1 to 10000
		10001 -> ! from 1 to 10000
		-5    -> ! from 1 to 10000
		1.5   -> ! from 1 to 10000`)
	check(t, "pids-limit", parsePidsLimit, `
		20  -> 20
		0   -> 0
		-1  -> -1
		-7  -> -1
		x   -> ! not a number
		1k  -> ! not a number`)
	check(t, "oom-score-adj", parseInt(-1000, 1000), `
		-1000 -> -1000
		500   -> 500
		1001  -> ! from -1000 to 1000`)
}

func TestUlimits(t *testing.T) {
	check(t, "ulimit", parseUlimit, `
		nofile=1024        -> {nofile 1024 1024}
		nofile=1024:2048   -> {nofile 1024 2048}
		core=0             -> {core 0 0}
		memlock=-1         -> {memlock 18446744073709551615 18446744073709551615}
		nproc=10:-1        -> {nproc 10 18446744073709551615}
		nofile             -> ! not NAME=SOFT
		nofile=            -> ! not SOFT[:HARD]
		nofile=a           -> ! not SOFT[:HARD]
		nofile=1:2:3       -> ! not SOFT[:HARD]
		nofile=2048:1024   -> ! above the hard
		nofile=-1:5        -> ! above the hard
		nofile=-2          -> ! at least 0
		files=1            -> ! no limit named "files"`)
}

func TestDevices(t *testing.T) {
	bps := func(s string) (api.ThrottleDevice, error) { return parseThrottle(s, bytesPerSecond) }
	check(t, "device-read-bps", bps, `
		/dev/sda:1mb        -> {/dev/sda 1048576}
		/dev/sda:512        -> {/dev/sda 512}
		/dev/disk/a:b:1k    -> {/dev/disk/a:b 1024}
		/dev/sda            -> ! not DEVICE:RATE
		/dev/sda:           -> ! bytes per second
		/dev/sda:0          -> ! bytes per second
		/dev/sda:fast       -> ! bytes per second
		sda:1mb             -> ! begins with /dev/
		:1mb                -> ! begins with /dev/`)
	iops := func(s string) (api.ThrottleDevice, error) { return parseThrottle(s, operationsPerSecond) }
	check(t, "device-read-iops", iops, `
		/dev/sda:100        -> {/dev/sda 100}
		/dev/sda:1mb        -> ! operations per second
		/dev/sda:0          -> ! operations per second
		/dev/sda:-1         -> ! operations per second`)
	check(t, "device", parseDevice, `
		/dev/fuse                 -> /dev/fuse:/dev/fuse:rwm
		/dev/sda:/dev/xvda        -> /dev/sda:/dev/xvda:rwm
		/dev/sda:/dev/xvda:r      -> /dev/sda:/dev/xvda:r
		/dev/sda:rw               -> /dev/sda:/dev/sda:rw
		fuse                      -> ! not an absolute path
		/dev/sda:xvda             -> ! not an absolute path
		/dev/sda:/dev/x:q         -> ! not made of r
		/dev/sda:/dev/x:rr        -> ! not made of r
		/dev/sda:/dev/x:          -> ! not made of r
		/dev/a:/dev/b:r:w         -> ! not HOST`)
}

func TestHosts(t *testing.T) {
	check(t, "add-host", parseExtraHost, `
		db:10.0.0.5          -> db:10.0.0.5
		db=10.0.0.5          -> db:10.0.0.5
		db:::1               -> db:::1
		db:[::1]             -> db:::1
		gw:host-gateway      -> gw:host-gateway
		db                   -> ! not NAME:IP
		:10.0.0.5            -> ! not NAME:IP
		db:                  -> ! not an IP
		db:10.0.0            -> ! not an IP
		db:10.0.0.256        -> ! not an IP
		db:fe80::1%eth0      -> ! not an IP`)
	check(t, "dns", parseIP, `
		9.9.9.9    -> 9.9.9.9
		2620:fe::9 -> 2620:fe::9
		dns.local  -> ! not an IP
		""         -> ! not an IP`)
	check(t, "hostname", parseHostname, `
		web1         -> web1
		a.b-c        -> a.b-c
		-web         -> ! letters, digits
		web-         -> ! letters, digits
		we b         -> ! letters, digits
		""           -> ! 1 to 63`)
	check(t, "name", parseName, `
		web         -> web
		w1          -> w1
		my_web-1.a  -> my_web-1.a
		w           -> ! 2 to 64
		-web        -> ! begins with
		we/b        -> ! begins with
		../x        -> ! begins with
		wéb         -> ! begins with`)
}

func TestNames(t *testing.T) {
	check(t, "capability", parseCapability, `
		NET_ADMIN      -> CAP_NET_ADMIN
		net_admin      -> CAP_NET_ADMIN
		CAP_SYS_PTRACE -> CAP_SYS_PTRACE
		all            -> ALL
		NET_ADMN       -> ! did you mean NET_ADMIN?
		CAP_           -> ! no such capability
		""             -> ! no such capability`)
	check(t, "signal", parseSignal, `
		KILL      -> SIGKILL
		SIGTERM   -> SIGTERM
		sigusr1   -> SIGUSR1
		15        -> 15
		RTMIN+3   -> SIGRTMIN+3
		0         -> ! 1 to 64
		65        -> ! 1 to 64
		-9        -> ! 1 to 64
		SIGFOO    -> ! no such signal
		""        -> ! no such signal`)
	check(t, "network", parseNetwork, `
		bridge         -> bridge
		default        -> bridge
		none           -> none
		host           -> host
		container:web  -> container:web
		container:     -> ! not bridge
		mynet          -> ! no further networks
		""             -> ! not bridge`)
	check(t, "userns", parseUserNS, `
		host            -> host
		auto            -> auto
		100000:100000:65536 -> 100000:100000:65536
		100000:65536    -> ! not host
		a:b:c           -> ! not host
		1:1:0           -> ! not host
		-1:1:1          -> ! not host
		4294967296:0:1  -> ! not host
		keep-id         -> ! not host`)
	shared := func(s string) (string, error) {
		v, err := parseShared("private")(s)
		if v == "" {
			v = "(own)"
		}
		return v, err
	}
	check(t, "pid", shared, `
		host           -> host
		private        -> (own)
		container:web  -> container:web
		container:     -> ! not host
		none           -> ! not host`)
}

func TestDetachKeys(t *testing.T) {
	check(t, "detach-keys", parseDetachKeys, `
		ctrl-p,ctrl-q -> [16 17]
		ctrl-@        -> [0]
		ctrl-[        -> [27]
		ctrl-_        -> [31]
		a,b           -> [97 98]
		CTRL-X        -> [24]
		ctrl-pp       -> ! not a key
		ctrl-1        -> ! not a key
		ctrl-         -> ! not a key
		""            -> ! empty
		a,            -> ! not a key`)
}

func TestTimes(t *testing.T) {
	now := time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)
	parse := func(s string) (string, error) {
		v, err := parseTime(s, now)
		return v.UTC().Format(time.RFC3339Nano), err
	}
	check(t, "since", parse, `
		10m                       -> 2026-03-04T11:50:00Z
		1h30m                     -> 2026-03-04T10:30:00Z
		2026-01-02T15:04:05Z      -> 2026-01-02T15:04:05Z
		2026-01-02T15:04:05.5+01:00 -> 2026-01-02T14:04:05.5Z
		2026-01-02T15:04:05       -> 2026-01-02T15:04:05Z
		2026-01-02                -> 2026-01-02T00:00:00Z
		1136073845                -> 2006-01-01T00:04:05Z
		1136073845.5              -> 2006-01-01T00:04:05.5Z
		yesterday                 -> ! not a time
		""                        -> ! not a time
		-1                        -> ! not a time`)
}
