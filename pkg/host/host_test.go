package host

import (
	"testing"
	"time"
)

func TestRealHost(t *testing.T) {
	begin := time.Now()
	findings, err := This("/var/lib/sandbox").Check(t.Context())
	took := time.Since(begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range findings {
		t.Logf("%-4s %s: %s", f.Status, f.Check, f.Found)
	}
	t.Log(took)
}
