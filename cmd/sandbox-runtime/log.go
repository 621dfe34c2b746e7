package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// logger writes warnings and errors where the caller wants them: engines read
// the reason of a failure from the JSON log.
type logger struct {
	file *os.File
	json bool
}

func newLogger() *logger { return &logger{file: os.Stderr} }

func (l *logger) open(path, format string) error {
	switch format {
	case "json":
		l.json = true
	case "text", "":
	default:
		return fmt.Errorf("--log-format %q: use text or json", format)
	}
	if path == "" {
		return nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_SYNC, 0o644) //nolint:gosec // for its readers
	if err != nil {
		return err
	}
	l.file = f
	return nil
}

func (l *logger) warn(msg string) { l.line("warning", msg) }

// error logs err, and shows it to whoever runs the command by hand, too.
func (l *logger) error(err error) {
	l.line("error", err.Error())
	if l.file != os.Stderr {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
}

func (l *logger) line(level, msg string) {
	if l.json {
		b, err := json.Marshal(struct {
			Level string    `json:"level"`
			Msg   string    `json:"msg"`
			Time  time.Time `json:"time"`
		}{level, msg, time.Now()})
		if err == nil {
			_, _ = l.file.Write(append(b, '\n'))
		}
		return
	}
	if l.file == os.Stderr {
		fmt.Fprintf(l.file, "%s: %s\n", level, msg)
		return
	}
	fmt.Fprintf(l.file, "time=%q level=%s msg=%q\n", time.Now().Format(time.RFC3339), level, msg)
}
