package raw

import "github.com/sandboxlabs/sandbox/pkg/engine/raw/bundle"

// Ranges for --userns auto: 65536 IDs each, from 1,000,000 on, where neither
// users nor distributions' /etc/subuid (from 100,000 or 524,288 on, 65536
// each) usually are.
const (
	autoIDBase  = 1_000_000
	autoIDSize  = 1 << 16
	autoIDCount = 1024
)

// reserveIDs gives the container a range that no other has. If there is none,
// it gets none, and bundle.Build says so.
func (cr *creation) reserveIDs() {
	cr.mu.Lock()
	defer cr.mu.Unlock()
	taken := map[uint32]bool{}
	for _, c := range cr.byID {
		taken[c.ids().UID] = true
	}
	for i := range uint32(autoIDCount) {
		start := autoIDBase + i*autoIDSize
		if !taken[start] {
			cr.c.mu.Lock()
			cr.c.rec.IDs = bundle.IDRange{UID: start, GID: start, Size: autoIDSize}
			cr.c.mu.Unlock()
			return
		}
	}
}

func (c *container) ids() bundle.IDRange {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.IDs
}
