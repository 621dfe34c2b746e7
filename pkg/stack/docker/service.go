package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"strconv"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"
)

// Service is a container that the stack keeps running in Docker. Its name there
// is sandbox-NAME; others on its network find it as NAME.
type Service struct {
	Stage string
	Name  string
	// Image is the name of a recipe.
	Image      string
	Entrypoint []string // the image's when empty, like what follows
	Command    []string
	Env        []string // KEY=VALUE, added to the image's
	User       string
	Ports      []Port
	Volumes    []Volume
	Binds      []Bind
	// Network is one of Docker's by name, or "host"; the stack's when empty.
	Network string
	// HostPID shows the container the processes of the host.
	HostPID bool
	// ExtraHosts are NAME:ADDRESS.
	ExtraHosts []string
	Memory     int64 // bytes; 0 for no limit
	// Ready is asked until it returns nil; its last error says what was missing.
	// Nil when running is enough.
	Ready func(ctx context.Context) error
}

// Port publishes a container's TCP port on an address of the host.
type Port struct {
	HostIP    netip.Addr // loopback when zero
	Host      uint16
	Container uint16
}

func (p Port) host() netip.AddrPort {
	addr := p.HostIP
	if !addr.IsValid() {
		addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	return netip.AddrPortFrom(addr, p.Host)
}

// Volume is a named volume of Docker's.
type Volume struct{ Name, Target string }

// Bind shows a folder or file of the host.
type Bind struct {
	Source, Target string
	ReadOnly       bool
	// Propagation as in mount(2)'s words: "rslave" to see later mounts.
	Propagation string
}

// containerName is the service's name in Docker.
func (s Service) containerName() string { return "sandbox-" + s.Name }

// creation is all that a container is made of.
type creation struct {
	Config  *container.Config
	Host    *container.HostConfig
	Network *network.NetworkingConfig
}

// create is the pure part of making the service's container. image is the
// reference that Docker has pulled, digest what it stands for today: another
// one is another container. Its volumes get the labels, too.
func (s Service) create(image, digest string, labels map[string]string) (creation, error) {
	c := creation{
		Config: &container.Config{
			Image: image, Entrypoint: s.Entrypoint, Cmd: s.Command, Env: s.Env, User: s.User,
			Labels:       maps.Clone(labels),
			ExposedPorts: nat.PortSet{},
		},
		Host: &container.HostConfig{
			PortBindings: nat.PortMap{},
			ExtraHosts:   s.ExtraHosts,
			NetworkMode:  container.NetworkMode(s.network()),
			// Docker starts it again after a reboot, `down` removes it.
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyUnlessStopped},
			LogConfig:     container.LogConfig{Type: "json-file", Config: map[string]string{"max-size": "10m", "max-file": "2"}},
			Resources:     container.Resources{Memory: s.Memory},
		},
	}
	if s.HostPID {
		c.Host.PidMode = "host"
	}
	for _, p := range s.Ports {
		port := nat.Port(strconv.Itoa(int(p.Container)) + "/tcp")
		at := p.host()
		c.Config.ExposedPorts[port] = struct{}{}
		c.Host.PortBindings[port] = append(c.Host.PortBindings[port], nat.PortBinding{
			HostIP: at.Addr().String(), HostPort: strconv.Itoa(int(at.Port())),
		})
	}
	for _, v := range s.Volumes {
		c.Host.Mounts = append(c.Host.Mounts, mount.Mount{
			Type: mount.TypeVolume, Source: v.Name, Target: v.Target,
			VolumeOptions: &mount.VolumeOptions{Labels: labels},
		})
	}
	for _, b := range s.Binds {
		m := mount.Mount{Type: mount.TypeBind, Source: b.Source, Target: b.Target, ReadOnly: b.ReadOnly}
		if b.Propagation != "" {
			m.BindOptions = &mount.BindOptions{Propagation: mount.Propagation(b.Propagation)}
		}
		c.Host.Mounts = append(c.Host.Mounts, m)
	}
	if c.Host.NetworkMode.IsUserDefined() {
		c.Network = &network.NetworkingConfig{EndpointsConfig: map[string]*network.EndpointSettings{
			s.network(): {Aliases: []string{s.Name}},
		}}
	}
	sum, err := c.digest(digest)
	if err != nil {
		return c, fmt.Errorf("service %s: %w", s.Name, err)
	}
	c.Config.Labels[labelSpec] = sum
	return c, nil
}

func (s Service) network() string {
	if s.Network == "" {
		return NetworkName
	}
	return s.Network
}

// digest tells containers apart that are made of other things.
func (c creation) digest(image string) (string, error) {
	b, err := json.Marshal(struct {
		Image string
		creation
	}{image, c})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8]), nil
}
