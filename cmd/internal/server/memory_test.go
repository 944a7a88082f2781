package server

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
	"time"
)

// TestSoftLimit checks that the limit is softMemory while little is in use, and
// always allows for half as much garbage.
func TestSoftLimit(t *testing.T) {
	for live := uint64(0); live < 4<<30; live += 1 << 20 {
		l := softLimit(live)
		if l < softMemory || live < softMemory/2 && l != softMemory || uint64(l) < live+live/2 {
			t.Fatalf("%d bytes in use, limit %d", live, l)
		}
	}
}

// TestKeepMemory checks that keepMemory sets a limit until its context ends,
// unless the operator has set one.
func TestKeepMemory(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(before)
	debug.SetMemoryLimit(math.MaxInt64)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); keepMemory(ctx) }()
	for end := time.Now().Add(2 * time.Minute); debug.SetMemoryLimit(
		-1) == math.MaxInt64; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no limit")
		}
	}
	stop()
	<-done
	if l := debug.SetMemoryLimit(-1); l != math.MaxInt64 {
		t.Errorf("the limit is still %d", l)
	}
	debug.SetMemoryLimit(1 << 40)
	keepMemory(t.Context()) // returns immediately
	if l := debug.SetMemoryLimit(-1); l != 1<<40 {
		t.Errorf("the operator's limit became %d", l)
	}
}
