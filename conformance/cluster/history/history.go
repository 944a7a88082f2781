// Package history records what clients of several servers did and saw, and checks that
// it is linearizable: that there is an order of the operations, as if one server had
// done them one after the other, in which each operation lies between its call and its
// answer.
//
// An operation without an answer, because a server was killed or a connection was cut,
// has an unknown outcome. It may have taken effect at any time after its call, or not
// at all.
package history

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/anishathalye/porcupine"
)

// Kind is the kind of an operation on an object.
type Kind int

const (
	// Read returns the value and the version.
	Read Kind = iota
	// Update replaces the value if the version is Input.Version, and is refused
	// otherwise. The version grows by one.
	Update
	// Put replaces the value at any version. The version grows by one.
	Put
	// Create sets the value if it is empty. It returns the value that is there then.
	Create
	// Swap replaces the value if it is Input.Old, and is refused otherwise.
	Swap
	// Set replaces the value.
	Set
	// Disclose is allowed if the value is Permit, and refused otherwise.
	Disclose
	// Ensure creates version 1 if the value is empty. It returns the version and the value
	// that are there then.
	Ensure
	// Upsert creates version 1 if the value is empty, and otherwise replaces the value; the
	// version grows by one.
	Upsert
	// Patch replaces the value if it is not empty, and is refused otherwise. The version
	// grows by one.
	Patch
	// Remove empties the value, and does nothing if it is empty.
	Remove
)

// Permit is the value of a consent under which Disclose is allowed.
const Permit = "permit"

var names = map[Kind]string{Read: "read", Update: "update", Put: "put", Create: "create", Swap: "swap", Set: "set",
	Disclose: "disclose", Ensure: "ensure", Upsert: "upsert", Patch: "patch", Remove: "remove"}

// Input is the request of a client.
type Input struct {
	Kind    Kind
	Key     string // the object
	Version uint64 // of Update
	Old     string // of Swap
	New     string // of all that write
}

// Status is the outcome of an operation.
type Status int

const (
	// Unknown is the outcome of an operation without an answer.
	Unknown Status = iota
	// Done is the outcome of an operation that took effect.
	Done
	// Refused is the outcome of an operation whose precondition did not hold.
	Refused
)

// Output is the answer that a client got.
type Output struct {
	Status  Status
	Version uint64
	Value   string
	lost    bool // see Operation.Lost
}

// Recorder records operations. The zero value is ready, and safe for concurrent use.
type Recorder struct {
	mu         sync.Mutex
	clock      int64 // counts calls and answers, which are thereby ordered
	operations []*Operation
}

// Operation is an operation of a client.
type Operation struct {
	recorder *Recorder
	client   int
	input    Input
	output   Output
	called   int64
	answered int64
	void     bool
}

// Begin records the call of an operation.
func (r *Recorder) Begin(client int, in Input) *Operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.clock++
	o := &Operation{recorder: r, client: client, input: in, called: r.clock, answered: math.MaxInt64}
	r.operations = append(r.operations, o)
	return o
}

// End records the answer of an operation. An operation that never ends, or ends with
// Unknown, has an unknown outcome.
func (o *Operation) End(out Output) {
	o.recorder.mu.Lock()
	defer o.recorder.mu.Unlock()
	if out.Status == Unknown {
		return
	}
	o.recorder.clock++
	o.output, o.answered = out, o.recorder.clock
}

// Lost records that the outcome of an operation is unknown, and that it can no longer take
// effect, because all of its servers have been killed.
func (o *Operation) Lost() {
	o.recorder.mu.Lock()
	defer o.recorder.mu.Unlock()
	o.recorder.clock++
	o.output, o.answered = Output{lost: true}, o.recorder.clock
}

// Void records that an operation was given up and had no effect.
func (o *Operation) Void() {
	o.recorder.mu.Lock()
	defer o.recorder.mu.Unlock()
	o.void = true
}

// Count returns the number of operations with an outcome.
func (r *Recorder) Count(s Status) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, o := range r.operations {
		if o.output.Status == s {
			n++
		}
	}
	return n
}

// Check returns an error that lists the operations of each object whose history is not
// linearizable. All objects are empty at the beginning.
func (r *Recorder) Check() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	objects := map[string][]*Operation{}
	for _, o := range r.operations {
		objects[o.input.Key] = append(objects[o.input.Key], o)
	}
	var wrong []string
	for key, operations := range objects {
		var history []porcupine.Operation
		for _, o := range operations {
			// A read without an answer says nothing.
			if o.void || o.output.Status == Unknown && (o.input.Kind == Read || o.input.Kind == Disclose) {
				continue
			}
			history = append(history, porcupine.Operation{ClientId: o.client, Input: o.input, Call: o.called,
				Output: o.output, Return: o.answered})
		}
		if !porcupine.CheckOperations(model, history) {
			wrong = append(wrong, fmt.Sprintf("the history of %s is not linearizable:\n%s", key, list(operations)))
		}
	}
	if wrong == nil {
		return nil
	}
	slices.Sort(wrong)
	return fmt.Errorf("%s", strings.Join(wrong, "\n"))
}

// list describes operations, one per line.
func list(operations []*Operation) string {
	var b strings.Builder
	for _, o := range operations {
		answered := fmt.Sprint(o.answered)
		if o.answered == math.MaxInt64 {
			answered = "…"
		}
		fmt.Fprintf(&b, "%5d–%-5s client %d: %s\n", o.called, answered, o.client, describe(o.input, o.output))
	}
	return b.String()
}

func describe(in Input, out Output) string {
	var b strings.Builder
	b.WriteString(names[in.Kind])
	switch in.Kind {
	case Update:
		fmt.Fprintf(&b, " version %d to %q", in.Version, in.New)
	case Swap:
		fmt.Fprintf(&b, " %q to %q", in.Old, in.New)
	case Put, Create, Set, Ensure, Upsert, Patch:
		fmt.Fprintf(&b, " %q", in.New)
	}
	switch out.Status {
	case Unknown:
		b.WriteString(": unknown")
	case Refused:
		b.WriteString(": refused")
	case Done:
		fmt.Fprintf(&b, ": done, version %d, value %q", out.Version, out.Value)
	}
	return b.String()
}

// object is the state of an object. Create, Swap and Set count no versions.
type object struct {
	version uint64
	value   string
}

// model allows an operation that was lost to have no effect. One whose outcome is unknown,
// and which may still take effect, has none if it comes last.
var model = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{object{}} },
	Step: func(state, input, output any) []any {
		before, out := state.(object), output.(Output)
		legal, after := next(before, input.(Input), out)
		switch {
		case !legal:
			return nil
		case out.lost && after != before:
			return []any{before, after}
		}
		return []any{after}
	},
	DescribeOperation: func(input, output any) string { return describe(input.(Input), output.(Output)) },
}).ToModel()

// next returns whether an operation may have this outcome in a state, and the state
// after it.
func next(s object, in Input, out Output) (bool, object) {
	after, allowed := effect(s, in)
	switch out.Status {
	case Unknown:
		if !allowed {
			after = s
		}
		return true, after
	case Refused:
		return !allowed, s
	}
	switch in.Kind {
	case Read:
		return out.Version == s.version && out.Value == s.value, s
	case Update, Put, Upsert, Patch:
		return allowed && out.Version == after.version, after
	case Ensure:
		return out.Version == after.version && out.Value == after.value, after
	case Remove:
		return out.Value == "", after
	case Create:
		return out.Value == after.value, after
	default:
		return allowed, after
	}
}

// effect returns the state after an operation, and whether its precondition holds.
func effect(s object, in Input) (after object, allowed bool) {
	switch in.Kind {
	case Update:
		return object{s.version + 1, in.New}, s.version == in.Version
	case Put:
		return object{s.version + 1, in.New}, true
	case Create:
		if s.value == "" {
			s.value = in.New
		}
		return s, true
	case Ensure:
		if s.value == "" {
			s = object{1, in.New}
		}
		return s, true
	case Upsert:
		if s.value == "" {
			return object{1, in.New}, true
		}
		return object{s.version + 1, in.New}, true
	case Patch:
		return object{s.version + 1, in.New}, s.value != ""
	case Remove:
		return object{}, true
	case Swap:
		return object{s.version, in.New}, s.value == in.Old
	case Set:
		return object{s.version, in.New}, true
	case Disclose:
		return s, s.value == Permit
	default:
		return s, true
	}
}
