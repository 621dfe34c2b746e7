package raw

import (
	"testing"

	"github.com/sandboxlabs/sandbox/pkg/api"
)

// BenchmarkRun is what `run --rm IMAGE true` has the engine do. With
// SANDBOX_RUNTIME=bin/sandbox-runtime it measures the real shim.
func BenchmarkRun(b *testing.B) {
	for _, mode := range []string{"bridge", "none"} {
		b.Run(mode, func(b *testing.B) {
			e, _ := newEngine(b)
			run := func() {
				c, err := e.Create(b.Context(), api.ContainerSpec{Image: testImage, Network: api.Network{Mode: mode}, Command: []string{"true"}}, nil)
				if err != nil {
					b.Fatal(err)
				}
				if err := e.Start(b.Context(), c.ID, nil); err != nil {
					b.Fatal(err)
				}
				if _, err := e.Wait(b.Context(), c.ID); err != nil {
					b.Fatal(err)
				}
				if err := e.Remove(b.Context(), c.ID, false); err != nil {
					b.Fatal(err)
				}
			}
			run() // unpacks the image, makes the bridge
			for b.Loop() {
				run()
			}
		})
	}
}
