package cli

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
	"github.com/sandboxlabs/sandbox/pkg/ui"
)

// statusRow is a row of the table: the daemon, a stage, or a thing that one of
// these has.
type statusRow struct {
	owner string // "daemon", or the stage
	api.StatusItem
}

// isOwner says whether the row is that of a stage, or of the daemon, itself.
func (r statusRow) isOwner() bool { return r.What == "" }

// statusRows are the rows of a status. What a stage that is down does not have is
// left out.
func statusRows(s api.StackStatus) []statusRow {
	rows := []statusRow{{"daemon", api.StatusItem{
		Where: fmt.Sprintf("process %d", s.PID), State: "up", Note: "version " + s.Daemon.Version,
	}}}
	for _, item := range s.Services {
		rows = append(rows, statusRow{"daemon", item})
	}
	for _, stage := range s.Stages {
		down := stage.Status == "down" && stage.Error == ""
		own := statusRow{stage.Name, api.StatusItem{State: stage.Status, Note: stageNote(stage)}}
		if i := slices.IndexFunc(stage.Items, func(it api.StatusItem) bool { return it.Note != "" }); down && i >= 0 {
			own.Note = stage.Items[i].Note
		}
		rows = append(rows, own)
		for _, item := range stage.Items {
			if !down {
				rows = append(rows, statusRow{stage.Name, item})
			}
		}
	}
	return rows
}

// stageNote is what is wrong with a stage, or else how the last `up` made it.
func stageNote(s api.StageStatus) string {
	var parts []string
	if s.Error != "" {
		parts = append(parts, s.Error)
	}
	if s.Took > 0 {
		parts = append(parts, "took "+ui.Duration(s.Took))
	}
	if images := imagesNote(s.Images); images != "" {
		parts = append(parts, images)
	}
	return strings.Join(parts, "; ")
}

// imagesNote says in a few words from where images came.
func imagesNote(images []api.UsedImage) string {
	var names []string // in the order in which they come
	count := map[string]int{}
	for _, img := range images {
		name := "from " + img.From
		switch kind, _, _ := strings.Cut(img.From, " "); {
		case kind == "built-in":
			name = img.From
		case kind == "recipe" && len(images) > 1:
			name = "from recipes"
		case img.From == "local store" && img.Source != "":
			name = "from the local store (" + img.Source + ")"
		}
		if count[name]++; count[name] == 1 {
			names = append(names, name)
		}
	}
	if len(images) == 1 {
		return "image " + names[0]
	}
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", count[name], name)
	}
	if len(names) == 0 {
		return ""
	}
	return "images: " + strings.Join(names, ", ")
}

// statusTable is what `status` shows, and `up` in the end.
func statusTable(style ui.Style, s api.StackStatus) *ui.Table {
	t := &ui.Table{Header: []string{"WHAT", "WHERE", "STATE", "NOTE"}, Below: 1}
	for _, r := range statusRows(s) {
		what := "  " + ui.Plain(r.What)
		if r.isOwner() {
			what = style.Bold(ui.Plain(r.owner))
		}
		note := ui.Plain(r.Note)
		if r.Access != "" {
			note = strings.TrimSuffix(style.Cyan(ui.Plain(r.Access))+"; "+note, "; ")
		}
		t.Add(what, ui.Plain(r.Where), state(style, r.State), note)
	}
	return t
}

// statusFooter are the lines below the table.
func statusFooter(s api.StackStatus) []string {
	var parts []string
	if s.Took > 0 {
		parts = append(parts, "the last up took "+ui.Duration(s.Took))
	}
	if s.Change != "" {
		parts = append(parts, "change "+s.Change+" is under way")
	}
	if parts == nil {
		return nil
	}
	return []string{"", strings.Join(parts, "; ")}
}

func state(style ui.Style, s string) string {
	switch s {
	case "up":
		return style.Green(s)
	case "degraded":
		return style.Yellow(s)
	case "down", "absent":
		return style.Dim(s)
	}
	return ui.Plain(s)
}

// statusNews tells what has changed from one look to the next.
type statusNews struct {
	last map[string]api.StatusItem
}

// statusChange is one thing that has changed.
type statusChange struct {
	Time  time.Time `json:"time"`
	Stage string    `json:"stage"` // or "daemon"
	api.StatusItem
}

// of returns what is new in a status: at first all of it. Of a daemon that does
// not run nothing else is known.
func (n *statusNews) of(s api.StackStatus, running bool, now time.Time) (news []statusChange) {
	rows := []statusRow{{"daemon", api.StatusItem{State: "down", Note: "it is not running"}}}
	if running {
		rows = statusRows(s)
	}
	next := map[string]api.StatusItem{}
	for _, r := range rows {
		key := r.owner + "\x00" + r.What
		next[key] = r.StatusItem
		if old, ok := n.last[key]; !ok || old != r.StatusItem {
			news = append(news, statusChange{now, r.owner, r.StatusItem})
		}
	}
	n.last = next
	return news
}

// line is a change for people.
func (c statusChange) line(style ui.Style) string {
	what := c.Stage
	if c.What != "" {
		what += "  " + c.What
	}
	parts := []string{style.Dim(c.Time.Local().Format("15:04:05")), style.Bold(ui.Plain(what)), state(style, c.State)}
	for _, more := range []string{c.Where, c.Access, c.Note} {
		if more != "" {
			parts = append(parts, ui.Plain(more))
		}
	}
	return strings.Join(parts, "  ")
}
