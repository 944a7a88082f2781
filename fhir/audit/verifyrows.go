package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
)

// headTries bounds the attempts of head to find a moment without a commit.
const headTries = 1000

// head returns the latest commit and the size of the log at that commit. If the
// server commits continuously, the size may belong to a later commit.
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
func (v *verifier) add(sum *[32]byte, id string, commitment, body []byte) {
	hash := sha256.New()
	hash.Write(v.seed[:])
	hash.Write([]byte(id))
	hash.Write([]byte{0})
	hash.Write(commitment[:16])
	hash.Write(body)
	var h [32]byte
	hash.Sum(h[:0])
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

// original returns the canonical bytes of a row. It reports false if
// Recorder.Prepare cannot have built the row.
func original(r *store.Row) ([]byte, bool) {
	if r.Resource.Version != 1 || r.Resource.Deleted || r.Facts.Vendor != "" || r.Facts.Author != "" {
		return nil, false
	}
	return unstamp(r.Resource.JSON, r.Resource.ID)
}

// rows compares every row that searches use with its leaf. If the sums of rows and
// leaves are equal, which is the normal case, no row is compared individually.
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
	leaves, err := v.leavesByID(ctx)
	if err != nil {
		return err
	}
	log := v.st.Log()
	seen := make(map[string]bool, len(leaves))
	var failed error
	err = inspect(func(r *store.Row) {
		id := r.Resource.ID
		i, ok := leaves[id]
		switch {
		case failed != nil:
			return
		case !ok:
			v.problem(ProblemAdded, -1, id, "the log has no leaf for this AuditEvent")
			return
		case seen[id]:
			v.problem(ProblemAdded, int64(i), id, "the AuditEvent has a second row")
		}
		seen[id] = true
		l, err := log.Leaf(i)
		if err != nil {
			failed = fhir.Wrap("audit.Verify", err)
			return
		}
		f, _ := parseLeaf(l)
		if body, ok := original(r); !ok || !f.matches(body) || string(f.commitment[:16]) != string(r.Hash[:]) {
			v.problem(ProblemChanged, int64(i), id, "a row that searches use differs from the recorded AuditEvent")
		}
	}, func(string, string) {})
	if err == nil {
		err = failed
	}
	return err
}

// leavesByID returns the index of the leaf of each AuditEvent in the log.
func (v *verifier) leavesByID(ctx context.Context) (map[string]uint64, error) {
	log := v.st.Log()
	n := log.Size()
	out := make(map[string]uint64, n)
	for i := range n {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		l, err := log.Leaf(i)
		if v.unavailable(err) {
			return nil, fhir.Wrap("audit.Verify", err)
		}
		f, ok := parseLeaf(l)
		if err != nil || !ok {
			continue
		}
		if _, ok := out[f.id]; ok {
			v.problem(ProblemLeaf, int64(i), f.id, "the AuditEvent has a second leaf")
			continue
		}
		out[f.id] = i
	}
	return out, nil
}
