package audit

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strconv"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Problem classes of a Report.
const (
	ProblemChanged = "changed" // an AuditEvent is not what its leaf committed to
	ProblemDropped = "dropped" // a leaf without its AuditEvent
	ProblemAdded   = "added"   // an AuditEvent without a leaf
	// a row by which reads or searches find AuditEvents is missing, changed or invented
	ProblemIndex      = "index"
	ProblemLeaf       = "leaf"        // a leaf that is missing, is none, or stands twice
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
	// seed keys the sums of add, so that nobody can prepare rows for a sum.
	seed [32]byte
	sum  [32]byte // of the events that reads by id returned
}

// Verify recomputes every leaf from the stored AuditEvents, every stored hash
// and the root, and compares with checkpoint (nil: none) and opts.Also. It
// holds each row that a read, a search or a history may answer from to its
// leaf. It reads while the server writes: what is recorded after it began is
// left to the next run. A finding does not end it: all are counted, and the
// first MaxProblems are in the Report. The error is non-nil only when the store
// cannot be read.
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
	if _, err := rand.Read(v.seed[:]); err != nil {
		return v.report, fhir.Wrap("audit.Verify", err)
	}
	at, size := head(st)
	v.report.Size = size
	if err := v.leaves(ctx, size); err != nil {
		return v.report, err
	}
	if err := v.rows(ctx, at, size); err != nil {
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
			if v.gone(err) {
				return fhir.Wrap("audit.Verify", err)
			}
			if err := v.lostLeaf(i); err != nil {
				return err
			}
			continue
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
	if err := v.compareRoot(size); err != nil {
		return err
	}
	for _, c := range v.points {
		if c.size > size {
			v.report.Checkpoints = append(v.report.Checkpoints, CheckedAgainst{Size: c.size, Root: c.root.String()})
			v.problem(ProblemRolledBack, -1, "",
				fmt.Sprintf("the log has %d leaves, a signed checkpoint %d", size, c.size))
		}
	}
	return nil
}

// gone reports whether err means that the store no longer answers, rather than
// that a row is missing or malformed.
func (v *verifier) gone(err error) bool { return err != nil && fhir.KindOf(err) == fhir.Unavailable }

// lostLeaf goes on without leaf i: its stored hash stands in for it, so that
// the leaves behind it are still compared. Without that hash no root can be
// recomputed.
func (v *verifier) lostLeaf(i uint64) error {
	v.problem(ProblemLeaf, int64(i), "", "the leaf is missing or cannot be read")
	hs, err := v.st.Log().Hashes([]int64{tlog.StoredHashIndex(0, int64(i))})
	if v.gone(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	var h tlog.Hash
	if err != nil || len(hs) != 1 {
		v.problem(ProblemHash, int64(i), "", "the stored hash of the leaf is missing, too")
	} else {
		h = hs[0]
	}
	if err := v.grow(i, h); err != nil {
		return err
	}
	v.checkpointsAt(i + 1)
	return nil
}

func (v *verifier) compareRoot(size uint64) error {
	root := v.root()
	v.report.Root = root.String()
	if size == 0 {
		return nil
	}
	stored, err := v.st.Log().Root(size)
	if v.gone(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	if err != nil || tlog.Hash(stored) != root {
		v.problem(ProblemRoot, -1, "", "the root of the stored hashes is not that of the leaves")
	}
	return nil
}

// leafEvent holds the AuditEvent that a read by id returns to leaf i.
func (v *verifier) leafEvent(ctx context.Context, i int64, l store.Leaf) error {
	f, ok := parseLeaf(l)
	if !ok {
		v.problem(ProblemLeaf, i, "", "not a leaf of this log")
		return nil
	}
	res, _, err := v.st.Read(ctx, fhir.Ref{Type: "AuditEvent", ID: f.id}, 0)
	switch {
	case v.gone(err):
		return fhir.Wrap("audit.Verify", err)
	case err != nil || res.Deleted:
		v.problem(ProblemDropped, i, f.id, "the AuditEvent of this leaf is not in the store")
		return nil
	}
	body, ok := unstamp(res.JSON, f.id)
	switch {
	case !ok || res.Version != 1:
		v.problem(ProblemChanged, i, f.id, "the AuditEvent was written again")
	case !f.matches(body):
		v.problem(ProblemChanged, i, f.id, "the AuditEvent is not what was recorded")
	default:
		v.add(&v.sum, f.id, f.c, body)
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
	if v.gone(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	for k, want := range v.want {
		var h [32]byte
		if err == nil {
			h = got[k]
		} else if one, err := v.st.Log().Hashes(v.index[k : k+1]); v.gone(err) {
			return fhir.Wrap("audit.Verify", err)
		} else if err != nil {
			v.problem(ProblemHash, v.leaf[k], "",
				"stored hash "+strconv.FormatInt(v.index[k], 10)+" is missing or cannot be read")
			continue
		} else {
			h = one[0]
		}
		if tlog.Hash(h) != want {
			v.problem(ProblemHash, v.leaf[k], "",
				"stored hash "+strconv.FormatInt(v.index[k], 10)+" is not that of the leaves")
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
		v.report.Checkpoints = append(v.report.Checkpoints,
			CheckedAgainst{Size: c.size, Root: c.root.String(), Consistent: ok})
		if !ok {
			v.problem(ProblemForked, -1, "",
				fmt.Sprintf("the first %d leaves are not those of the signed checkpoint", size))
		}
	}
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
