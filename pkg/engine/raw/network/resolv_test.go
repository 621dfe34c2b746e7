package network

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite golden files")

// TestResolvConf builds resolv.conf from the host's files in each of
// testdata/resolv*.txtar, and compares it with what is written there: with
// our name server, with --dns, and without a connection.
func TestResolvConf(t *testing.T) {
	files, err := filepath.Glob("testdata/resolv*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no golden files", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			in := ResolvFiles{Conf: filepath.Join(dir, "host"), Systemd: filepath.Join(dir, "systemd")}
			want := map[string]string{}
			for _, f := range archive.Files {
				want[f.Name] = string(f.Data)
				if f.Name == "host" || f.Name == "systemd" {
					if err := os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			host, err := in.read()
			if err != nil {
				t.Fatal(err)
			}
			var upstreams strings.Builder
			for _, u := range host.upstreams {
				upstreams.WriteString(u.String() + "\n")
			}
			got := []txtar.File{
				{Name: "bridge", Data: []byte(resolvConf(host, addr("10.89.0.1"), nil))},
				{Name: "dns", Data: []byte(resolvConf(host, addr("10.89.0.1"), []string{"9.9.9.9"}))},
				{Name: "none", Data: []byte(resolvConf(host, netip.Addr{}, nil))},
				{Name: "upstreams", Data: []byte(upstreams.String())},
			}
			if *update {
				kept := archive.Files[:0]
				for _, f := range archive.Files {
					if f.Name == "host" || f.Name == "systemd" {
						kept = append(kept, f)
					}
				}
				archive.Files = append(kept, got...)
				if err := os.WriteFile(path, txtar.Format(archive), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			for _, f := range got {
				if string(f.Data) != want[f.Name] {
					t.Errorf("%s:\n%s\nwant:\n%s", f.Name, f.Data, want[f.Name])
				}
			}
		})
	}
}

func TestHosts(t *testing.T) {
	ep := Endpoint{Address: netip.MustParsePrefix("10.89.0.2/16"), Gateway: addr("10.89.0.1")}
	got, err := Hosts(ep, "abc", []string{"web", "abc", ""}, []string{"db:10.0.0.5", "six:2001:db8::1", "host.docker.internal:host-gateway"})
	if err != nil {
		t.Fatal(err)
	}
	const want = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n" +
		"10.0.0.5\tdb\n2001:db8::1\tsix\n10.89.0.1\thost.docker.internal\n10.89.0.2\tabc web\n"
	if got != want {
		t.Errorf("hosts:\n%s\nwant:\n%s", got, want)
	}
	if got, err := Hosts(Endpoint{}, "abc", nil, nil); err != nil || strings.Contains(got, "abc") {
		t.Errorf("hosts without a connection: %v\n%s", err, got)
	}
	for _, extra := range []string{"db", ":1.2.3.4", "db:", "db:1.2.3", "db:1.2.3.4\n6.6.6.6 evil"} {
		if got, err := Hosts(ep, "abc", nil, []string{extra}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Hosts with %q: %v\n%s", extra, err, got)
		}
	}
}

func TestCached(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	reads := 0
	c := cached[string]{paths: []string{path}, read: func() (string, error) {
		reads++
		b, err := os.ReadFile(path)
		if os.IsNotExist(err) {
			err = nil
		}
		return string(b), err
	}}
	check := func(want string, wantReads int) {
		t.Helper()
		if got, err := c.get(); err != nil || got != want || reads != wantReads {
			t.Errorf("get = %q, %v after %d reads; want %q, %d", got, err, reads, want, wantReads)
		}
	}
	check("", 1)
	check("", 1)
	os.WriteFile(path, []byte("one"), 0o600)
	check("one", 2)
	check("one", 2)
	// The same size and time in another file, as an editor or daemon leaves it.
	info, _ := os.Stat(path)
	os.WriteFile(path+".new", []byte("two"), 0o600)
	os.Chtimes(path+".new", time.Time{}, info.ModTime())
	os.Rename(path+".new", path)
	check("two", 3)
	os.Remove(path)
	check("", 4)
}
