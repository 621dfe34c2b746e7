package kubeconfig

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

var entry = Entry{Name: "sandbox", Server: "https://127.0.0.1:6443", CA: []byte("ca"), ClientCert: []byte("cert"), ClientKey: []byte("key")}

// The parts of a file that are ours.
const (
	ourCluster = `- cluster:
    certificate-authority-data: Y2E=
    server: https://127.0.0.1:6443
  name: sandbox
`
	ourUser = `- name: sandbox
  user:
    client-certificate-data: Y2VydA==
    client-key-data: a2V5
`
)

func ourContext(previous string) string {
	if previous == "" {
		previous = `""`
	}
	return `- context:
    cluster: sandbox
    extensions:
    - extension:
        previous: ` + previous + `
        stage: cluster
      name: io.sandboxlabs.stage
    user: sandbox
  name: sandbox
`
}

// other is a user's own file, with things that are not ours to change.
const other = `# mine
apiVersion: v1
clusters:
- cluster: # the office
    server: https://office:6443
  name: office
contexts:
- context:
    cluster: office
    namespace: me
    user: me
  name: office
current-context: office
kind: Config
preferences:
  colors: true
users:
- name: me
  user:
    exec:
      apiVersion: client.authentication.k8s.io/v1
      args: [--region, eu]
      command: aws
`

func merged() string {
	s := strings.Replace(other, "  name: office\ncontexts:", "  name: office\n"+ourCluster+"contexts:", 1)
	s = strings.Replace(s, "  name: office\ncurrent-context: office", "  name: office\n"+ourContext("office")+"current-context: sandbox", 1)
	return s + ourUser
}

func fresh() string {
	return "apiVersion: v1\nkind: Config\nclusters:\n" + ourCluster + "contexts:\n" + ourContext("") + "users:\n" + ourUser + "current-context: sandbox\n"
}

func TestAdd(t *testing.T) {
	moved := entry
	moved.Server = "https://127.0.0.1:7000"
	for _, tt := range []struct {
		name, config string
		entry        Entry
		want         string
		err          string
	}{
		{"no file", "", entry, fresh(), ""},
		{"null", "null\n", entry, fresh(), ""},
		{"as kubectl leaves it", "apiVersion: v1\nclusters: []\ncontexts: []\ncurrent-context: \"\"\nkind: Config\npreferences: {}\nusers: null\n", entry,
			"apiVersion: v1\nclusters:\n" + ourCluster + "contexts:\n" + ourContext("") + "current-context: sandbox\nkind: Config\npreferences: {}\nusers:\n" + ourUser, ""},
		{"others' entries", other, entry, merged(), ""},
		{"again", merged(), entry, merged(), ""},
		{"again, after another choice", strings.Replace(merged(), "current-context: sandbox", "current-context: office", 1), entry,
			strings.Replace(merged(), "current-context: sandbox", "current-context: office", 1), ""},
		{"another port", merged(), moved, strings.Replace(merged(), ":6443\n  name: sandbox", ":7000\n  name: sandbox", 1), ""},
		{"half of it", strings.Replace(merged(), ourUser, "", 1), entry, merged(), ""},
		{"another's context", "contexts:\n- context:\n    cluster: x\n  name: sandbox\n", entry, "", "entries named sandbox that sandbox did not write"},
		{"another's user", "users:\n- name: sandbox\n  user: {}\n", entry, "", "entries named sandbox that sandbox did not write"},
		{"not a kubeconfig", "- a\n", entry, "", "not a kubeconfig"},
		{"not YAML", "a: [\n", entry, "", "yaml"},
		{"no list", "clusters: x\n", entry, "", "clusters is not a list"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := add([]byte(tt.config), tt.entry)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want %s", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestDrop(t *testing.T) {
	for _, tt := range []struct {
		name, config, want string
		empty              bool
	}{
		{"what was there before", merged(), other, false},
		{"after another choice", strings.Replace(merged(), "current-context: sandbox", "current-context: none", 1),
			strings.Replace(other, "current-context: office", "current-context: none", 1), false},
		{"nothing was there before", fresh(), "", true},
		{"not there", other, other, false},
		{"another's", "contexts:\n- context:\n    cluster: x\n  name: sandbox\n", "contexts:\n- context:\n    cluster: x\n  name: sandbox\n", false},
		{"what was current is gone", strings.Replace(merged(), "previous: office", "previous: gone", 1),
			strings.Replace(other, "current-context: office", `current-context: ""`, 1), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, empty, err := drop([]byte(tt.config), "sandbox")
			if err != nil {
				t.Fatal(err)
			}
			if empty != tt.empty {
				t.Errorf("empty: %v, want %v", empty, tt.empty)
			}
			if !empty && string(got) != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

func TestRead(t *testing.T) {
	const conf = `apiVersion: v1
clusters:
- cluster: {certificate-authority-data: Y2E=, server: "https://sandbox-control-plane:6443"}
  name: sandbox
users:
- name: kubernetes-admin
  user: {client-certificate-data: Y2VydA==, client-key-data: a2V5}
`
	got, err := Read([]byte(conf), "sandbox", "https://127.0.0.1:6443")
	if err != nil || string(got.CA)+string(got.ClientCert)+string(got.ClientKey) != "cacertkey" || got.Server != entry.Server {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []string{"", "a: [", strings.Replace(conf, "Y2E=", "!", 1), strings.Replace(conf, "a2V5", `""`, 1), strings.Replace(conf, "clusters", "clutters", 1)} {
		if _, err := Read([]byte(bad), "sandbox", ""); err == nil {
			t.Errorf("no error for\n%s", bad)
		}
	}
}

func TestTakenIsExplained(t *testing.T) {
	_, err := add([]byte("users:\n- name: sandbox\n"), entry)
	hint, ok := err.(interface{ Hint() string })
	if !errdefs.IsAlreadyExists(err) || !ok || !strings.Contains(hint.Hint(), "kubectl config rename-context sandbox OTHER") {
		t.Errorf("%v: no hint of use", err)
	}
}
