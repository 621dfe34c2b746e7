package knobs

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestPatch(t *testing.T) {
	for _, c := range []struct{ patch, want string }{
		{`{}`, ""},
		{`{"error_rate": 0.5, "latency": "250ms", "memory": "64Mi", "leak": 1000}`, ""},
		{`{"ready": false}`, ""},
		{`{"error_rate": 1.5}`, "error_rate: must be between 0 and 1"},
		{`{"latency": "31s"}`, "latency: must be between 0s and 30s"},
		{`{"latency": 3}`, "knobs: "},
		{`{"latency": "soon"}`, `"soon" is no duration`},
		{`{"memory": "17Gi"}`, "memory: must be between 0 and 16Gi"},
		{`{"memory": "-1"}`, "no amount of memory"},
		{`{"memory": "9999999999Gi"}`, "no amount of memory"},
		{`{"cpu": -1}`, "cpu: must be between"},
		{`{"log_noise": 1e9}`, "log_noise: must be between"},
		{`{"exit_code": 256}`, "exit_code: must be"},
		{`{"crash_after": "-1s"}`, "crash_after: must not"},
		{`{"eror_rate": 1}`, `unknown field "eror_rate"`},
		{`{} {}`, "one JSON object"},
		{`[]`, "knobs: "},
		{``, "knobs: "},
	} {
		b := NewBoard(Defaults())
		before, changed := b.Get()
		_, err := b.Patch([]byte(c.patch))
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.patch, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.patch, err, c.want)
		}
		if after, _ := b.Get(); after != before {
			t.Errorf("%s: an error changed the settings to %+v", c.patch, after)
		}
		select {
		case <-changed:
			t.Errorf("%s: an error was told as a change", c.patch)
		default:
		}
	}
}

func TestPatchLeavesTheOthers(t *testing.T) {
	initial := Defaults()
	initial.Latency = Duration(time.Second)
	b := NewBoard(initial)
	_, changed := b.Get()
	got, err := b.Patch([]byte(`{"memory": "64Mi", "healthy": false}`))
	if err != nil {
		t.Fatal(err)
	}
	want := initial
	want.Memory, want.Healthy = 64<<20, false
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	select {
	case <-changed:
	default:
		t.Error("a change was not told")
	}
	if got := b.Reset(); got != initial {
		t.Errorf("after a reset: %+v, want %+v", got, initial)
	}
}

func TestSettingsInJSON(t *testing.T) {
	want := Settings{
		ErrorRate: 0.25, Latency: Duration(1500 * time.Millisecond), Jitter: 1, CPU: 0.5,
		Memory: 64 << 20, Leak: 1234, LogNoise: 3, Ready: true, CrashAfter: Duration(time.Minute), ExitCode: 3,
	}
	b, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Settings
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("%s became %+v, %v", b, got, err)
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "1k": 1000, "1Ki": 1024, "64Mi": 64 << 20, "2Gi": 2 << 30, "5M": 5e6, "1G": 1e9,
	} {
		var got Size
		if err := got.UnmarshalText([]byte(text)); err != nil || got != want {
			t.Errorf("%s: %d, %v; want %d", text, got, err, want)
		}
		if got.String() != text {
			t.Errorf("%d is written %s, want %s", got, got, text)
		}
	}
	for _, text := range []string{"", "Mi", "1.5Gi", "1Ti", "-1", "1 Mi", "0x10"} {
		var s Size
		if err := s.UnmarshalText([]byte(text)); err == nil {
			t.Errorf("%q was taken for %d bytes", text, s)
		}
	}
}
