// Package trouble does what the knobs say: it burns CPU, holds and leaks
// memory, writes noise into the log, and crashes the app.
package trouble

import (
	"context"
	"log/slog"
	"time"

	"github.com/sandboxlabs/sandbox/images/demo-app/app/internal/knobs"
)

// tick is how often noise is made and memory leaked.
const tick = 100 * time.Millisecond

// Run follows the board until ctx ends. crash is called when it is time to.
func Run(ctx context.Context, board *knobs.Board, log *slog.Logger, crash func(code int)) {
	var held, leaked Memory
	defer held.Resize(0)
	defer leaked.Resize(0)

	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	crashing := time.NewTimer(0)
	crashing.Stop()

	var was knobs.Settings
	var noise float64 // log lines that are due, and parts of one
	for {
		is, changed := board.Get()
		stopBurning := func() {}
		if is.CPU > 0 {
			burning, stop := context.WithCancel(ctx)
			stopBurning = stop
			go Burn(burning, is.CPU)
		}
		held.Resize(int64(is.Memory))
		if is.Leak == 0 {
			leaked.Resize(0)
		}
		if is.CrashAfter != was.CrashAfter {
			crashing.Stop()
			if is.CrashAfter > 0 {
				crashing.Reset(time.Duration(is.CrashAfter))
			}
		}
		was = is

		for turned := false; !turned; {
			select {
			case <-ctx.Done():
				stopBurning()
				return
			case <-changed:
				turned = true
			case <-crashing.C:
				crash(is.ExitCode)
			case <-ticker.C:
				if is.Leak > 0 && leaked.Size() < knobs.MaxMemory {
					leaked.Resize(leaked.Size() + int64(is.Leak)/int64(time.Second/tick))
				}
				for noise += is.LogNoise * tick.Seconds(); noise >= 1; noise-- {
					log.InfoContext(ctx, "noise", "knob", "log_noise", "lines_per_second", is.LogNoise)
				}
			}
		}
		stopBurning()
	}
}
