package daemon

import (
	"slices"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// report adds to a status what the latest of these changes, oldest first, tell
// of how it came to be.
func report(status *api.StackStatus, changes []api.Change) {
	for i := range status.Stages {
		s := &status.Stages[i]
		if s.Status == "down" {
			continue // what was is of no interest
		}
		for _, c := range slices.Backward(changes) {
			if took, images, ok := stageOf(c, s.Name); ok {
				s.Took, s.Images = took, images
				break
			}
		}
	}
	for _, c := range slices.Backward(changes) {
		if c.Kind == api.ChangeUp && c.Status == api.Done {
			status.Took = c.Ready.Sub(c.Created)
			return
		}
	}
}

// stageOf is what an `up` tells of a stage; false if it had none, or was not
// done with it.
func stageOf(c api.Change, stage string) (took time.Duration, images []api.UsedImage, ok bool) {
	if c.Kind != api.ChangeUp {
		return 0, nil, false
	}
	for _, t := range c.Tasks {
		if t.Stage != stage {
			continue
		}
		switch t.Status {
		case api.Done:
			ok = true
		case api.Skipped: // there was no occasion, or another step failed
		default:
			return 0, nil, false
		}
		took += t.Took
		for _, img := range t.Images {
			// A step that finds what another has brought does not know where from.
			if !slices.ContainsFunc(images, func(have api.UsedImage) bool { return have.Name == img.Name }) {
				images = append(images, img)
			}
		}
	}
	return took, images, ok
}
