package server

import (
	"context"
	"math"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// softMemory is the memory limit of the Go runtime in bytes, garbage included,
	// while little is in use. Without it, the garbage of an import or export would
	// let the heap double before each collection. The pages of the binary come on
	// top.
	softMemory = 128 << 20
	// memoryInterval is the time between two adjustments of the limit.
	memoryInterval = 250 * time.Millisecond
)

// softLimit returns the memory limit for a number of live bytes. It adds half of
// them and an allowance for memory outside the heap, so that a large heap is not
// collected all the time.
func softLimit(live uint64) int64 {
	return max(softMemory, int64(live+live/2)+softMemory/8)
}

// keepMemory returns the garbage of the start to the operating system and applies
// softLimit to the process until ctx ends. If the operator has set a limit (GOMEMLIMIT),
// the limit stays as it is.
func keepMemory(ctx context.Context) {
	debug.FreeOSMemory()
	if debug.SetMemoryLimit(-1) != math.MaxInt64 {
		return
	}
	defer debug.SetMemoryLimit(math.MaxInt64)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(memoryInterval)
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
