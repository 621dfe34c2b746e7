package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/cluster"
	content "github.com/sandboxlabs/sandbox/sandbox/verify"
)

const (
	namespace = "sandbox-verify"
	// The Ingress and the HTTPRoute of the demo app know it by these.
	ingressHost = "verify.sandbox.localhost"
	gatewayHost = "gateway.sandbox.localhost"
	// readyTimeout is for pods whose images nodes have to pull first.
	readyTimeout = 2 * time.Minute
)

// kubectl works in the walk's namespace.
func (w *Walk) kubectl(ctx context.Context, args ...string) (string, error) {
	out, err := w.Cluster.Kubectl(ctx, nil, append([]string{"--namespace", namespace}, args...)...)
	return string(out), err
}

// apply applies the manifests of a folder.
func (w *Walk) apply(ctx context.Context, folder string, p stack.Progress) error {
	images := map[string]stack.Image{}
	for _, name := range []string{demoApp, toolbox} {
		img, err := w.Images.Ensure(ctx, name, p)
		if err != nil {
			return err
		}
		images[name] = img
	}
	files, err := fs.Sub(content.Files, folder)
	if err != nil {
		return err
	}
	manifests, err := cluster.Manifests(files, "verify", images)
	if err != nil {
		return err
	}
	_, err = w.Cluster.Kubectl(ctx, bytes.NewReader(manifests), "apply", "--server-side", "--filename=-")
	return err
}

func (w *Walk) deploy(ctx context.Context, p stack.Progress) error {
	if err := w.apply(ctx, "app", p); err != nil {
		return err
	}
	begun := time.Now()
	limit := "--timeout=" + readyTimeout.String()
	if _, err := w.kubectl(ctx, "rollout", "status", "deployment/demo-app", limit); err != nil {
		return errors.Join(err, w.events(ctx))
	}
	if _, err := w.kubectl(ctx, "wait", "--for=condition=Ready", "pod/guarded", "pod/friend", "pod/stranger", limit); err != nil {
		return errors.Join(err, w.events(ctx))
	}
	took := time.Since(begun)
	img, err := w.Images.Ensure(ctx, demoApp, p)
	if err != nil {
		return err
	}
	made, err := w.kubectl(ctx, "get", "pods", "--selector=app=demo-app", "--output=jsonpath={.items[*].status.containerStatuses[*].imageID}")
	if err != nil {
		return err
	}
	for id := range strings.FieldsSeq(made) {
		if !strings.HasSuffix(id, "@"+img.Digest) {
			return fmt.Errorf("a pod runs the image %s, and not %s@%s", id, img.Name, img.Digest)
		}
	}
	return kept(p, "5 pods ready after %.1f s; the image is %s", took.Seconds(), short(img.Digest))
}

// events are what the cluster says about pods that do not start.
func (w *Walk) events(ctx context.Context) error {
	out, err := w.kubectl(ctx, "get", "events", "--field-selector=type=Warning", "--output=jsonpath={range .items[*]}{.involvedObject.name}: {.message}{'\\n'}{end}")
	if err != nil || strings.TrimSpace(out) == "" {
		return err
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return errors.New("the cluster says: " + strings.Join(lines[max(0, len(lines)-3):], "; "))
}

// answersAs asks for a host at the ports of this machine that lead into the
// cluster, by which the Ingress, or the HTTPRoute, knows the app.
func (w *Walk) answersAs(host string) func(context.Context, stack.Progress) error {
	return func(ctx context.Context, p stack.Progress) error {
		at, err := w.Cluster.Ingress(ctx)
		if err != nil {
			return err
		}
		var answer struct{ Version, Environment string }
		err = poll(ctx, 30*time.Second, func(ctx context.Context) error {
			return get(ctx, at+"/", host, func(r *http.Response) error {
				return json.NewDecoder(io.LimitReader(r.Body, 1<<20)).Decode(&answer)
			})
		})
		if err != nil {
			return fmt.Errorf("%s, asked for %s: %w", at, host, err)
		}
		if answer.Environment != "verify" {
			return fmt.Errorf("%s, asked for %s: another app answers: %+v", at, host, answer)
		}
		return kept(p, "%s as %s, version %s", at, host, answer.Version)
	}
}

func (w *Walk) resolves(ctx context.Context, p stack.Progress) error {
	name := demoApp + "." + namespace + ".svc.cluster.local"
	var out string
	err := poll(ctx, 20*time.Second, func(ctx context.Context) (err error) {
		out, err = w.kubectl(ctx, "exec", "friend", "--", "nslookup", "-type=a", name)
		return err
	})
	if err != nil {
		return err
	}
	address, err := w.kubectl(ctx, "get", "service", demoApp, "--output=jsonpath={.spec.clusterIP}")
	if err != nil {
		return err
	}
	if !strings.Contains(out, address) {
		return fmt.Errorf("%s is not %s, the address of its Service: %s", name, address, strings.Join(strings.Fields(out), " "))
	}
	return kept(p, "%s is %s", name, address)
}

// guards tries both pods before, under and after a policy.
func (w *Walk) guards(ctx context.Context, p stack.Progress) error {
	reaches := func(pod string) func(context.Context) error {
		return func(ctx context.Context) error {
			_, err := w.kubectl(ctx, "exec", pod, "--", "timeout", "3", "wget", "-q", "-O", "-", "http://guarded")
			return err
		}
	}
	blocked := func(ctx context.Context) error {
		if reaches("stranger")(ctx) == nil {
			return errors.New("the stranger gets through a policy that does not name it")
		}
		return nil
	}
	const patience = 30 * time.Second
	if err := poll(ctx, patience, reaches("stranger")); err != nil {
		return fmt.Errorf("without a policy: %w", err)
	}
	if err := w.apply(ctx, "policy", p); err != nil {
		return err
	}
	begun := time.Now()
	if err := poll(ctx, patience, blocked); err != nil {
		return err
	}
	took := time.Since(begun)
	if err := poll(ctx, patience, reaches("friend")); err != nil {
		return fmt.Errorf("the policy blocks the pod that it names: %w", err)
	}
	if err := blocked(ctx); err != nil {
		return err
	}
	if _, err := w.kubectl(ctx, "delete", "networkpolicy", "guarded"); err != nil {
		return err
	}
	if err := poll(ctx, patience, reaches("stranger")); err != nil {
		return fmt.Errorf("after the policy was deleted: %w", err)
	}
	return kept(p, "it holds after %.1f s", took.Seconds())
}

func (w *Walk) keepsVolume(ctx context.Context, p stack.Progress) error {
	if err := w.apply(ctx, "volume", p); err != nil {
		return err
	}
	ready := func() error {
		_, err := w.kubectl(ctx, "rollout", "status", "deployment/writer", "--timeout="+readyTimeout.String())
		if err != nil {
			return errors.Join(err, w.events(ctx))
		}
		return nil
	}
	if err := ready(); err != nil {
		return err
	}
	word := time.Now().Format(time.RFC3339Nano)
	if _, err := w.kubectl(ctx, "exec", "deployment/writer", "--", "sh", "-c", `echo "$0" >/notes/word && sync`, word); err != nil {
		return err
	}
	if _, err := w.kubectl(ctx, "rollout", "restart", "deployment/writer"); err != nil {
		return err
	}
	if err := ready(); err != nil {
		return err
	}
	out, err := w.kubectl(ctx, "exec", "deployment/writer", "--", "cat", "/notes/word")
	if err != nil {
		return err
	}
	if got := strings.TrimSpace(out); got != word {
		return fmt.Errorf("the pod wrote %q, and the next one reads %q", word, got)
	}
	class, err := w.kubectl(ctx, "get", "persistentvolumeclaim", "notes", "--output=jsonpath={.spec.storageClassName}")
	return errors.Join(err, kept(p, "of the class %s", class))
}

// knowsUsage waits for metrics-server, which looks at pods every 15 s.
func (w *Walk) knowsUsage(ctx context.Context, p stack.Progress) error {
	var out string
	err := poll(ctx, 90*time.Second, func(ctx context.Context) (err error) {
		out, err = w.kubectl(ctx, "top", "pod", "--no-headers", "--selector=app=demo-app")
		if err == nil && len(strings.Fields(out)) < 3 {
			err = errors.New("kubectl top pod lists none of the app's pods")
		}
		return err
	})
	if err != nil {
		return err
	}
	f := strings.Fields(out)
	return kept(p, "%s: %s CPU, %s", f[0], f[1], f[2])
}

// removeNamespace takes away what is in the cluster, if there is one.
func (w *Walk) removeNamespace(ctx context.Context) error {
	_, err := w.Cluster.Kubectl(ctx, nil, "delete", "namespace", namespace, "--ignore-not-found", "--timeout="+readyTimeout.String())
	if errdefs.IsFailedPrecondition(err) {
		return nil // there is no cluster
	}
	return err
}
