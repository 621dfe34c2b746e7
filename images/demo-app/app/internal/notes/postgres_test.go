package notes

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// postgres starts a server of this test's own and returns its URL.
func postgres(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin")
	if err != nil || len(found) == 0 {
		t.Skip("PostgreSQL is not installed: apt install postgresql")
	}
	bin := found[len(found)-1]
	dir, err := os.MkdirTemp("", "notes") // short: a socket's path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	// It refuses to run as root.
	as := &syscall.SysProcAttr{}
	if os.Geteuid() == 0 {
		as.Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
		if err := os.Chown(dir, 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.SysProcAttr, cmd.Dir = as, dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	data := filepath.Join(dir, "data")
	run("initdb", "--username=app", "--auth=trust", "--no-sync", "--pgdata="+data)
	run("pg_ctl", "--pgdata="+data, "--wait", "--log="+filepath.Join(dir, "log"),
		"--options=-F -c listen_addresses= -c unix_socket_directories="+dir, "start")
	t.Cleanup(func() { run("pg_ctl", "--pgdata="+data, "--wait", "--mode=immediate", "stop") })
	return fmt.Sprintf("postgres:///postgres?host=%s&user=app", dir)
}

func TestPostgres(t *testing.T) {
	url := postgres(t)
	// Replicas that start at the same time: each creates the table.
	const replicas = 8
	var all sync.WaitGroup
	for i := range replicas {
		p, err := Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		all.Go(func() {
			if err := p.Ping(t.Context()); err != nil {
				t.Error(err)
			}
			if _, err := p.Add(t.Context(), fmt.Sprint("note ", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	p, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	added, err := p.Add(t.Context(), `'); DROP TABLE notes; --`)
	if err != nil {
		t.Fatal(err)
	}
	list, err := p.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != replicas+1 || list[0] != added {
		t.Errorf("%d notes, the first %+v; added %+v", len(list), list[0], added)
	}
}

func TestPostgresThatDoesNotAnswer(t *testing.T) {
	p, err := Open(t.Context(), "postgres://app:secret@127.0.0.1:1/app")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	err = p.Ping(t.Context())
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
	if _, err := Open(t.Context(), "postgres://app:secret@:x/"); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("error %v", err)
	}
}
