package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/runtime"
)

func list(_ context.Context, g *global, args []string) (int, error) {
	fs := flags("list")
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	quiet := fs.Bool("quiet", false, "IDs only")
	fs.BoolVar(quiet, "q", false, "short for --quiet")
	if _, err := parse(fs, args, 0, 0); err != nil {
		return 2, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	if _, err := os.Stat(r.Root); g.rootGiven && err != nil {
		return 1, err // a typing error, most likely
	}
	rows, err := r.List()
	if err != nil {
		return 1, err
	}
	switch {
	case *quiet:
		for _, c := range rows {
			fmt.Println(c.ID)
		}
		return 0, nil
	case *format == "json":
		if rows == nil {
			rows = []runtime.Listed{}
		}
		return 0, json.NewEncoder(os.Stdout).Encode(rows)
	case *format != "table":
		return 2, fmt.Errorf("%w: --format %q: use table or json", errUsage, *format)
	}
	w := tabwriter.NewWriter(os.Stdout, 12, 1, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	for _, c := range rows {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", c.ID, c.PID, c.Status, c.Bundle, c.Created.Format(time.RFC3339Nano), c.Owner)
	}
	return 0, w.Flush()
}

// ps lists PIDs itself; the table is ps(1)'s, filtered.
func ps(ctx context.Context, g *global, args []string) (int, error) {
	fs := flags("ps")
	format := fs.String("format", "table", "table or json")
	fs.StringVar(format, "f", "table", "short for --format")
	args, err := parse(fs, args, 1, -1)
	if err != nil {
		return 2, err
	}
	r, done, err := g.runtime()
	if err != nil {
		return 1, err
	}
	defer done()
	pids, err := r.Processes(args[0])
	if err != nil {
		return 1, err
	}
	if *format == "json" {
		if pids == nil {
			pids = []int{}
		}
		return 0, json.NewEncoder(os.Stdout).Encode(pids)
	}
	options := args[1:]
	if len(options) == 0 {
		options = []string{"-ef"}
	}
	out, err := exec.CommandContext(ctx, "ps", options...).Output()
	if err != nil {
		return 1, fmt.Errorf("ps %s: %w", strings.Join(options, " "), err)
	}
	ours := make(map[string]bool, len(pids))
	for _, pid := range pids {
		ours[strconv.Itoa(pid)] = true
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	column := -1
	for i, title := range strings.Fields(lines[0]) {
		if title == "PID" {
			column = i
		}
	}
	if column < 0 {
		return 1, fmt.Errorf("ps %s prints no PID column", strings.Join(options, " "))
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		if f := strings.Fields(line); len(f) > column && ours[f[column]] {
			fmt.Println(line)
		}
	}
	return 0, nil
}
