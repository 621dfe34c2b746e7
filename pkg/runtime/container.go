package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sandboxlabs/sandbox/pkg/linux/cgroup"
	"github.com/sandboxlabs/sandbox/pkg/linux/explain"
)

// A container's folder below Runtime.Root.
const (
	recordFile  = "state.json"  // record
	configFile  = "config.json" // the bundle's, as it was at create
	resultsFile = "results"     // of the first process's script, shared memory
	goFIFO      = "go"          // the first process waits for a byte in it
	doneFIFO    = "done"        // the first process is its only writer, until execve
)

// StatusPaused extends runtime-spec's statuses, as runc does.
const StatusPaused specs.ContainerState = "paused"

// record is what is kept of a container from one command to the next.
type record struct {
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	PID         int               `json:"pid"`
	StartTime   uint64            `json:"start_time"` // of the PID, in clock ticks since boot: proves it is the same process
	Cgroup      string            `json:"cgroup,omitempty"`
	CgroupRoot  string            `json:"cgroup_root,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Hooks are specs.Hooks, decoded when there are some.
	Hooks      json.RawMessage `json:"hooks,omitempty"`
	HasProcess bool            `json:"has_process"`
	SharedPID  bool            `json:"shared_pid,omitempty"` // the PID namespace is not the container's own
	Ops        int             `json:"ops"`                  // length of the script
	// Tail are the operations that `start` lets run: their indexes, and how to tell of them.
	Tail []tailOp `json:"tail"`
}

type tailOp struct {
	Index int           `json:"index"`
	Event explain.Event `json:"event"`
}

// container is a container's folder, locked.
type container struct {
	record
	dir  string
	lock *os.File
}

// validateID keeps an ID from being a path, or longer than a file name can be.
func validateID(id string) error {
	ok := id != "" && len(id) <= 255 && id != "." && id != ".."
	for _, c := range []byte(id) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' ||
			c == '_' || c == '+' || c == '-' || c == '.')
	}
	if !ok {
		return fmt.Errorf("container ID %q: use at most 255 letters, digits and _ + . -: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// newContainer makes the folder of a container that does not exist yet.
func (r *Runtime) newContainer(id string) (*container, error) {
	if err := validateID(id); err != nil {
		return nil, err
	}
	dir := filepath.Join(r.Root, id)
	err := os.Mkdir(dir, 0o711)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(r.Root, 0o711); err != nil {
			return nil, err
		}
		err = os.Mkdir(dir, 0o711)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return nil, err
	}
	c := &container{record: record{ID: id}, dir: dir}
	if err := c.flock(); err != nil {
		return nil, err
	}
	return c, nil
}

// open locks an existing container and reads its record. A folder without one is a
// create that was cut off: it can only be deleted.
func (r *Runtime) open(id string) (*container, error) {
	if err := validateID(id); err != nil {
		return nil, err
	}
	c := &container{record: record{ID: id}, dir: filepath.Join(r.Root, id)}
	if err := c.flock(); err != nil {
		return nil, err
	}
	if r.recall(c) {
		return c, nil
	}
	if err := c.read(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = c.lock.Close()
		return nil, err
	}
	return c, nil
}

// remember keeps the record of a container that was just made.
func (r *Runtime) remember(c *container) {
	known := c.record
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last, r.lastBorn = &known, c.born()
}

// recall takes the record from memory, if it is that of the container in c's folder.
func (r *Runtime) recall(c *container) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last == nil || r.last.ID != c.ID || r.lastBorn.Sec == 0 || r.lastBorn != c.born() {
		return false
	}
	c.record = *r.last
	return true
}

// born is when the container's folder was made, which tells it from an earlier
// one of the same name; zero where the file system does not know.
func (c *container) born() unix.StatxTimestamp {
	var st unix.Statx_t
	if err := unix.Statx(int(c.lock.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st); err != nil || st.Mask&unix.STATX_BTIME == 0 {
		return unix.StatxTimestamp{}
	}
	return st.Btime
}

func (c *container) flock() error {
	f, err := openFile(c.dir, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		// "does not exist" is how callers of runc know it
		return fmt.Errorf("container %s does not exist: %w", c.ID, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return fmt.Errorf("lock %s: %w", c.dir, err)
	}
	c.lock = f
	return nil
}

// close releases the lock.
func (c *container) close() { _ = c.lock.Close() }

func (c *container) path(name string) string { return filepath.Join(c.dir, name) }

func (c *container) read() error {
	b, err := readFile(c.path(recordFile))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &c.record); err != nil {
		return fmt.Errorf("%s: %w", c.path(recordFile), err)
	}
	return nil
}

// write replaces the record. Its folder is in memory, so there is nothing to sync.
func (c *container) write() error {
	b, err := json.Marshal(&c.record)
	if err != nil {
		return err
	}
	tmp := c.path("." + recordFile)
	if err := writeFile(tmp, b); err != nil {
		return err
	}
	return os.Rename(tmp, c.path(recordFile))
}

// remove removes the container's folder: the files that it has, and for whatever else
// may have got there the long way.
func (c *container) remove() error {
	for _, name := range []string{configFile, resultsFile, goFIFO, doneFIFO, recordFile} {
		_ = unix.Unlink(c.path(name))
	}
	if unix.Rmdir(c.dir) == nil {
		return nil
	}
	return os.RemoveAll(c.dir)
}

// hooks decodes the container's hooks; nil if it has none.
func (c *container) hooks() (*specs.Hooks, error) {
	if c.Hooks == nil {
		return nil, nil
	}
	h := new(specs.Hooks)
	if err := json.Unmarshal(c.Hooks, h); err != nil {
		return nil, fmt.Errorf("%s: hooks: %w", c.path(recordFile), err)
	}
	return h, nil
}

// spec reads the configuration as it was at create.
func (c *container) spec() (*specs.Spec, error) {
	b, err := readFile(c.path(configFile))
	if err != nil {
		return nil, err
	}
	spec := new(specs.Spec)
	if err := decodeSpec(b, spec); err != nil {
		return nil, fmt.Errorf("%s: %w", c.path(configFile), err)
	}
	return spec, nil
}

// status asks the kernel: nothing is remembered that could be wrong after a kill.
func (c *container) status() specs.ContainerState {
	if c.PID == 0 {
		if c.Created.IsZero() {
			return specs.StateStopped
		}
		return specs.StateCreating
	}
	start, state, err := processStat(c.PID)
	if err != nil || start != c.StartTime || state == 'Z' || state == 'X' {
		return specs.StateStopped
	}
	if _, err := os.Lstat(c.path(goFIFO)); err == nil {
		return specs.StateCreated
	}
	if c.frozen() {
		return StatusPaused
	}
	return specs.StateRunning
}

func (c *container) frozen() bool {
	if c.Cgroup == "" {
		return false
	}
	b, err := readFile(filepath.Join(c.CgroupRoot, c.Cgroup, "cgroup.freeze"))
	return err == nil && len(b) > 0 && b[0] == '1'
}

// openCgroup opens the container's cgroup, or returns nil where it has none.
func (c *container) openCgroup() (*cgroup.Cgroup, error) {
	if c.Cgroup == "" {
		return nil, nil
	}
	cg, err := cgroup.Open(c.CgroupRoot, c.Cgroup)
	if errors.Is(err, fs.ErrNotExist) || errdefs.IsNotFound(err) {
		return nil, nil
	}
	return cg, err
}

// state is what `state` prints and hooks get.
func (c *container) state(status specs.ContainerState) *specs.State {
	s := &specs.State{
		Version: SpecVersion, ID: c.ID, Status: status, Bundle: c.Bundle, Annotations: c.Annotations,
	}
	if status != specs.StateStopped {
		s.Pid = c.PID
	}
	return s
}

// processStat returns a process's start time and state letter; see proc(5),
// /proc/PID/stat, fields 22 and 3.
func processStat(pid int) (start uint64, state byte, err error) {
	b, err := readFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	// The second field, the name, may hold spaces and parentheses.
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(fields) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: too few fields", pid)
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0][0], err
}
