package server

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// softMemory is what the Go runtime keeps to, garbage included, as long
	// as what is in use leaves it room: an import or an export makes garbage
	// quickly, and the collector would let the heap double before it looks.
	// The pages of the program itself come on top.
	softMemory = 128 << 20
	// lookAtMemory is how often the limit follows what is in use.
	lookAtMemory = 250 * time.Millisecond
)

// softLimit is the limit for so many bytes in use: half as much again and what
// lies beside the heap, so that a large heap is not collected all the time.
func softLimit(live uint64) int64 {
	return max(softMemory, int64(live+live/2)+softMemory/8)
}

// keepMemory holds the process to softLimit until ctx ends. A limit that the
// operator has set (GOMEMLIMIT) stands.
func keepMemory(ctx context.Context) {
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	defer debug.SetMemoryLimit(math.MaxInt64)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(lookAtMemory)
	defer tick.Stop()
	for {
		metrics.Read(live)
		debug.SetMemoryLimit(softLimit(live[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
