package api

import (
	"encoding/json"
	"time"
)

// Error is the body of every answer that is not 2xx.
type Error struct {
	Message string `json:"message"`
	// Class is the errdefs class: invalid-argument, not-found, already-exists,
	// failed-precondition, conflict, unavailable, canceled, internal.
	Class string `json:"class"`
	Hint  string `json:"hint,omitempty"`
}

// Frame is one line of a streamed answer (application/x-ndjson). Exactly one
// field is set; Result or Error comes last.
type Frame struct {
	Explain  *Explain        `json:"explain,omitempty"`
	Warning  string          `json:"warning,omitempty"`
	Progress *ImageProgress  `json:"progress,omitempty"`
	Build    *BuildEvent     `json:"build,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *Error          `json:"error,omitempty"`
}

// Explain is one kernel operation; see explain.Event, whose JSON this is.
type Explain struct {
	Seq      int64         `json:"seq"`
	Time     time.Time     `json:"time"`
	Actor    string        `json:"actor"`
	PID      int           `json:"pid,omitempty"`
	Op       string        `json:"op"`
	Target   string        `json:"target,omitempty"`
	Value    string        `json:"value,omitempty"`
	Duration time.Duration `json:"duration_ns"`
	Error    string        `json:"error,omitempty"`
	Source   string        `json:"source,omitempty"`
	Flag     string        `json:"flag,omitempty"`
	Why      string        `json:"why,omitempty"`
}

// Version is GET /v1/version.
type Version struct {
	Version   string `json:"version"`
	Commit    string `json:"commit,omitempty"`
	GoVersion string `json:"go_version"`
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	Kernel    string `json:"kernel"`
}

// Finding is one line of doctor.
type Finding struct {
	Check   string `json:"check"`  // kernel, cgroup, …
	Status  string `json:"status"` // ok, warn, fail
	Found   string `json:"found"`  // what is there
	Why     string `json:"why"`    // what it is needed for
	Fix     string `json:"fix,omitempty"`
	Fixable bool   `json:"fixable,omitempty"` // doctor --fix can do it
}

// Status words of stages, steps and changes.
const (
	Pending = "pending"
	Doing   = "doing"
	Done    = "done"
	Failed  = "failed"
	Aborted = "aborted"
	Skipped = "skipped"
)

// StackStatus is GET /v1/status.
type StackStatus struct {
	Daemon Version       `json:"daemon"`
	PID    int           `json:"pid"`
	Since  time.Time     `json:"since"`
	Stages []StageStatus `json:"stages"`
	// Services are what the daemon itself serves beside its API.
	Services []StatusItem `json:"services,omitempty"`
	Change   string       `json:"change,omitempty"` // the one that is under way
	// Took is how long the last `up` took that succeeded; 0 if none did.
	Took time.Duration `json:"took_ns,omitempty"`
}

// StageStatus is one stage of the stack.
type StageStatus struct {
	Name   string       `json:"name"`
	Status string       `json:"status"` // up, down, degraded
	Items  []StatusItem `json:"items,omitempty"`
	Error  string       `json:"error,omitempty"`
	// Took is how long the steps of the stage took in the last `up` in which
	// they succeeded, and Images are those that it worked with then.
	Took   time.Duration `json:"took_ns,omitempty"`
	Images []UsedImage   `json:"images,omitempty"`
}

// StatusItem is one thing a stage runs, and where to find it.
type StatusItem struct {
	What  string `json:"what"`
	Where string `json:"where,omitempty"`
	State string `json:"state"` // up, down, degraded; absent: not to be had here, and done without
	// Access is how to get in: credentials, or where they are.
	Access string `json:"access,omitempty"`
	Note   string `json:"note,omitempty"`
}

// UpOptions is the body of POST /v1/up.
type UpOptions struct {
	Only    []string `json:"only,omitempty"`
	Without []string `json:"without,omitempty"`
	// Archive is the absolute path of an archive of images: what of them is not
	// in the store is imported before anything else.
	Archive string `json:"archive,omitempty"`
	// Offline asks no registry, and builds nothing that needs the network.
	Offline bool `json:"offline,omitempty"`
	// User is who asks; nil when nobody does, as at boot.
	User *User `json:"user,omitempty"`
	Settings
}

// User is one of this machine, whose files the stack completes with his rights.
type User struct {
	UID int `json:"uid"`
	GID int `json:"gid"`
	// Kubeconfig is the path of the file that his kubectl writes to.
	Kubeconfig string `json:"kubeconfig"`
}

// Settings are the choices about the stack that outlive an `up`: the next one,
// also after a reboot, goes by them where it makes no other choice.
type Settings struct {
	// Nodes of the cluster; 0 for one.
	Nodes int `json:"nodes,omitempty"`
	// Ports move services, by name, to other ports of the host.
	Ports map[string]uint16 `json:"ports,omitempty"`
}

// DownOptions is the body of POST /v1/down.
type DownOptions struct {
	Purge bool `json:"purge,omitempty"`
}

// VerifyOptions is the body of POST /v1/verify.
type VerifyOptions struct {
	// Only some of the promises, by name, and those that they need.
	Only []string `json:"only,omitempty"`
	// Offline is that of UpOptions.
	Offline bool `json:"offline,omitempty"`
}

// Change is long work that can be followed, aborted and resumed.
type Change struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // up, down, verify
	Status  string    `json:"status"`
	Error   *Error    `json:"error,omitempty"`
	Created time.Time `json:"created"`
	Ready   time.Time `json:"ready,omitzero"`
	Tasks   []Task    `json:"tasks"`
}

// Task is one step of a change.
type Task struct {
	Stage  string        `json:"stage"`
	Name   string        `json:"name"`
	Status string        `json:"status"`
	Note   string        `json:"note,omitempty"` // "already there", "built from recipe", …
	Done   int64         `json:"done,omitempty"` // bytes, where Total is known
	Total  int64         `json:"total,omitempty"`
	Took   time.Duration `json:"took_ns,omitempty"`
	Error  string        `json:"error,omitempty"`
	// Images are those that the step works with.
	Images []UsedImage `json:"images,omitempty"`
}

// UsedImage is an image that a stage works with.
type UsedImage struct {
	Name string `json:"name"` // in the store
	// From is where `up` had it from: "local store", "archive FILE", "registry
	// HOST", "recipe NAME", "built-in".
	From string `json:"from"`
	// Source is how it once came into the store; see Image.
	Source string `json:"source,omitempty"`
}
