package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// headTries bounds how often head looks for a moment without a commit.
const headTries = 1000

// head returns a commit and the size of the log at that commit. On a server
// that commits all the time the size may be that of a later commit.
func head(st store.Store) (at store.Seq, size uint64) {
	for range headTries {
		at = st.LastSeq()
		if size = st.Log().Size(); st.LastSeq() == at {
			break
		}
		yield.Now()
	}
	return at, size
}

// add adds a keyed hash of an AuditEvent to a sum modulo 2^256, so that two
// multisets of events can be compared without holding either in memory.
func (v *verifier) add(sum *[32]byte, id string, c, body []byte) {
	m := sha256.New()
	m.Write(v.seed[:])
	m.Write([]byte(id))
	m.Write([]byte{0})
	m.Write(c[:16])
	m.Write(body)
	var h [32]byte
	m.Sum(h[:0])
	carry := uint64(0)
	for k := 24; k >= 0; k -= 8 {
		a, b := binary.BigEndian.Uint64(sum[k:]), binary.BigEndian.Uint64(h[k:])
		s := a + b
		c := uint64(0)
		if s < a {
			c = 1
		}
		s += carry
		if s < carry {
			c = 1
		}
		binary.BigEndian.PutUint64(sum[k:], s)
		carry = c
	}
}

// original returns the canonical bytes of a row, and false when the row is not
// one that Recorder.Prepare can have made.
func original(r *store.Row) ([]byte, bool) {
	if r.Resource.Version != 1 || r.Resource.Deleted || r.Facts.Vendor != "" || r.Facts.Author != "" {
		return nil, false
	}
	return unstamp(r.Resource.JSON, r.Resource.ID)
}

// rows holds every row out of which searches answer to its leaf. Mostly the
// rows add up to what the leaves did; if not, each is looked at.
func (v *verifier) rows(ctx context.Context, at store.Seq, size uint64) error {
	var sum [32]byte
	all := true
	inspect := func(fn func(*store.Row), report func(id, problem string)) error {
		return fhir.Wrap("audit.Verify", v.st.Inspect(ctx, "AuditEvent", at, fn, report))
	}
	err := inspect(func(r *store.Row) {
		v.report.Events++
		body, ok := original(r)
		if !ok {
			all = false
			return
		}
		v.add(&sum, r.Resource.ID, r.Hash[:], body)
	}, func(id, problem string) { v.problem(ProblemIndex, -1, id, problem) })
	if err != nil {
		return err
	}
	if all && v.report.Events == size && sum == v.sum {
		return nil
	}
	leaves, err := v.known(ctx)
	if err != nil {
		return err
	}
	log := v.st.Log()
	seen := make(map[string]bool, len(leaves))
	var failed error
	err = inspect(func(r *store.Row) {
		id := r.Resource.ID
		i, known := leaves[id]
		switch {
		case failed != nil:
			return
		case !known:
			v.problem(ProblemAdded, -1, id, "an AuditEvent that the log does not know")
			return
		case seen[id]:
			v.problem(ProblemAdded, int64(i), id, "a second row of an AuditEvent")
		}
		seen[id] = true
		l, err := log.Leaf(i)
		if err != nil {
			failed = fhir.Wrap("audit.Verify", err)
			return
		}
		f, _ := parseLeaf(l)
		if body, ok := original(r); !ok || !f.matches(body) || string(f.c[:16]) != string(r.Hash[:]) {
			v.problem(ProblemChanged, int64(i), id, "a row that searches answer from is not what was recorded")
		}
	}, func(string, string) {})
	if err == nil {
		err = failed
	}
	return err
}

// known returns the leaf of each AuditEvent that the log has by now.
func (v *verifier) known(ctx context.Context) (map[string]uint64, error) {
	log := v.st.Log()
	n := log.Size()
	out := make(map[string]uint64, n)
	for i := range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := log.Leaf(i)
		if v.gone(err) {
			return nil, fhir.Wrap("audit.Verify", err)
		}
		f, ok := parseLeaf(l)
		if err != nil || !ok {
			continue
		}
		if _, twice := out[f.id]; twice {
			v.problem(ProblemLeaf, int64(i), f.id, "a second leaf for the same AuditEvent")
			continue
		}
		out[f.id] = i
	}
	return out, nil
}
