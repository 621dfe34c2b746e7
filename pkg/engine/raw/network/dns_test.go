package network

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestNames(t *testing.T) {
	upstream := newUpstream(t, "127.0.0.1:53")
	n := newNetwork(t, "127.0.0.1")
	one, ep := attach(t, n, 1, "Web", nil)
	query := func(t *testing.T, network, name string, kind uint16) *dns.Msg {
		t.Helper()
		q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
		var answer *dns.Msg
		one.in(t, func() (err error) {
			answer, _, err = (&dns.Client{Net: network, Timeout: 8 * time.Second}).Exchange(q, "10.89.0.1:53")
			return err
		})
		return answer
	}
	for _, c := range []struct {
		name  string
		kind  uint16
		rcode int
		want  string // in the only answer
	}{
		{"web", dns.TypeA, dns.RcodeSuccess, ep.Address.Addr().String()},
		{"WEB", dns.TypeA, dns.RcodeSuccess, ep.Address.Addr().String()},
		{shortID(id(1)), dns.TypeA, dns.RcodeSuccess, ep.Address.Addr().String()},
		{"web", dns.TypeAAAA, dns.RcodeSuccess, ""},
		{"web", dns.TypeMX, dns.RcodeSuccess, ""},
		{"2.0.89.10.in-addr.arpa", dns.TypePTR, dns.RcodeSuccess, "web."},
		{"77.0.89.10.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, ""},
		{"example.com", dns.TypeA, dns.RcodeSuccess, "192.0.2.80"},
		{"4.4.8.8.in-addr.arpa", dns.TypePTR, dns.RcodeNameError, ""},
		{"nowhere.example", dns.TypeA, dns.RcodeNameError, ""},
		{"broken.example", dns.TypeA, dns.RcodeServerFailure, ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(network+"/"+c.name+"/"+dns.TypeToString[c.kind], func(t *testing.T) {
				answer := query(t, network, c.name, c.kind)
				if answer.Rcode != c.rcode {
					t.Fatalf("%s; want %s", dns.RcodeToString[answer.Rcode], dns.RcodeToString[c.rcode])
				}
				if c.want == "" && len(answer.Answer) > 0 || c.want != "" && (len(answer.Answer) != 1 || !strings.HasSuffix(answer.Answer[0].String(), "\t"+c.want)) {
					t.Errorf("answer %v; want %q", answer.Answer, c.want)
				}
			})
		}
	}
	t.Run("truncated", func(t *testing.T) {
		if answer := query(t, "udp", "long.example", dns.TypeTXT); !answer.Truncated {
			t.Error("a long answer by UDP is not marked as cut off")
		}
		if answer := query(t, "tcp", "long.example", dns.TypeTXT); answer.Truncated || len(answer.Answer) != 40 {
			t.Errorf("by TCP %d records, truncated %t; want 40", len(answer.Answer), answer.Truncated)
		}
	})
	t.Run("detached", func(t *testing.T) {
		attach(t, n, 2, "db", nil)
		if answer := query(t, "udp", "db", dns.TypeA); answer.Rcode != dns.RcodeSuccess {
			t.Errorf("db: %v", answer)
		}
		detach(t, n, 2)
		if answer := query(t, "udp", "db", dns.TypeA); answer.Rcode != dns.RcodeNameError {
			t.Errorf("db after Detach: %v", answer)
		}
	})
	t.Run("from outside", func(t *testing.T) {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}, &net.UDPAddr{IP: net.IPv4(10, 89, 0, 1), Port: 53})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		q, _ := new(dns.Msg).SetQuestion("example.com.", dns.TypeA).Pack()
		c.Write(q)
		c.SetDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(make([]byte, 512)); err == nil {
			t.Errorf("%d bytes of answer to an address outside the subnet", n)
		}
	})
	t.Run("resolv.conf", func(t *testing.T) {
		text, err := n.ResolvConf(nil)
		if err != nil || text != "nameserver 10.89.0.1\noptions ndots:0\n" {
			t.Errorf("%q, %v", text, err)
		}
	})
	t.Run("second upstream", func(t *testing.T) {
		conf(t, n, "nameserver 127.0.0.66\nnameserver 127.0.0.1\n")
		if answer := query(t, "udp", "example.com", dns.TypeA); answer.Rcode != dns.RcodeSuccess {
			t.Errorf("with a dead server before a live one: %v", answer)
		}
	})
	t.Run("no upstream", func(t *testing.T) {
		conf(t, n, "")
		start := time.Now()
		if answer := query(t, "udp", "example.com", dns.TypeA); answer.Rcode != dns.RcodeServerFailure {
			t.Errorf("example.com: %v", answer)
		}
		if answer := query(t, "udp", "nobody", dns.TypeA); answer.Rcode != dns.RcodeNameError {
			t.Errorf("nobody: %v", answer)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("took %s without anyone to ask", took)
		}
	})
	t.Run("ourselves as upstream", func(t *testing.T) {
		conf(t, n, "nameserver 10.89.0.1\n")
		if answer := query(t, "udp", "example.com", dns.TypeA); answer.Rcode != dns.RcodeServerFailure {
			t.Errorf("example.com: %v", answer)
		}
	})
	_ = upstream
}

// conf replaces the host's resolv.conf.
func conf(t *testing.T, n *Network, text string) {
	t.Helper()
	if err := os.WriteFile(n.cfg.Resolv.Conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// newUpstream is a name server that knows the names of TestNames.
func newUpstream(t *testing.T, address string) []*dns.Server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: listens on port 53")
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		switch name := q.Question[0].Name; name {
		case "example.com.":
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IPv4(192, 0, 2, 80)}}
		case "long.example.":
			for i := range 40 {
				m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{fmt.Sprintf("%060d", i)}})
			}
			if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
				m.Truncate(dns.MinMsgSize)
			}
		case "broken.example.":
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Rcode = dns.RcodeNameError
		}
		w.WriteMsg(m)
	})
	var servers []*dns.Server
	for _, network := range []string{"udp", "tcp"} {
		started := make(chan struct{})
		s := &dns.Server{Addr: address, Net: network, Handler: handler, NotifyStartedFunc: func() { close(started) }}
		go s.ListenAndServe()
		select {
		case <-started:
		case <-time.After(5 * time.Second):
			t.Fatal("the upstream name server does not start")
		}
		t.Cleanup(func() { s.Shutdown() })
		servers = append(servers, s)
	}
	return servers
}
