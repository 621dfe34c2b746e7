package stack_test

import (
	"bytes"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// TestUpFromArchive: what two images in a file are for comes up without them in
// the store, and says where they came from; without the file it says what is
// missing. Neither asks anybody else.
func TestUpFromArchive(t *testing.T) {
	s := newSandbox(t)
	archive := filepath.Join(s.home, "stack.tar")
	s.must("image", "export", "localstack", "demo-app", "-o", archive)
	s.must("image", "rm", "localstack", "demo-app")

	var out, errs bytes.Buffer
	cmd := s.command(t.Context(), "up", "--only", "aws", "--offline", "--json")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err == nil {
		t.Error("an up without the image")
	}
	for _, want := range []string{`image "localstack" not found (tried: local store; offline: no registry; recipe `, "hint: where localstack is: sandbox image export localstack -o FILE"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("no %q in\n%s", want, errs.Bytes())
		}
	}

	c, took := s.change("up", "--only", "aws", "--offline", "--archive", archive)
	t.Logf("measured: up of the stage aws from an archive: %.1f s", took.Seconds())
	want := api.UsedImage{Name: "localstack:latest", From: "archive stack.tar", Source: "archive"}
	if !slices.ContainsFunc(c.Tasks, func(task api.Task) bool { return task.Stage == "aws" && slices.Contains(task.Images, want) }) {
		t.Errorf("no step works with %+v", want)
	}
	// The table says so, too.
	var status api.StackStatus
	if err := json.Unmarshal(s.must("status", "--json"), &status); err != nil {
		t.Fatal(err)
	}
	for _, stage := range status.Stages {
		if stage.Name == "aws" && (!slices.Equal(stage.Images, []api.UsedImage{want}) || stage.Took == 0 || stage.Items[0].Access == "") {
			t.Errorf("%+v", stage)
		}
	}
	s.change("down", "--purge")
	<-s.ended
	s.daemon = nil
}

// must runs a command and returns what it prints.
func (s *sandbox) must(args ...string) []byte {
	s.t.Helper()
	var errs bytes.Buffer
	cmd := s.command(s.t.Context(), args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("sandbox %s: %v\n%s", strings.Join(args, " "), err, errs.Bytes())
	}
	return out
}
