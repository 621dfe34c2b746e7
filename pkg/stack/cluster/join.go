package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	yaml "go.yaml.in/yaml/v3"

	"github.com/sandboxlabs/sandbox/pkg/stack"
	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

const (
	kubeadmConf = "/kind/kubeadm.conf"
	// bootTimeout bounds the start of a node's systemd.
	bootTimeout = 60 * time.Second
)

// booted matches what a node says when commands may be run in it: earlier ones
// would be in the way of systemd's cgroups (kind#2409).
var booted = regexp.MustCompile("Reached target .*Multi-User System|detected cgroup v1")

// missing are the names of workers that were removed.
func (f found) missing() []string {
	return slices.DeleteFunc(nodeNames(f.spec.Nodes), func(name string) bool {
		return slices.ContainsFunc(f.nodes, func(n node) bool { return n.Name == name })
	})
}

// join makes workers anew that were removed, and has them join: kind makes whole
// clusters only. What was on the nodes is gone with them.
func (u *up) join(ctx context.Context, names []string, p stack.Progress) error {
	c, err := u.Docker.Client()
	if err != nil {
		return err
	}
	control, _ := u.have.controlPlane()
	api, err := u.client(ctx, u.have)
	if err != nil {
		return err
	}
	defer api.Close()
	p.Note("waiting for the API server")
	if err := u.wait(ctx, apiTimeout, apiPoll, func(ctx context.Context) (string, error) {
		if err := api.Live(ctx); err != nil {
			return err.Error(), nil
		}
		return "", nil
	}, func(string) {}); err != nil {
		return err
	}
	conf, err := u.readFile(ctx, control, kubeadmConf)
	if err != nil {
		return err
	}
	token, err := u.exec(ctx, control, nil, "kubeadm", "--kubeconfig", adminConf, "token", "create", "--ttl", "15m")
	if err != nil {
		return fmt.Errorf("make a token to join with: %w", err)
	}
	for _, name := range names {
		p.Note("node %s was removed: made anew", name)
		if err := u.joinOne(ctx, c, control, name, string(conf), strings.TrimSpace(string(token))); err != nil {
			return fmt.Errorf("node %s: %w", name, err)
		}
	}
	u.have, err = u.find(ctx)
	return err
}

func (u *up) joinOne(ctx context.Context, c *client.Client, control node, name, conf, token string) (err error) {
	n, err := u.copyNode(ctx, c, control, name)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil { // half a node is of no use
			err = errors.Join(err, removeContainer(context.WithoutCancel(ctx), c, n.ID, "node "+name))
		}
	}()
	if err := waitBooted(ctx, c, n.ID); err != nil {
		return err
	}
	have, err := c.ContainerInspect(ctx, n.ID)
	if err != nil {
		return err
	}
	ip := have.NetworkSettings.Networks[docker.NetworkName].IPAddress
	join, err := joinConfig(conf, control.Name, name, ip, token)
	if err != nil {
		return err
	}
	if err := u.writeFile(ctx, n, kubeadmConf, join); err != nil {
		return err
	}
	if _, err := u.kubectl(ctx, control, nil, "delete", "node", name, "--ignore-not-found"); err != nil {
		return err
	}
	_, err = u.exec(ctx, n, nil, "kubeadm", "join", "--config", kubeadmConf)
	return err
}

// copyNode makes and starts a worker like the control plane's node, without what
// only that has: ports, and an administrator.
func (u *up) copyNode(ctx context.Context, c *client.Client, control node, name string) (node, error) {
	have, err := c.ContainerInspect(ctx, control.ID)
	if err != nil {
		return node{}, err
	}
	config, host := *have.Config, *have.HostConfig
	config.Hostname, config.ExposedPorts, host.PortBindings = name, nil, nil
	config.Env = slices.DeleteFunc(slices.Clone(config.Env), func(v string) bool { return strings.HasPrefix(v, "KUBECONFIG=") })
	config.Labels = maps.Clone(config.Labels)
	config.Labels[labelRole] = roleWorker
	made, err := c.ContainerCreate(ctx, &config, &host, nil, nil, name)
	if err != nil {
		return node{}, err
	}
	n := node{ID: made.ID, Name: name, Role: roleWorker}
	if err := c.ContainerStart(ctx, n.ID, container.StartOptions{}); err != nil {
		return n, errors.Join(err, removeContainer(context.WithoutCancel(ctx), c, n.ID, "node "+name))
	}
	return n, nil
}

// waitBooted reads a node's log until systemd is up.
func waitBooted(ctx context.Context, c *client.Client, id string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, bootTimeout, &lateError{bootTimeout})
	defer cancel()
	log, err := c.ContainerLogs(ctx, id, container.LogsOptions{ShowStdout: true, Follow: true})
	if err != nil {
		return err
	}
	defer log.Close()
	defer context.AfterFunc(ctx, func() { _ = log.Close() })()
	var said bytes.Buffer
	for buf := make([]byte, 4096); ; {
		n, err := log.Read(buf)
		said.Write(buf[:n])
		switch {
		case booted.Match(said.Bytes()):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it has ended; the end of its log:\n%s: %w", tail(said.String(), 12), errdefs.ErrUnavailable)
		case err != nil:
			return err
		}
	}
}

// apiVersion finds kubeadm's in a configuration.
var apiVersion = regexp.MustCompile(`(?m)^apiVersion: (kubeadm\.k8s\.io/\S+)$`)

// joinConfig is what kubeadm joins a worker by, in the version of conf, the
// control plane's, and as kind would write it.
func joinConfig(conf, control, name, ip, token string) ([]byte, error) {
	version := apiVersion.FindStringSubmatch(conf)
	if version == nil {
		return nil, fmt.Errorf("%s of the control plane has no apiVersion: %w", kubeadmConf, errdefs.ErrFailedPrecondition)
	}
	type arg struct {
		Name  string `yaml:"name"`
		Value string `yaml:"value"`
	}
	args := []arg{
		{"node-ip", ip},
		{"node-labels", docker.LabelStage + "=" + Name},
		{"provider-id", "kind://docker/" + clusterName + "/" + name},
	}
	var extra any = args
	if strings.HasSuffix(version[1], "/v1beta3") {
		byName := map[string]string{}
		for _, a := range args {
			byName[a.Name] = a.Value
		}
		extra = byName
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": version[1],
		"kind":       "JoinConfiguration",
		"nodeRegistration": map[string]any{
			"criSocket":        "unix:///run/containerd/containerd.sock",
			"kubeletExtraArgs": extra,
		},
		"discovery": map[string]any{"bootstrapToken": map[string]any{
			"apiServerEndpoint": control + ":6443",
			"token":             token,
			// As kind has it: it is a network of this machine's own.
			"unsafeSkipCAVerification": true,
		}},
		"skipPhases": []string{"preflight"},
	})
}
