package host

import (
	"os"
	"path/filepath"
	"testing"
)

// TestInstallDocker: with an apt-get whose lists are absent at first, of a
// Debian that has the client in a package of its own, and of one that has not.
func TestInstallDocker(t *testing.T) {
	for name, brings := range map[string]string{"client apart": "docker-cli", "client included": "docker.io"} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("PATH", dir)
			aptGet := `#!/bin/sh
cd "${0%/*}"
echo "$*" >>said
case "$*" in
*update) : >lists ;;
*" ` + brings + `" | *" ` + brings + ` "*) [ -e lists ] && echo >docker && /bin/chmod +x docker ;;
*) [ -e lists ] ;;
esac
`
			if err := os.WriteFile(filepath.Join(dir, "apt-get"), []byte(aptGet), 0o700); err != nil {
				t.Fatal(err)
			}
			with, err := installDocker(t.Context())
			if err != nil || with != "apt-get" {
				t.Errorf("installed with %q, %v", with, err)
			}
			engine := "-qq -y --no-install-recommends install docker.io iptables\n"
			want := engine + "-qq update\n" + engine
			if brings == "docker-cli" {
				want += "-qq -y --no-install-recommends install docker-cli\n"
			}
			if said, err := os.ReadFile(filepath.Join(dir, "said")); string(said) != want {
				t.Errorf("%v: apt-get was told\n%swant\n%s", err, said, want)
			}
		})
	}
}
