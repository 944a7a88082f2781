package follow

import (
	"context"
	"strconv"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// SaveEvery bounds the commits that are processed again after a restart.
const SaveEvery = 5000

// Cursor is the durable position of a follower in the change log: the last commit that it
// has processed, in decimal. A step that writes nothing moves the follower only in memory,
// because after a restart it is repeated with the same result.
type Cursor struct {
	// Key is the key of the cursor in small state.
	Key string
	// Saved is the durable position. The follower sets it after it has committed Write.
	Saved store.Seq
}

// Load sets Saved to the stored position. It reports whether there is one.
func (c *Cursor) Load(ctx context.Context, st store.State) (found bool, err error) {
	const op = "follow.Cursor"
	v, err := st.Get(ctx, c.Key)
	if err != nil || v == nil {
		return false, fhir.Wrap(op, err)
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil {
		return false, fhir.Errorf(fhir.Internal, op, "the row %s is not a number", c.Key)
	}
	c.Saved = store.Seq(n)
	return true, nil
}

// Due reports whether a step that ends at a commit should save the cursor even if it writes
// nothing else.
func (c *Cursor) Due(at store.Seq) bool { return at > c.Saved+SaveEvery }

// Write returns the write that moves the cursor.
func (c *Cursor) Write(at store.Seq) store.StateWrite {
	return store.StateWrite{Key: c.Key, Value: strconv.AppendUint(nil, uint64(at), 10)}
}
