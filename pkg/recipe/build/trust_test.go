package build

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/sandboxlabs/sandbox/pkg/state"
)

// TestTrustTogether: the first builds of a machine begin at once, and each
// makes the trust store.
func TestTrustTogether(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	ca := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		b := &Builder{Dirs: state.Dirs{Root: t.TempDir()}, Host: Host{CABundle: ca}}
		old := filepath.Join(b.Dirs.Build(), "trust", "0123456789abcdef.crt")
		if err := state.WriteFile(old, []byte("of another bundle"), 0o600); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				bundle, store, err := b.trust()
				if err != nil {
					t.Error(err)
					return
				}
				for _, file := range []string{bundle, store} {
					if _, err := os.Stat(file); err != nil {
						t.Error(err)
					}
				}
			})
		}
		all.Wait()
		if left, err := os.ReadDir(filepath.Dir(old)); err != nil || len(left) != 2 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
}
