package memlog

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"time"
)

// Op is an operation of a client.
type Op int

// The operations of a Log and, from OpPutFile on, of Snapshots. A Put is one
// OpPutFile for each file and then one OpPutManifest.
const (
	OpIdentity Op = iota
	OpSetIdentity
	OpAppend
	OpRead
	OpTruncate
	OpBounds
	OpPutFile
	OpPutManifest
	OpList
	OpOpen
	OpRemove
)

// Call describes a call to a Plan.
type Call struct {
	Client string // name of the client
	Number uint64 // counts the calls of the client, from 1
	Op     Op
	Index  uint64 // place of the entry of an OpAppend
}

// Fault is the fault of one call. The zero Fault is none.
type Fault struct {
	// LoseRequest lets the call fail before the servers see it.
	LoseRequest bool
	// LoseAnswer lets the call fail after the servers did it.
	LoseAnswer bool
	// Late lets an append fail at once, and arrive after that many more calls of any
	// client. With Never, it arrives by Cluster.DeliverLate only.
	Late uint64
	// NoMajority lets the servers lose their majority with this call, and regain it
	// after that many more calls. Until then appends fail with ErrNoMajority, and
	// their entries have their places but are not durable.
	NoMajority uint64
	// RollBack lets the servers discard these entries at the end of NoMajority.
	RollBack bool
	// Held delays the request until the channel is closed. If the context ends before
	// that, the request is lost.
	Held <-chan struct{}
	// Latency is added to the latency of the cluster.
	Latency time.Duration
}

// Never is a number of calls that is never reached.
const Never = math.MaxUint64

// Plan chooses the fault of a call. It is called by several goroutines at once.
type Plan func(Call) Fault

// Rates are the probabilities of faults, per call.
type Rates struct {
	LoseRequest float64
	LoseAnswer  float64
	Late        float64 // of appends
	NoMajority  float64 // of appends; half of the times end with a rollback
	Slow        float64
	// Latency is the longest latency of a slow call.
	Latency time.Duration
	// Calls bounds Fault.Late and Fault.NoMajority. If it is 0, it is 8.
	Calls uint64
}

// Rough are rates under which most writes meet a fault.
var Rough = Rates{LoseRequest: 0.1, LoseAnswer: 0.15, Late: 0.15, NoMajority: 0.05}

// Random returns a Plan with faults drawn from a seed. The fault depends only on the
// seed, the name of the client, the number of the call and the operation.
func Random(seed uint64, rates Rates) Plan {
	calls := rates.Calls
	if calls == 0 {
		calls = 8
	}
	return func(c Call) Fault {
		h := fnv.New64a()
		h.Write([]byte(c.Client))
		h.Write(binary.BigEndian.AppendUint64(nil, c.Number))
		r := rand.New(rand.NewPCG(seed, h.Sum64()^uint64(c.Op)))
		happens := func(rate float64) bool { return r.Float64() < rate }
		var f Fault
		f.LoseRequest = happens(rates.LoseRequest)
		f.LoseAnswer = happens(rates.LoseAnswer)
		if happens(rates.Late) && c.Op == OpAppend {
			f.Late = 1 + r.Uint64N(calls)
		}
		if happens(rates.NoMajority) && c.Op == OpAppend {
			f.NoMajority = 1 + r.Uint64N(calls)
			f.RollBack = happens(0.5)
		}
		if happens(rates.Slow) {
			f.Latency = time.Duration(r.Int64N(int64(rates.Latency) + 1))
		}
		return f
	}
}
