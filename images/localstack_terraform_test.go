package images_test

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/sandboxlabs/sandbox/pkg/stack/aws"
	"github.com/sandboxlabs/sandbox/pkg/stack/aws/terraform"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker/dockertest"
)

// tofu is OpenTofu as the image tools has it, in the network of the test.
type tofu struct {
	*cloud
	program string
	root    string // of the configurations
	env     []string
}

func newTofu(c *cloud, mirror string) *tofu {
	c.t.Helper()
	dir := c.t.TempDir()
	f := &tofu{cloud: c, program: filepath.Join(dir, "tofu"), root: filepath.Join(dir, "configurations")}
	f.extract()
	archive, err := txtar.ParseFile("../testdata/terraform.txtar")
	if err == nil {
		err = txtar.Write(archive, f.root)
	}
	settings := "disable_checkpoint = true\n"
	if mirror != "" {
		settings += fmt.Sprintf("provider_installation {\n  filesystem_mirror {\n    path = %q\n  }\n}\n", mirror)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "tofurc"), []byte(settings), 0o600)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	// Nothing of the machine's own AWS, and no proxy for what is on it.
	f.env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "TF_CLI_CONFIG_FILE=" + filepath.Join(dir, "tofurc"), "TF_IN_AUTOMATION=1",
		"AWS_EC2_METADATA_DISABLED=true", "NO_PROXY=*",
	}
	return f
}

// extract takes the program out of its image.
func (f *tofu) extract() {
	f.t.Helper()
	ctx := f.t.Context()
	img, err := f.images.Ensure(ctx, "tools", noProgress)
	if err == nil {
		_, err = f.docker.pull(ctx, f.images.registry, img.Name)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	box, err := f.docker.client.ContainerCreate(ctx, &container.Config{Image: img.Ref, Cmd: []string{"true"}}, nil, nil, nil, "")
	if err != nil {
		f.t.Fatal(err)
	}
	defer f.docker.client.ContainerRemove(context.Background(), box.ID, container.RemoveOptions{Force: true})
	r, _, err := f.docker.client.CopyFromContainer(ctx, box.ID, "/usr/local/bin/tofu")
	if err != nil {
		f.t.Fatal(err)
	}
	defer r.Close()
	files := tar.NewReader(r)
	_, err = files.Next()
	out, oerr := os.OpenFile(f.program, os.O_CREATE|os.O_WRONLY, 0o755)
	if err = errors.Join(err, oerr); err == nil {
		_, err = io.Copy(out, files)
		err = errors.Join(err, out.Close())
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// initDir points a configuration at the stage.
func (f *tofu) initDir(dir string, lockfile bool) {
	f.t.Helper()
	r, err := terraform.InitDir(filepath.Join(f.root, dir), terraform.Options{
		Endpoint: f.Endpoint, Region: f.Region, Bucket: aws.DefaultBucket, Table: aws.DefaultTable, UseLockfile: lockfile,
	})
	if err != nil || !r.Changed {
		f.t.Fatalf("%+v, %v", r, err)
	}
	if out, err := f.run(dir, "init", "-reconfigure", "-input=false", "-no-color"); err != nil {
		f.t.Fatalf("init: %v\n%s", err, out)
	}
}

func (f *tofu) cmd(dir string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(f.t.Context(), f.program, args...)
	cmd.Dir, cmd.Env = filepath.Join(f.root, dir), f.env
	return cmd
}

// run runs tofu to its end and returns all that it says.
func (f *tofu) run(dir string, args ...string) (string, error) {
	var out strings.Builder
	cmd := f.cmd(dir, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err := f.pocket.command(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), err
}

// expect runs tofu and wants it to succeed and say something.
func (f *tofu) expect(dir, says string, args ...string) {
	f.t.Helper()
	begun := time.Now()
	out, err := f.run(dir, append(args, "-no-color", "-input=false")...)
	if err != nil || !strings.Contains(out, says) {
		f.t.Fatalf("tofu %q: %v, no %q in\n%s\n%s", args, err, says, out, f.log())
	}
	f.t.Logf("measured: tofu %s in %s: %.1f s", args[0], dir, time.Since(begun).Seconds())
}

// terraform applies a configuration with its state in the stage's bucket, and
// kills LocalStack while it is locked.
func (c *cloud) terraform() {
	f := newTofu(c, "")
	for _, lockfile := range []bool{false, true} {
		f.locked(lockfile)
	}
}

// vpc applies the seeds' module of a VPC, and kills LocalStack in between.
func (c *cloud) vpc() {
	mirror, err := dockertest.Providers()
	if err != nil {
		c.t.Skip(err)
	}
	const dir = "environments/dev"
	f := newTofu(c, mirror)
	f.initDir(dir, false)
	f.expect(dir, "Apply complete!", "apply", "-auto-approve")
	f.expect(dir, "No changes.", "plan")
	f.kill()
	f.expect(dir, "No changes.", "plan")
	f.expect(dir, "Destroy complete!", "destroy", "-auto-approve")
}

// locked: who applies has the lock, also when LocalStack dies in the meantime,
// and others are told who has it.
func (f *tofu) locked(lockfile bool) {
	f.t.Helper()
	f.initDir("plain", lockfile)
	release := fmt.Sprint("release=", lockfile)
	sign, goOn := filepath.Join(f.root, fmt.Sprint("sign-", lockfile)), filepath.Join(f.root, fmt.Sprint("go-", lockfile))
	hold := fmt.Sprintf("hold=touch %s; until [ -e %s ]; do sleep 0.1; done", sign, goOn)
	first := f.cmd("plain", "apply", "-auto-approve", "-no-color", "-input=false", "-var", release, "-var", hold)
	var said strings.Builder
	first.Stdout, first.Stderr = &said, &said
	if err := f.pocket.command(first); err != nil {
		f.t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(sign); err == nil {
			break
		}
		if time.Now().After(end) {
			f.t.Fatalf("the first does not begin: %s", said.String())
		}
	}
	for _, when := range []string{"while another applies", "after a kill"} {
		out, err := f.run("plain", "apply", "-auto-approve", "-no-color", "-input=false", "-lock-timeout=0s", "-var", "release=other")
		if err == nil || !strings.Contains(out, "Error acquiring the state lock") || !strings.Contains(out, "Who:") {
			f.t.Errorf("lock file %v: an apply %s: %v\n%s", lockfile, when, err, out)
		}
		if when == "while another applies" {
			f.kill()
		}
	}
	if err := os.WriteFile(goOn, nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	if err := first.Wait(); err != nil {
		f.t.Fatalf("the first: %v\n%s", err, said.String())
	}
	if lockfile { // once is enough: the state is the same
		f.kill()
	}
	f.expect("plain", "No changes.", "plan", "-var", release)
	f.expect("plain", "Destroy complete!", "destroy", "-auto-approve", "-var", release)
}
