package bundle

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

const (
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	// initTarget is where --init's program appears in the container.
	initTarget = "/sbin/sandbox-init"
)

// command is the argv. As docker has it: an entrypoint of the user's also
// discards the image's command; "" as the entrypoint means to have none.
func (b *builder) command() error {
	s, image := &b.in.Spec, &b.in.Image
	entrypoint, command := s.Entrypoint, s.Command
	if entrypoint == nil {
		entrypoint = image.Entrypoint
		if len(command) == 0 {
			command = image.Cmd
		}
	}
	if len(entrypoint) == 1 && entrypoint[0] == "" {
		entrypoint = nil
	}
	args := slices.Concat(entrypoint, command)
	if len(args) == 0 {
		return invalid("no command given, and image %s has neither an entrypoint nor a command", s.Image)
	}
	if args[0] == "" {
		return invalid("the command is an empty string")
	}
	for _, arg := range args {
		if strings.ContainsRune(arg, 0) {
			return invalid("argument %q holds a zero byte", arg)
		}
	}
	if s.Init {
		switch {
		case b.in.Paths.Init == "":
			return invalid("--init: there is no init program")
		case !b.has(specs.PIDNamespace):
			// Only the first process of a PID namespace inherits orphans.
			b.warn("--init has no effect with --pid %s: that PID namespace has an init", s.PIDMode)
		default:
			args = slices.Concat([]string{initTarget}, b.in.Paths.InitArgs, args)
		}
	}
	b.spec.Process.Args = args
	return nil
}

// process is the rest of what the first process is started with.
func (b *builder) process() error {
	s, p := &b.in.Spec, b.spec.Process
	p.Terminal = s.TTY
	p.User = specs.User{UID: b.in.User.UID, GID: b.in.User.GID, AdditionalGids: b.in.User.AdditionalGids}

	p.Cwd = "/"
	for _, dir := range []string{s.WorkDir, b.in.Image.WorkingDir} {
		if dir == "" {
			continue
		}
		if !path.IsAbs(dir) {
			return invalid("working directory %q is not an absolute path", dir)
		}
		p.Cwd = path.Clean(dir)
		break
	}

	signal := StopSignal(*s, b.in.Image.StopSignal)
	if !validSignal(signal) {
		return invalid("invalid stop signal %q", signal)
	}
	// image-spec's conversion.md: where the signal is kept in a config.json.
	b.spec.Annotations = map[string]string{"org.opencontainers.image.stopSignal": signal}

	switch adj := s.OOMScoreAdj; {
	case adj == nil && b.in.Host.OOMScoreAdj < 0:
		// The daemon is protected; its containers are not to inherit that.
		p.OOMScoreAdj = new(int)
	case adj != nil && (*adj < -1000 || *adj > 1000):
		return invalid("invalid --oom-score-adj %d: it ranges from -1000 to 1000", *adj)
	default:
		p.OOMScoreAdj = adj
	}
	return b.environment()
}

// environment merges, each overriding the one before: defaults, the image's,
// the user's. A name without "=" unsets the variable.
func (b *builder) environment() error {
	env := []string{"PATH=" + defaultPath, "HOSTNAME=" + b.spec.Hostname}
	if b.in.Spec.TTY {
		env = append(env, "TERM=xterm")
	}
	if b.in.User.Home != "" {
		env = append(env, "HOME="+b.in.User.Home)
	}
	for _, entry := range slices.Concat(b.in.Image.Env, b.in.Spec.Env) {
		name, _, set := strings.Cut(entry, "=")
		if name == "" || strings.ContainsRune(entry, 0) {
			return invalid("invalid environment variable %q", entry)
		}
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		switch {
		case i >= 0 && set:
			env[i] = entry
		case i >= 0:
			env = slices.Delete(env, i, i+1)
		case set:
			env = append(env, entry)
		}
	}
	b.spec.Process.Env = env
	return nil
}

// validSignal accepts what signal(7) names, with or without SIG, and numbers.
func validSignal(signal string) bool {
	if n, err := strconv.Atoi(signal); err == nil {
		return n > 0 && n <= 64
	}
	name := strings.ToUpper(signal)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if unix.SignalNum(name) != 0 {
		return true
	}
	// Real-time signals: 34 to 64 in a libc's numbering.
	for _, limit := range []string{"SIGRTMIN", "SIGRTMAX"} {
		offset, ok := strings.CutPrefix(name, limit)
		if !ok {
			continue
		}
		if offset == "" {
			return true
		}
		n, err := strconv.Atoi(offset)
		return err == nil && (offset[0] == '+') == (limit == "SIGRTMIN") && n >= -30 && n <= 30
	}
	return false
}

// rlimitNames are those of getrlimit(2) that docker's --ulimit knows.
var rlimitNames = []string{
	"core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice",
	"nofile", "nproc", "rss", "rtprio", "rttime", "sigpending", "stack",
}

func (b *builder) rlimits() error {
	seen := map[string]bool{}
	for _, u := range b.in.Spec.Ulimits {
		switch {
		case !slices.Contains(rlimitNames, u.Name):
			return invalid("unknown ulimit %q: known are %s", u.Name, strings.Join(rlimitNames, ", "))
		case u.Soft > u.Hard:
			return invalid("ulimit %s: the soft limit %s is larger than the hard limit %s", u.Name, rlimit(u.Soft), rlimit(u.Hard))
		case seen[u.Name]:
			return invalid("ulimit %s is given twice", u.Name)
		}
		seen[u.Name] = true
		b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, specs.POSIXRlimit{
			Type: "RLIMIT_" + strings.ToUpper(u.Name), Soft: u.Soft, Hard: u.Hard,
		})
	}
	return nil
}

// rlimit formats a limit; the largest number is RLIM_INFINITY.
func rlimit(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}
