package cluster

import (
	"context"
	"time"

	"github.com/docker/docker/api/types/container"
	"go.uber.org/zap"

	"github.com/sandboxlabs/sandbox/pkg/stack/cluster/kube"
)

// earlyPoll is how often it is tried what is not possible yet, on a machine that
// is busy making it possible.
const earlyPoll = 500 * time.Millisecond

// early does beside kind what need not wait for its end: the control plane's
// node takes the add-ons' images while Kubernetes starts, and gets the add-ons
// once the API server answers, when kind still waits for kubeadm and the network.
// What does not succeed here is done, and reported, by the steps that follow.
// It returns soon after ctx ends.
func (u *up) early(ctx context.Context) {
	n, ok := u.earlyNode(ctx)
	if !ok {
		return
	}
	pulled := make(chan struct{})
	go func() {
		defer close(pulled)
		for _, name := range addonImages {
			u.earlyPull(ctx, n, name)
		}
	}()
	defer func() { <-pulled }()
	c := u.earlyClient(ctx, n)
	if c == nil {
		return
	}
	defer c.Close()
	for until(ctx) {
		if c.Live(ctx) != nil {
			continue
		}
		if _, err := u.applyAddons(ctx, n); err == nil {
			u.applied.Store(true)
			return
		} else if ctx.Err() == nil {
			u.Log.Debug("apply early", zap.Error(err))
		}
	}
}

// until waits a moment, and reports whether ctx is still alive.
func until(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(earlyPoll):
		return true
	}
}

// earlyNode waits until the control plane's node runs.
func (u *up) earlyNode(ctx context.Context) (node, bool) {
	for until(ctx) {
		have, err := u.find(ctx)
		if err != nil {
			continue
		}
		if n, ok := have.controlPlane(); ok && n.State == container.StateRunning {
			return n, true
		}
	}
	return node{}, false
}

// earlyPull has the node's containerd take an image, once it is there.
func (u *up) earlyPull(ctx context.Context, n node, name string) {
	image, err := pin(u.images[name])
	if err != nil {
		return
	}
	for until(ctx) {
		begun := time.Now()
		_, err := u.exec(ctx, n, nil, "crictl", "pull", image)
		if err == nil {
			u.Log.Debug("pulled early", zap.String("image", image), zap.Duration("took", time.Since(begun)))
			return
		}
		if ctx.Err() == nil {
			u.Log.Debug("pull early", zap.String("image", image), zap.Error(err))
		}
	}
}

// earlyClient waits until there is an administrator to ask as.
func (u *up) earlyClient(ctx context.Context, n node) *kube.Client {
	for until(ctx) {
		e, err := u.entry(ctx, n)
		if err != nil {
			continue
		}
		if c, err := kube.New(e); err == nil {
			return c
		}
	}
	return nil
}
