package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Unit is the name of the daemon's systemd unit.
const Unit = "sandbox.service"

// unitText is the unit; its parameter is the program's path.
//
// KillMode=process: the shims are in the unit's cgroup, and containers outlive
// the daemon. Type=notify: a start has succeeded when the socket answers.
const unitText = `# Written by "sandbox up"; removed by "sandbox down --purge".
[Unit]
Description=Sandbox: containers and what they are made of
After=network.target
ConditionPathExists=%[1]s

[Service]
Type=notify
# Where Debian and Ubuntu keep the machine's proxies, which pulls and builds need.
EnvironmentFile=-/etc/environment
ExecStart=%[1]s daemon
KillMode=process
Restart=on-failure
RestartSec=1
TimeoutStartSec=60
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-500

[Install]
WantedBy=multi-user.target
`

// logTail is how many lines of the daemon's log are worth showing.
const logTail = 15

// Service is the daemon as a process of this machine: a systemd unit where
// systemd is process 1, otherwise a process of its own session.
type Service struct {
	Host    *Host
	Dirs    state.Dirs
	Program string // this program's path, as the unit is to call it
}

// Started is a daemon that was told to start.
type Started struct {
	How   string          // for people: "unit sandbox.service", "process 4711"
	Ended <-chan struct{} // closed at the process's end; nil where unknown
	Log   func() []string // the last lines of what it said
}

// systemd says whether the daemon is to be a unit. One with other folders than
// the usual is somebody's experiment, and does not survive a reboot.
func (s *Service) systemd() bool {
	return s.Dirs == state.Default() && exists(s.Host.Run, "systemd/system")
}

func (s *Service) unitFile() string { return filepath.Join(s.Host.Etc, "systemd/system", Unit) }

// Start makes the daemon run. It may return before the daemon answers.
func (s *Service) Start(ctx context.Context) (Started, error) {
	if s.systemd() {
		return s.startUnit(ctx)
	}
	return s.startProcess()
}

func (s *Service) startUnit(ctx context.Context) (Started, error) {
	text := fmt.Appendf(nil, unitText, s.Program)
	if old, err := os.ReadFile(s.unitFile()); err != nil || !bytes.Equal(old, text) {
		if err := state.WriteFile(s.unitFile(), text, 0o644); err != nil {
			return Started{}, fmt.Errorf("write the unit: %w", err)
		}
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return Started{}, err
		}
	}
	started := Started{How: "unit " + Unit, Log: func() []string {
		out, _ := exec.Command("journalctl", "--unit", Unit, "--lines", fmt.Sprint(logTail), "--no-pager", "--output", "cat").Output()
		return lastLines(out)
	}}
	// A unit that has failed too often is not started again before that is
	// forgotten; --no-block leaves the waiting to the caller, who can show it.
	_ = systemctl(ctx, "reset-failed", Unit) // fails when there is nothing to forget
	if err := systemctl(ctx, "enable", Unit); err != nil {
		return started, err
	}
	return started, systemctl(ctx, "start", Unit)
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// startProcess starts the daemon in a session of its own, so that neither
// Ctrl-C nor a closed terminal reaches it.
func (s *Service) startProcess() (Started, error) {
	// The folder's mode is what `up` gives it; the log is root's.
	if err := os.MkdirAll(s.Dirs.Root, 0o711); err != nil {
		return Started{}, err
	}
	log, err := os.OpenFile(s.Dirs.DaemonLog(), os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return Started{}, err
	}
	defer log.Close()
	// What an earlier daemon said is not this one's.
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return Started{}, err
	}
	cmd := exec.Command(s.Program, "--state-dir", s.Dirs.Root, "--run-dir", s.Dirs.Run, "daemon")
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return Started{}, err
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended is in its log
		close(ended)
	}()
	return Started{How: fmt.Sprintf("process %d", cmd.Process.Pid), Ended: ended, Log: func() []string {
		f, err := os.Open(s.Dirs.DaemonLog())
		if err != nil {
			return nil
		}
		defer f.Close()
		out, _ := io.ReadAll(io.NewSectionReader(f, begin, 1<<20))
		return lastLines(out)
	}}, nil
}

func lastLines(out []byte) []string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines[max(0, len(lines)-logTail):]
}

// Remove takes away, after the daemon has purged itself, what it could not:
// its unit, its log, its folders if they are empty, and what doctor --fix has
// made. It removes only what is known to be sandbox's: --state-dir may name
// any folder.
func (s *Service) Remove(ctx context.Context) error {
	var errs []error
	if s.Dirs == state.Default() {
		if _, err := os.Stat(s.unitFile()); err == nil {
			if s.systemd() {
				errs = append(errs, systemctl(ctx, "disable", "--now", Unit))
			}
			errs = append(errs, remove(s.unitFile()))
			if s.systemd() {
				errs = append(errs, systemctl(ctx, "daemon-reload"))
			}
		}
		errs = append(errs, remove(filepath.Join(s.Host.Etc, "sysctl.d", filepath.Base(sysctlFile))), s.removeGroup(ctx))
	}
	errs = append(errs, remove(s.Dirs.DaemonLog()))
	for _, dir := range []string{s.Dirs.Root, s.Dirs.Run} {
		// What is in it shows among what is left; a mount point stays.
		if err := remove(dir); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, syscall.EBUSY) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// removeGroup removes the group unless somebody is in it: that was an
// administrator's decision.
func (s *Service) removeGroup(ctx context.Context) error {
	for line := range strings.Lines(read(s.Host.Etc, "group") + "\n") {
		if fields := strings.Split(strings.TrimSpace(line), ":"); len(fields) == 4 && fields[0] == Group && fields[3] == "" {
			tool, err := findTool("groupdel")
			if err != nil {
				return err
			}
			if out, err := exec.CommandContext(ctx, tool, Group).CombinedOutput(); err != nil && !strings.Contains(string(out), "primary group") {
				return fmt.Errorf("groupdel %s: %w: %s", Group, err, strings.TrimSpace(string(out)))
			}
		}
	}
	return nil
}

func remove(path string) error {
	err := os.Remove(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sorted drops duplicates, too.
func sorted(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}
