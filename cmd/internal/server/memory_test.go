package server

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
	"time"
)

// TestSoftLimit: little in use is kept to softMemory, much always has room for
// half as much garbage.
func TestSoftLimit(t *testing.T) {
	for live := uint64(0); live < 4<<30; live += 1 << 20 {
		l := softLimit(live)
		if l < softMemory || live < softMemory/2 && l != softMemory || uint64(l) < live+live/2 {
			t.Fatalf("%d bytes in use, limit %d", live, l)
		}
	}
}

// TestKeepMemory: the limit is the program's while it serves, unless the
// operator set one.
func TestKeepMemory(t *testing.T) {
	was := debug.SetMemoryLimit(-1)
	defer debug.SetMemoryLimit(was)
	debug.SetMemoryLimit(math.MaxInt64)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); keepMemory(ctx) }()
	for end := time.Now().Add(10 * time.Second); debug.SetMemoryLimit(
		-1) == math.MaxInt64; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("no limit")
		}
	}
	stop()
	<-done
	if l := debug.SetMemoryLimit(-1); l != math.MaxInt64 {
		t.Errorf("limit %d stays", l)
	}
	debug.SetMemoryLimit(1 << 40)
	keepMemory(t.Context()) // returns at once
	if l := debug.SetMemoryLimit(-1); l != 1<<40 {
		t.Errorf("the operator's limit became %d", l)
	}
}
