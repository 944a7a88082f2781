package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Problem classes of a Report.
const (
	ProblemChanged    = "changed"     // an AuditEvent is not what its leaf committed to
	ProblemDropped    = "dropped"     // a leaf without its AuditEvent
	ProblemAdded      = "added"       // an AuditEvent without a leaf
	ProblemLeaf       = "leaf"        // a leaf that is none, or stands twice
	ProblemHash       = "hash"        // a stored hash differs from the recomputed one (leaves changed or reordered)
	ProblemRoot       = "root"        // the tree's root is not the recomputed one
	ProblemRolledBack = "rolled-back" // the log is shorter than a checkpoint
	ProblemForked     = "forked"      // the log does not continue a checkpoint
	ProblemCheckpoint = "checkpoint"  // a checkpoint that cannot be read or is not signed by the key
)

// Problem is one finding.
type Problem struct {
	Class  string `json:"class"`
	Index  *int64 `json:"index,omitempty"` // of the leaf
	ID     string `json:"id,omitempty"`    // of the AuditEvent
	Detail string `json:"detail"`
}

// CheckedAgainst is one checkpoint the log was held to.
type CheckedAgainst struct {
	Size       uint64 `json:"size"`
	Root       string `json:"root"`
	Consistent bool   `json:"consistent"`
}

// Report is the outcome of Verify, as JSON for scripts.
type Report struct {
	OK          bool             `json:"ok"`
	Size        uint64           `json:"size"` // leaves that were recomputed
	Root        string           `json:"root"`
	Events      uint64           `json:"events"` // AuditEvents in the store
	Checkpoints []CheckedAgainst `json:"checkpoints"`
	Problems    []Problem        `json:"problems"`
	Omitted     int              `json:"omittedProblems,omitempty"`
	Seconds     float64          `json:"seconds"`
}

// VerifyOptions of Verify.
type VerifyOptions struct {
	// Verifier is the note verifier key (vkey) of the server's checkpoints.
	Verifier string
	// Also are older checkpoints, as an auditor took them away.
	Also [][]byte
	// MaxProblems bounds the report. Zero: 100.
	MaxProblems int
	Clock       func() time.Time
}

type verifier struct {
	st     store.Store
	opts   VerifyOptions
	report Report
	stack  []tlog.Hash // roots of the complete subtrees, largest first
	sizes  []uint64    // and their sizes
	points []*checkpoint
	// pending hashes, compared with the store in lots
	index []int64
	want  []tlog.Hash
	leaf  []int64
	sum   [32]byte // multiset of ids by addition
}

// Verify recomputes every leaf from the stored AuditEvents, every stored hash
// and the root, and compares with checkpoint (nil: none) and opts.Also. It
// reads while the server writes: what is recorded after it began is left to
// the next run. The error is non-nil only when the store cannot be read;
// findings are in the Report.
func Verify(ctx context.Context, st store.Store, checkpointNote []byte, opts VerifyOptions) (Report, error) {
	if opts.MaxProblems <= 0 {
		opts.MaxProblems = 100
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	v := &verifier{st: st, opts: opts}
	v.report.Checkpoints, v.report.Problems = []CheckedAgainst{}, []Problem{}
	start := opts.Clock()
	for _, n := range append([][]byte{checkpointNote}, opts.Also...) {
		if n == nil {
			continue
		}
		c, err := openCheckpoint(n, opts.Verifier)
		if err != nil {
			v.problem(ProblemCheckpoint, -1, "", "the checkpoint cannot be read or its signature does not hold")
			continue
		}
		v.points = append(v.points, c)
	}
	at := st.T()
	size := st.Log().Size()
	v.report.Size = size
	if err := v.leaves(ctx, size); err != nil {
		return v.report, err
	}
	if err := v.events(ctx, at, size); err != nil {
		return v.report, err
	}
	v.report.OK = len(v.report.Problems) == 0
	v.report.Seconds = opts.Clock().Sub(start).Seconds()
	return v.report, nil
}

func (v *verifier) problem(class string, index int64, id, detail string) {
	if len(v.report.Problems) >= v.opts.MaxProblems {
		v.report.Omitted++
		return
	}
	p := Problem{Class: class, ID: id, Detail: detail}
	if index >= 0 {
		p.Index = &index
	}
	v.report.Problems = append(v.report.Problems, p)
}

func (v *verifier) leaves(ctx context.Context, size uint64) error {
	log := v.st.Log()
	v.checkpointsAt(0)
	for i := range size {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := log.Leaf(i)
		if err != nil {
			return fhir.Wrap("audit.Verify", err)
		}
		if err := v.leafEvent(ctx, int64(i), l); err != nil {
			return err
		}
		if err := v.grow(i, tlog.RecordHash(l)); err != nil {
			return err
		}
		v.checkpointsAt(i + 1)
	}
	if err := v.compareHashes(); err != nil {
		return err
	}
	root := v.root()
	v.report.Root = root.String()
	if size > 0 {
		stored, err := log.Root(size)
		if err != nil {
			return fhir.Wrap("audit.Verify", err)
		}
		if tlog.Hash(stored) != root {
			v.problem(ProblemRoot, -1, "", "the root of the stored hashes is not that of the leaves")
		}
	}
	for _, c := range v.points {
		if c.size > size {
			v.report.Checkpoints = append(v.report.Checkpoints, CheckedAgainst{Size: c.size, Root: c.root.String()})
			v.problem(ProblemRolledBack, -1, "", fmt.Sprintf("the log has %d leaves, a signed checkpoint %d", size, c.size))
		}
	}
	return nil
}

// leafEvent holds the stored AuditEvent to leaf i.
func (v *verifier) leafEvent(ctx context.Context, i int64, l store.Leaf) error {
	f, ok := parseLeaf(l)
	if !ok {
		v.problem(ProblemLeaf, i, "", "not a leaf of this log")
		return nil
	}
	v.addID(f.id)
	res, _, err := v.st.Read(ctx, fhir.Ref{Type: "AuditEvent", ID: f.id}, 0)
	switch {
	case fhir.KindOf(err) == fhir.NotFound && err != nil, err == nil && res.Deleted:
		v.problem(ProblemDropped, i, f.id, "the AuditEvent of this leaf is not in the store")
		return nil
	case err != nil:
		return fhir.Wrap("audit.Verify", err)
	}
	body, ok := unstamp(res.JSON, f.id)
	switch {
	case !ok || res.Version != 1:
		v.problem(ProblemChanged, i, f.id, "the AuditEvent was written again")
	case !f.matches(body):
		v.problem(ProblemChanged, i, f.id, "the AuditEvent is not what was recorded")
	}
	return nil
}

// grow adds a record hash, and with it the hashes of the subtrees it closes,
// in the order in which the store keeps them.
func (v *verifier) grow(i uint64, h tlog.Hash) error {
	at := tlog.StoredHashIndex(0, int64(i))
	v.expect(int64(i), at, h)
	v.stack, v.sizes = append(v.stack, h), append(v.sizes, 1)
	for n := len(v.sizes); n > 1 && v.sizes[n-1] == v.sizes[n-2]; n = len(v.sizes) {
		at++
		h = tlog.NodeHash(v.stack[n-2], v.stack[n-1])
		v.stack, v.sizes = append(v.stack[:n-2], h), append(v.sizes[:n-2], v.sizes[n-1]*2)
		v.expect(int64(i), at, h)
	}
	if len(v.index) >= 1024 {
		return v.compareHashes()
	}
	return nil
}

func (v *verifier) expect(leaf, index int64, h tlog.Hash) {
	v.index, v.want, v.leaf = append(v.index, index), append(v.want, h), append(v.leaf, leaf)
}

func (v *verifier) compareHashes() error {
	if len(v.index) == 0 {
		return nil
	}
	got, err := v.st.Log().Hashes(v.index)
	if err != nil {
		return fhir.Wrap("audit.Verify", err)
	}
	for k, h := range got {
		if tlog.Hash(h) != v.want[k] {
			v.problem(ProblemHash, v.leaf[k], "", "stored hash "+strconv.FormatInt(v.index[k], 10)+" is not that of the leaves")
		}
	}
	v.index, v.want, v.leaf = v.index[:0], v.want[:0], v.leaf[:0]
	return nil
}

func (v *verifier) root() tlog.Hash {
	if len(v.stack) == 0 {
		return sha256.Sum256(nil) // RFC 6962: the hash of an empty string
	}
	h := v.stack[len(v.stack)-1]
	for k := len(v.stack) - 2; k >= 0; k-- {
		h = tlog.NodeHash(v.stack[k], h)
	}
	return h
}

func (v *verifier) checkpointsAt(size uint64) {
	for _, c := range v.points {
		if c.size != size {
			continue
		}
		ok := v.root() == c.root
		v.report.Checkpoints = append(v.report.Checkpoints, CheckedAgainst{Size: c.size, Root: c.root.String(), Consistent: ok})
		if !ok {
			v.problem(ProblemForked, -1, "", fmt.Sprintf("the first %d leaves are not those of the signed checkpoint", size))
		}
	}
}

// addID adds SHA-256(id) to a sum modulo 2^256, so that two multisets of ids
// can be compared without holding either.
func (v *verifier) addID(id string) { addTo(&v.sum, id) }

func addTo(sum *[32]byte, id string) {
	h := sha256.Sum256([]byte(id))
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

// events looks for AuditEvents that no leaf speaks of.
func (v *verifier) events(ctx context.Context, at store.T, size uint64) error {
	var sum [32]byte
	scan := func(fn func(id string)) error {
		return v.st.Scan(ctx, store.ScanRange{Types: []string{"AuditEvent"}, At: at, Filter: access.All().Filter(access.Read)},
			func(f *store.Found) bool {
				fn(f.Resource.ID)
				return ctx.Err() == nil
			})
	}
	if at == 0 && size == 0 {
		return nil
	}
	if err := scan(func(id string) { v.report.Events++; addTo(&sum, id) }); err != nil {
		return fhir.Wrap("audit.Verify", err)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if v.report.Events == size && sum == v.sum {
		return nil
	}
	// They differ: by a commit in between, or by more. Look at each.
	log := v.st.Log()
	seen := make(map[string]bool, size)
	for i := range log.Size() {
		l, err := log.Leaf(i)
		if err != nil {
			return fhir.Wrap("audit.Verify", err)
		}
		f, ok := parseLeaf(l)
		if !ok {
			continue
		}
		if seen[f.id] {
			v.problem(ProblemLeaf, int64(i), f.id, "a second leaf for the same AuditEvent")
		}
		seen[f.id] = true
	}
	return fhir.Wrap("audit.Verify", scan(func(id string) {
		if !seen[id] {
			v.problem(ProblemAdded, -1, id, "an AuditEvent that the log does not know")
		}
	}))
}

// unstamp takes meta.versionId and meta.lastUpdated out of stored bytes, the
// reverse of fhir.Stamp.
func unstamp(body []byte, id string) ([]byte, bool) {
	p := fhir.Prefix("AuditEvent", id)
	rest, ok := bytes.CutPrefix(body, []byte(p+`"versionId":"1","lastUpdated":"`))
	if !ok || len(rest) < len(fhir.InstantLayout)+1 {
		return nil, false
	}
	if _, err := time.Parse(fhir.InstantLayout, string(rest[:len(fhir.InstantLayout)])); err != nil {
		return nil, false
	}
	rest, ok = bytes.CutPrefix(rest[len(fhir.InstantLayout):], []byte(`"`))
	if !ok {
		return nil, false
	}
	rest, _ = bytes.CutPrefix(rest, []byte(`,`))
	return append([]byte(p), rest...), true
}

var errCheckpoint = errors.New("not a checkpoint")
