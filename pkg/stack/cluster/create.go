package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"
	"go.uber.org/zap"
	"sigs.k8s.io/kind/pkg/cluster"
	kindexec "sigs.k8s.io/kind/pkg/exec"
	"sigs.k8s.io/kind/pkg/log"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// abortPoll is how often nodes that kind may still be making are removed under
// its hands.
const abortPoll = 200 * time.Millisecond

// createTries is how often a cluster, or a template, is created; what a killed daemon has left
// running makes one node, at most twice.
const createTries = 3

// nodes starts the nodes that there are, or makes them.
func (u *up) nodes(ctx context.Context, p stack.Progress) error {
	if !u.have.absent() {
		return u.start(ctx, p)
	}
	if _, err := exec.LookPath("docker"); err != nil {
		return stack.WithHint(
			fmt.Errorf("kind needs the command docker: %w: %w", err, errdefs.ErrFailedPrecondition),
			"install Docker's client (Debian and Ubuntu: apt install docker-cli, or docker.io)",
		)
	}
	u.node = u.images[nodeImage]
	u.spec.Image = u.node.Digest
	p.Note("Docker takes the image")
	if err := u.Docker.Pull(ctx, u.node, p); err != nil {
		return err
	}
	image, err := u.template(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	u.created = true
	if err := u.createAlone(ctx, image, p); err != nil {
		return err
	}
	if u.have, err = u.find(ctx); err != nil {
		return err
	}
	p.Note("%d made in %.1f s, image from %s", len(u.have.nodes), time.Since(begun).Seconds(), u.node.From)
	return nil
}

// undoNodes takes back nodes that this run has made and that are of no use yet.
func (u *up) undoNodes(ctx context.Context) error {
	if !u.created {
		return nil
	}
	have, err := u.find(ctx)
	if err != nil {
		return err
	}
	return errors.Join(u.remove(ctx, have.nodes), u.removeTemplates(ctx))
}

// createAlone creates the cluster though somebody may still be making nodes: the
// command docker that a daemon had started, before it was killed, goes on
// without it. What it makes is removed.
func (u *up) createAlone(ctx context.Context, image string, p stack.Progress) error {
	return again(func() error { return u.create(ctx, image, p) }, func(refused error) error {
		u.Log.Warn("a node was made by somebody else", zap.Error(refused))
		have, err := u.find(ctx)
		if err != nil {
			return err
		}
		return u.remove(ctx, have.nodes)
	})
}

// again creates what may be in the way of itself, for a daemon that was killed
// had asked for it: then that is cleared away, and it is tried again.
func again(create func() error, clear func(refused error) error) error {
	for try := 1; ; try++ {
		err := create()
		if !errdefs.IsConflict(err) || try == createTries {
			return err
		}
		if cerr := clear(err); cerr != nil {
			return errors.Join(err, cerr)
		}
	}
}

// create has kind make the nodes, and Kubernetes in them. When there is a node
// already it is an errdefs.ErrConflict.
func (u *up) create(ctx context.Context, image string, p stack.Progress) error {
	config, err := kindConfig(u.spec, image)
	if err != nil {
		return err
	}
	c, err := u.Docker.Client()
	if err != nil {
		return err
	}
	u.creating.Lock()
	defer u.creating.Unlock()
	for key, value := range map[string]string{
		"KIND_EXPERIMENTAL_DOCKER_NETWORK": docker.NetworkName,
		"DOCKER_HOST":                      c.DaemonHost(),
	} {
		// kind asks the environment, and the command docker that it runs does.
		if err := os.Setenv(key, value); err != nil {
			return err
		}
	}
	// kind writes one, to whom it likes. Ours is the user's, with his rights.
	scratch := u.Dirs.RunKind()
	if err := errors.Join(os.RemoveAll(scratch), os.MkdirAll(scratch, 0o700)); err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	provider := cluster.NewProvider(cluster.ProviderWithDocker(), cluster.ProviderWithLogger(&logger{log: u.Log.Named("kind"), p: p}))
	beside, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		u.early(beside)
	}()
	defer func() { end(); <-ended }()
	done := make(chan error, 1)
	go func() {
		done <- provider.Create(clusterName,
			cluster.CreateWithV1Alpha4Config(config),
			cluster.CreateWithKubeconfigPath(filepath.Join(scratch, "config")),
			cluster.CreateWithRetain(true), // for undoNodes, and not without a look at the logs
		)
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		u.abort(ctx, done)
		return context.Cause(ctx)
	}
	if err != nil {
		return u.kindError(ctx, c, err)
	}
	return nil
}

// abort ends kind's work, which heeds no context: what it does in a node ends
// with the node.
func (u *up) abort(ctx context.Context, done <-chan error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	for {
		have, err := u.find(ctx)
		if err == nil {
			err = u.remove(ctx, have.nodes)
		}
		if err != nil {
			u.Log.Warn("remove nodes that are being made", zap.Error(err))
		}
		select {
		case err := <-done:
			u.Log.Debug("kind was aborted", zap.Error(err))
			return
		case <-ctx.Done():
			u.Log.Error("kind does not end")
			return
		case <-time.After(abortPoll):
		}
	}
}

// kindError says what kind's command said, which kind's own error does not.
func (u *up) kindError(ctx context.Context, c *client.Client, err error) error {
	if taken := u.freePorts(); taken != nil && strings.Contains(fmt.Sprint(outputOf(err)), "port") {
		return taken
	}
	// As kind says it, and as Docker does.
	if text := err.Error() + outputOf(err); strings.Contains(text, "already exist for a cluster") || strings.Contains(text, "is already in use by container") {
		return fmt.Errorf("kind: %w: %w", err, errdefs.ErrConflict)
	}
	said := tail(outputOf(err), 12)
	if said != "" {
		said = ":\n" + said
	}
	for _, name := range nodeNames(u.spec.Nodes) {
		if have, ierr := c.ContainerInspect(ctx, name); ierr == nil && !have.State.Running {
			return fmt.Errorf("node %s ended with exit code %d%s: %w", name, have.State.ExitCode, lastWords(ctx, c, have.ID), errdefs.ErrUnavailable)
		}
	}
	return fmt.Errorf("kind: %w%s", err, said)
}

func outputOf(err error) string {
	if run := kindexec.RunErrorForError(err); run != nil {
		return string(run.Output)
	}
	return ""
}

// tail returns the last lines of a text.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(len(all)-lines, 0):], "\n")
}

// namesInTheWay refuses to begin where a container has a node's name and is no
// node.
func (u *up) namesInTheWay(ctx context.Context) error {
	c, err := u.Docker.Client()
	if err != nil {
		return err
	}
	for _, name := range nodeNames(u.spec.Nodes) {
		_, err := c.ContainerInspect(ctx, name)
		if errdefs.IsNotFound(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("inspect container %s: %w", name, err)
		}
		return stack.WithHint(
			fmt.Errorf("container %s is in the way: Docker has one of that name that sandbox did not make: %w", name, errdefs.ErrAlreadyExists),
			"rename it (docker rename "+name+" OTHER), or remove it (docker rm -f "+name+")",
		)
	}
	return nil
}

// freePorts says who has a port that the cluster is to have.
func (u *up) freePorts() error {
	for _, want := range []struct {
		service string
		port    uint16
	}{{ServiceIngress, u.spec.HTTP}, {ServiceIngressTLS, u.spec.HTTPS}} {
		if err := u.Docker.FreePort(netip.AddrPortFrom(loopback, want.port), want.service, "the cluster's "+want.service); err != nil {
			return err
		}
	}
	return nil
}

// startError explains why a node that is there does not start.
func (u *up) startError(n node, err error) error {
	if n.Role == roleControlPlane {
		if taken := u.freePorts(); taken != nil {
			return taken
		}
	}
	return fmt.Errorf("start node %s: %w", n.Name, err)
}

// logger is what kind tells: its steps are notes, the rest is logged.
type logger struct {
	log *zap.Logger
	p   stack.Progress
}

func (l *logger) Warn(message string)               { l.log.Debug(message) } // of its own workings, all of them
func (l *logger) Warnf(format string, args ...any)  { l.Warn(fmt.Sprintf(format, args...)) }
func (l *logger) Error(message string)              { l.log.Warn(message) }
func (l *logger) Errorf(format string, args ...any) { l.Error(fmt.Sprintf(format, args...)) }
func (l *logger) V(level log.Level) log.InfoLogger  { return info{l, level} }

type info struct {
	*logger
	level log.Level
}

func (i info) Enabled() bool                    { return i.level <= 1 }
func (i info) Infof(format string, args ...any) { i.Info(fmt.Sprintf(format, args...)) }

// Info takes " • Starting control-plane 🕹️  ..." for a note.
func (i info) Info(message string) {
	if !i.Enabled() {
		return
	}
	i.log.Debug(strings.TrimSpace(message))
	if step, ok := strings.CutPrefix(message, " • "); ok && i.level == 0 {
		step = strings.TrimSpace(strings.Map(func(r rune) rune {
			if r > 0x2000 {
				return -1 // pictures
			}
			return r
		}, step))
		i.p.Note("%s", strings.TrimRight(step, ". "))
	}
}
