package shim

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/engine/raw/shim/protocol"
	"github.com/sandboxlabs/sandbox/pkg/state"
)

// maxLine is where a line without an end is cut, in bytes.
const maxLine = 16 << 10

// containerLog writes a container's output as JSON lines. A full or failing
// disk must not stop the container: lines are then dropped, and the first
// error is kept for the shim's own log.
type containerLog struct {
	files state.Files
	max   int64 // bytes of one file
	keep  int   // files, with the current one

	mu      sync.Mutex
	f       *os.File
	size    int64
	partial map[protocol.Type][]byte // the line that has not ended yet
	out     bytes.Buffer
	enc     *json.Encoder
	failed  error
}

func newContainerLog(files state.Files, maxSize int64, keep int) (*containerLog, error) {
	l := &containerLog{files: files, max: maxSize, keep: max(keep, 1), partial: map[protocol.Type][]byte{}}
	l.enc = json.NewEncoder(&l.out)
	l.enc.SetEscapeHTML(false)
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *containerLog) open() error {
	f, err := os.OpenFile(l.files.Log(), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	l.f, l.size = f, 0
	return nil
}

// Write adds b, which the process has just written to stream.
func (l *containerLog) Write(stream protocol.Type, b []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	for len(b) > 0 {
		line, rest, ended := b, []byte(nil), false
		if i := bytes.IndexByte(b, '\n'); i >= 0 {
			line, rest, ended = b[:i+1], b[i+1:], true
		}
		begun := l.partial[stream]
		switch {
		case len(begun)+len(line) > maxLine:
			begun = append(begun, line...)
			n := cut(begun)
			l.line(stream, begun[:n], now)
			l.partial[stream], b = nil, append(append([]byte(nil), begun[n:]...), rest...)
		case !ended:
			l.partial[stream], b = append(begun, line...), nil
		case len(begun) > 0:
			l.line(stream, append(begun, line...), now)
			l.partial[stream], b = begun[:0], rest
		default:
			l.line(stream, line, now)
			b = rest
		}
	}
	l.flush()
}

// cut returns where to end a piece of b, which is longer than maxLine: not
// inside a character.
func cut(b []byte) int {
	n := maxLine
	for i := 0; i < utf8.UTFMax-1 && !utf8.RuneStart(b[n]); i++ {
		n--
	}
	return n
}

func (l *containerLog) line(stream protocol.Type, b []byte, now time.Time) {
	name := "stdout"
	if stream == protocol.Stderr {
		name = "stderr"
	}
	// The encoder puts U+FFFD where the bytes are not UTF-8.
	if err := l.enc.Encode(api.LogLine{Time: now, Stream: name, Data: string(b)}); err != nil {
		l.fail(err)
	}
	if int64(l.out.Len()) >= l.max {
		l.flush()
	}
}

// flush writes whole lines with one write(2), so that a reader hardly ever
// meets half of one.
func (l *containerLog) flush() {
	defer l.out.Reset()
	if l.out.Len() == 0 {
		return
	}
	if l.size > 0 && l.size+int64(l.out.Len()) > l.max {
		if err := l.rotate(); err != nil {
			l.fail(err)
		}
	}
	n, err := l.f.Write(l.out.Bytes())
	l.size += int64(n)
	if err != nil {
		l.fail(err)
	}
}

// rotate makes log.jsonl log.jsonl.1, that log.jsonl.2, and so on.
func (l *containerLog) rotate() error {
	for i := l.keep - 2; i >= 0; i-- {
		err := os.Rename(l.files.RotatedLog(i), l.files.RotatedLog(i+1))
		if err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if l.keep == 1 {
		if err := os.Remove(l.files.Log()); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	old := l.f
	if err := l.open(); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return old.Close()
}

func (l *containerLog) fail(err error) {
	if l.failed == nil && !os.IsNotExist(err) {
		l.failed = err
		fmt.Fprintln(os.Stderr, "log lines are lost:", err)
	}
}

// Close writes what has no newline at its end.
func (l *containerLog) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now().UTC()
	for _, s := range []protocol.Type{protocol.Stdout, protocol.Stderr} {
		if len(l.partial[s]) > 0 {
			l.line(s, l.partial[s], now)
			l.partial[s] = nil
		}
	}
	l.flush()
	_ = l.f.Close()
}
