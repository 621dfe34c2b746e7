package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/sandboxlabs/sandbox/pkg/stack/docker"
)

// The administrator of Grafana, which only this machine can reach.
const (
	grafanaUser     = "admin"
	grafanaPassword = "admin"
)

const (
	// retention is how long Prometheus keeps what it has measured, and
	// retentionSize how much: whichever comes first.
	retention     = "15d"
	retentionSize = "4GB"
)

// ports are the usual ones, by the names of services.
var ports = map[string]uint16{"prometheus": 9090, "alertmanager": 9093, "node-exporter": 9100, "grafana": 3001}

// alertmanager sends alerts to the daemon.
func (set *settings) alertmanager() docker.Service {
	port := set.port("alertmanager")
	return docker.Service{
		Stage: Name, Name: "alertmanager", Image: "alertmanager",
		Command: []string{
			"--config.file=/etc/alertmanager/alertmanager.yml",
			"--storage.path=/alertmanager",
			"--web.external-url=" + local(port, "/"),
			"--cluster.listen-address=", // it is alone
		},
		Ports:   []docker.Port{{Host: port, Container: 9093}},
		Volumes: []docker.Volume{{Name: "sandbox-alertmanager", Target: "/alertmanager"}},
		Binds:   []docker.Bind{{Source: set.folder("alertmanager"), Target: "/etc/alertmanager", ReadOnly: true}},
		Ready:   answers(local(port, "/-/ready")),
	}
}

// prometheus scrapes, keeps, and evaluates the rules.
func (set *settings) prometheus() docker.Service {
	port := set.port("prometheus")
	return docker.Service{
		Stage: Name, Name: "prometheus", Image: "prometheus",
		Command: []string{
			"--config.file=/etc/prometheus/prometheus.yml",
			"--storage.tsdb.path=/prometheus",
			"--storage.tsdb.retention.time=" + retention,
			"--storage.tsdb.retention.size=" + retentionSize,
			"--web.external-url=" + local(port, "/"),
			// At its start it has alerts before it knows of Alertmanager, and would
			// say so again only after a minute.
			"--rules.alert.resend-delay=10s",
		},
		Ports:   []docker.Port{{Host: port, Container: 9090}},
		Volumes: []docker.Volume{{Name: "sandbox-prometheus", Target: "/prometheus"}},
		Binds:   []docker.Bind{{Source: set.folder("prometheus"), Target: "/etc/prometheus", ReadOnly: true}},
		Ready:   answers(local(port, "/-/ready")),
	}
}

// nodeExporter measures this machine: it is in the host's namespaces, and
// listens at the gateway of Docker's network, which others do not reach.
func (set *settings) nodeExporter() docker.Service {
	at := set.node()
	s := docker.Service{
		Stage: Name, Name: "node-exporter", Image: "node-exporter",
		Command: []string{
			"--web.listen-address=" + at.String(),
			// A link for each container, and a mount: they come and go.
			`--collector.netdev.device-exclude=^(veth|cali|lxc).*`,
			`--collector.netclass.ignored-devices=^(veth|cali|lxc).*`,
		},
		Network: "host", HostPID: true,
		// Nothing is published in the host's network; it is how the port is
		// looked at beforehand.
		Ports: []docker.Port{{HostIP: at.Addr(), Host: at.Port(), Container: at.Port()}},
		Ready: answers("http://" + at.String() + "/"),
	}
	if set.RootShared {
		// As a slave, or it would hold on to what the host unmounts.
		s.Binds = []docker.Bind{{Source: "/", Target: "/host", ReadOnly: true, Propagation: "rslave"}}
		s.Command = append(s.Command, "--path.rootfs=/host",
			`--collector.filesystem.mount-points-exclude=^/(dev|proc|run|sys|tmp|var/lib/(docker|containerd|kubelet|sandbox))($|/)`,
			`--collector.filesystem.fs-types-exclude=^(autofs|binfmt_misc|bpf|cgroup2?|configfs|debugfs|devpts|devtmpfs|fusectl|hugetlbfs|mqueue|nsfs|overlay|proc|procfs|pstore|rpc_pipefs|securityfs|selinuxfs|squashfs|sysfs|tmpfs|tracefs)$`)
	} else {
		s.Command = append(s.Command, "--no-collector.filesystem")
	}
	return s
}

// rootShared reports whether mounts of the host are propagated, as systemd has
// it: Docker refuses a slave of what is not.
func rootShared() (bool, error) {
	root, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return m.Mountpoint != "/", false })
	if err != nil {
		return false, fmt.Errorf("read mountinfo: %w", err)
	}
	shared := false
	for _, m := range root { // the last is on top
		shared = strings.Contains(m.Optional, "shared:") || strings.Contains(m.Optional, "master:")
	}
	return shared, nil
}

// grafana shows it all.
func (set *settings) grafana() docker.Service {
	port := set.port("grafana")
	return docker.Service{
		Stage: Name, Name: "grafana", Image: "grafana",
		Env: []string{
			"GF_SECURITY_ADMIN_USER=" + grafanaUser,
			"GF_SECURITY_ADMIN_PASSWORD=" + grafanaPassword,
			"GF_SERVER_ROOT_URL=" + local(port, "/"),
			"GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH=/etc/grafana/dashboards/golden-signals.json",
			// It has nothing to ask the internet for, and may not reach it.
			"GF_ANALYTICS_REPORTING_ENABLED=false",
			"GF_ANALYTICS_CHECK_FOR_UPDATES=false",
			"GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES=false",
			"GF_NEWS_NEWS_FEED_ENABLED=false",
			"GF_PLUGINS_PREINSTALL_DISABLED=true",
			// Data sources are read at the start only: another one is another
			// container.
			"SANDBOX_CONFIGURATION=" + set.Digests["grafana"],
		},
		Ports:   []docker.Port{{Host: port, Container: 3000}},
		Volumes: []docker.Volume{{Name: "sandbox-grafana", Target: "/var/lib/grafana"}},
		Binds: []docker.Bind{
			{Source: filepath.Join(set.folder("grafana"), "provisioning"), Target: "/etc/grafana/provisioning", ReadOnly: true},
			{Source: filepath.Join(set.folder("grafana"), "dashboards"), Target: "/etc/grafana/dashboards", ReadOnly: true},
		},
		Ready: answers(local(port, "/api/health")),
	}
}

// local is the address of a published port, for this machine's users.
func local(port uint16, path string) string {
	return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))) + path
}

// node is where node-exporter listens.
func (set *settings) node() netip.AddrPort {
	return netip.AddrPortFrom(set.Daemon.Addr(), set.port("node-exporter"))
}

// asking is the client of the services: through no proxy, whatever the
// environment says.
var asking = &http.Client{Timeout: 3 * time.Second, Transport: &http.Transport{Proxy: nil, IdleConnTimeout: 10 * time.Second}}

// get returns the body of a 200 answer.
func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := asking.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		err = errors.New(resp.Status)
	}
	if err != nil {
		return nil, fmt.Errorf("GET %s: %w", url, err)
	}
	return body, nil
}

func answers(url string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := get(ctx, url)
		return err
	}
}
