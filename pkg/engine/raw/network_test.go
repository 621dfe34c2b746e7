package raw

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// output runs a container to its end and returns what it has logged.
func output(t testing.TB, e *Engine, spec api.ContainerSpec) string {
	t.Helper()
	c := launch(t, e, spec)
	if _, err := e.Wait(within(t, time.Minute), c.ID); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(e.Dirs.Container(c.ID).Log())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestNetwork(t *testing.T) {
	h := newHost(t)
	e := h.open(t)
	defer func() { purge(t, e) }()
	ports := []api.PortMapping{{ContainerPort: 80, Protocol: "tcp"}}
	web := launch(t, e, api.ContainerSpec{
		Name: "sbt-web", Hostname: "web.test", Init: true,
		Network: api.Network{Mode: "bridge", Publish: ports, ExtraHosts: []string{"friend:192.0.2.7"}},
		Command: shell("echo served >/tmp/index.html; exec httpd -f -p 80 -h /tmp"),
	})
	if web.IP == "" || web.Gateway == "" || web.MAC == "" || len(web.Ports) != 1 || web.Ports[0].HostPort == 0 {
		t.Fatalf("%+v", web)
	}
	out := output(t, e, api.ContainerSpec{Network: api.Network{Mode: "bridge"}, Command: shell(
		"for i in $(seq 50); do wget -q -O - http://sbt-web/ && break; sleep 0.1; done; nslookup web.test | grep -o " + web.IP + "; ip -o -4 addr show eth0 | wc -l")})
	for _, want := range []string{`"served\n"`, `"` + web.IP + `\n"`, `"1\n"`} {
		if !strings.Contains(out, want) {
			t.Errorf("a neighbour wrote %s, want %s", out, want)
		}
	}
	for _, host := range []string{"127.0.0.1", web.Gateway, "[::1]"} {
		if got, err := get(fmt.Sprintf("%s:%d", host, web.Ports[0].HostPort)); err != nil || !strings.HasSuffix(got, "served\n") {
			t.Errorf("published port by %s: %q, %v", host, got, err)
		}
	}
	out = output(t, e, api.ContainerSpec{Network: api.Network{Mode: "container:sbt-web"}, Command: shell("wget -q -O - http://127.0.0.1/; cat /etc/hosts /etc/hostname")})
	for _, want := range []string{"served", web.IP + `\tweb.test`, `192.0.2.7\tfriend`, `"web.test\n"`} {
		if !strings.Contains(out, want) {
			t.Errorf("in its network: %s, want %s", out, want)
		}
	}
	out = output(t, e, api.ContainerSpec{Network: api.Network{Mode: "host"}, Command: shell("ip link show sbtraw0 | grep -c UP")})
	if !strings.Contains(out, `"1\n"`) {
		t.Errorf("in the host's network: %s", out)
	}

	_, err := e.Create(t.Context(), api.ContainerSpec{Image: testImage, Network: api.Network{Publish: web.Ports}}, nil)
	if !errdefs.IsConflict(err) {
		t.Errorf("a port that is taken: %v, want a conflict", err)
	}
	// A new daemon, the same connection.
	abandon(t, e)
	e = h.open(t)
	if got, err := get(fmt.Sprintf("%s:%d", web.Gateway, web.Ports[0].HostPort)); err != nil || !strings.HasSuffix(got, "served\n") {
		t.Errorf("published port after a restart: %q, %v", got, err)
	}
	if err := e.Kill(t.Context(), web.ID, "KILL"); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(within(t, time.Minute), web.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "its address and port are free", func() bool {
		leases, err := e.Network.Leases()
		if err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", web.Ports[0].HostPort))
		if err == nil {
			_ = l.Close()
		}
		return len(leases) == 0 && err == nil
	})
}

// get makes an HTTP request without package http's pool, which would keep the
// connection.
func get(addr string) (string, error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	var b bytes.Buffer
	_, err = io.Copy(&b, c)
	return b.String(), err
}
