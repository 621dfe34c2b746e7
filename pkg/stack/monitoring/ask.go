package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// Sample is one series of an instant query's result.
type Sample struct {
	Labels map[string]string
	Value  string // a float, as Prometheus writes it
}

// Query asks Prometheus for the present value of an expression.
func (s *Stage) Query(ctx context.Context, expr string) ([]Sample, error) {
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any // time, value
		}
	}
	if err := s.ask(ctx, "/api/v1/query?query="+url.QueryEscape(expr), &data); err != nil {
		return nil, fmt.Errorf("query %q: %w", expr, err)
	}
	out := make([]Sample, len(data.Result))
	for i, r := range data.Result {
		out[i].Labels = r.Metric
		out[i].Value, _ = r.Value[1].(string)
	}
	return out, nil
}

// AlertState is that of the alert of a name in Prometheus: "pending", "firing",
// or "" for neither.
func (s *Stage) AlertState(ctx context.Context, name string) (string, error) {
	var data struct {
		Alerts []struct {
			Labels map[string]string
			State  string
		}
	}
	if err := s.ask(ctx, "/api/v1/alerts", &data); err != nil {
		return "", fmt.Errorf("alerts of Prometheus: %w", err)
	}
	for _, a := range data.Alerts {
		if a.Labels["alertname"] == name {
			return a.State, nil
		}
	}
	return "", nil
}

// ask gets what Prometheus's API has under a path.
func (s *Stage) ask(ctx context.Context, path string, data any) error {
	set, err := s.settings()
	if err != nil {
		return err
	}
	body, err := get(ctx, local(set.port("prometheus"), path))
	if err != nil {
		return err
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &answer); err != nil {
		return err
	}
	if answer.Status != "success" {
		return fmt.Errorf("%s: %w", answer.Error, errdefs.ErrInvalidArgument)
	}
	return nil
}

// SetRules puts a file of rules beside those of the stage, or with nil takes it
// away, and waits until Prometheus goes by it. The next `up` takes it away, too.
func (s *Stage) SetRules(ctx context.Context, name string, rules []byte) error {
	set, err := s.settings()
	if err != nil {
		return err
	}
	if err := s.writeRules(&set, filepath.Join("prometheus", "rules", name+".yml"), rules); err != nil {
		return fmt.Errorf("rules %s: %w", name, err)
	}
	return s.reload(ctx, set.prometheus())
}

func (s *Stage) writeRules(set *settings, file string, rules []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, err := fs.Stat(s.Content, filepath.ToSlash(file)); err == nil {
		return fmt.Errorf("the stage has a file of that name: %w", errdefs.ErrAlreadyExists)
	}
	var err error
	if rules == nil {
		if err = os.Remove(filepath.Join(set.dir, file)); os.IsNotExist(err) {
			return nil
		}
	} else {
		_, err = put(set.dir, file, rules)
	}
	if err != nil {
		return err
	}
	if err := set.digest(); err != nil {
		return err
	}
	return state.WriteJSON(s.Dirs.Stage(Name), set)
}

// Panels are the queries of the dashboards, by the titles of their panels.
func (s *Stage) Panels() (map[string][]string, error) {
	names, err := fs.Glob(s.Content, "grafana/dashboards/*.json")
	if err != nil {
		return nil, err
	}
	panels := map[string][]string{}
	for _, name := range names {
		b, err := fs.ReadFile(s.Content, name)
		if err != nil {
			return nil, err
		}
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(b, &dashboard); err != nil {
			return nil, fmt.Errorf("dashboard %s: %w", name, err)
		}
		for _, p := range dashboard.Panels {
			for _, t := range p.Targets {
				panels[p.Title] = append(panels[p.Title], t.Expr)
			}
		}
	}
	return panels, nil
}
