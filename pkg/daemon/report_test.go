package daemon

import (
	"fmt"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// TestReport: a stage's figures are those of the last `up` that was done with it.
func TestReport(t *testing.T) {
	begun := time.Now()
	recipe, store := api.UsedImage{Name: "a", From: "recipe a"}, api.UsedImage{Name: "a", From: "local store"}
	task := func(stage, status string, took time.Duration, images ...api.UsedImage) api.Task {
		return api.Task{Stage: stage, Name: fmt.Sprint(took), Status: status, Took: took, Images: images}
	}
	changes := []api.Change{
		{Kind: api.ChangeUp, Status: api.Done, Created: begun, Ready: begun.Add(time.Minute), Tasks: []api.Task{
			task("aws", api.Done, 1, recipe), task("aws", api.Done, 2, store), task("aws", api.Skipped, 0), task("cluster", api.Done, 5), task("docker", api.Done, 6),
		}},
		{Kind: api.ChangeUp, Status: api.Failed, Created: begun, Ready: begun.Add(time.Hour), Tasks: []api.Task{
			task("aws", api.Failed, 9), task("cluster", api.Done, 7, store), task("monitoring", api.Skipped, 0),
		}},
		{Kind: api.ChangeDown, Status: api.Done, Tasks: []api.Task{task("cluster", api.Done, 8)}},
	}
	s := api.StackStatus{Stages: []api.StageStatus{
		{Name: "aws", Status: "up"}, {Name: "cluster", Status: "degraded"}, {Name: "monitoring", Status: "up"}, {Name: "docker", Status: "down"},
	}}
	report(&s, changes)
	for i, want := range []api.StageStatus{{Took: 3, Images: []api.UsedImage{recipe}}, {Took: 7, Images: []api.UsedImage{store}}, {}, {}} {
		if got := s.Stages[i]; got.Took != want.Took || fmt.Sprint(got.Images) != fmt.Sprint(want.Images) {
			t.Errorf("%s: %+v, want %+v", got.Name, got, want)
		}
	}
	if s.Took != time.Minute {
		t.Errorf("the last up took %v", s.Took)
	}
}
