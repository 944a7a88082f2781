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
	ProblemChanged = "changed" // an AuditEvent does not match the commitment of its leaf
	ProblemDropped = "dropped" // a leaf without its AuditEvent
	ProblemAdded   = "added"   // an AuditEvent without a leaf
	// A row that reads or searches use is missing, changed or superfluous.
	ProblemIndex      = "index"
	ProblemLeaf       = "leaf"        // a leaf is missing, malformed or duplicated
	ProblemHash       = "hash"        // a stored hash differs from the recomputed one (leaves changed or reordered)
	ProblemRoot       = "root"        // the tree's root differs from the recomputed one
	ProblemRolledBack = "rolled-back" // the log is shorter than a checkpoint
	ProblemForked     = "forked"      // the log does not continue a checkpoint
	ProblemCheckpoint = "checkpoint"  // a checkpoint cannot be parsed or is not signed by the key
)

// Problem is one finding.
type Problem struct {
	Class  string `json:"class"`
	Index  *int64 `json:"index,omitempty"` // index of the leaf
	ID     string `json:"id,omitempty"`    // id of the AuditEvent
	Detail string `json:"detail"`
}

// CheckedAgainst is the result for one checkpoint.
type CheckedAgainst struct {
	Size       uint64 `json:"size"`
	Root       string `json:"root"`
	Consistent bool   `json:"consistent"`
}

// Report is the result of Verify. Its JSON form is an interface for scripts.
type Report struct {
	OK          bool             `json:"ok"`
	Size        uint64           `json:"size"` // number of leaves
	Root        string           `json:"root"`
	Events      uint64           `json:"events"` // number of AuditEvents in the store
	Checkpoints []CheckedAgainst `json:"checkpoints"`
	Problems    []Problem        `json:"problems"`
	Omitted     int              `json:"omittedProblems,omitempty"`
	Seconds     float64          `json:"seconds"`
}

// VerifyOptions configures Verify.
type VerifyOptions struct {
	// Verifier is the note verifier key (vkey) of the server's checkpoints.
	Verifier string
	// Also holds older checkpoints that an auditor has kept.
	Also [][]byte
	// MaxProblems bounds the problems in the report. The default is 100.
	MaxProblems int
	Clock       func() time.Time
}

// verifier is the state of one Verify.
type verifier struct {
	st     store.Store
	opts   VerifyOptions
	report Report
	stack  []tlog.Hash // roots of the complete subtrees, largest first
	sizes  []uint64    // their sizes
	points []*checkpoint
	// Recomputed hashes that have not been compared with the store yet: index of
	// the stored hash, expected hash, and index of the leaf.
	index []int64
	want  []tlog.Hash
	leaf  []int64
	// seed is the key of the sums in add. It is random, so that an attacker cannot
	// prepare rows with equal sums.
	seed [32]byte
	sum  [32]byte // sum of the events that reads by id returned
}

// Verify recomputes every leaf from the stored AuditEvents, every stored hash and
// the root, and compares them with the checkpoint, which may be nil, and with
// opts.Also. It compares each row that a read, a search or a history may use with
// its leaf. The server may write meanwhile; Verify ignores events recorded after
// its start. It continues after problems: the Report has the first MaxProblems and
// the number of the others. The error is not nil only if the store cannot be read.
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
			v.problem(ProblemCheckpoint, -1, "", "the checkpoint cannot be parsed or its signature is invalid")
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

// leaves verifies the leaves, their AuditEvents, the tree and the checkpoints.
func (v *verifier) leaves(ctx context.Context, size uint64) error {
	log := v.st.Log()
	v.checkpointsAt(0)
	for i := range size {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := log.Leaf(i)
		if err != nil {
			if v.unavailable(err) {
				return fhir.Wrap("audit.Verify", err)
			}
			if err := v.missingLeaf(i); err != nil {
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
				fmt.Sprintf("the log has %d leaves, a signed checkpoint has %d", size, c.size))
		}
	}
	return nil
}

// unavailable reports whether err means that the store cannot be read, as opposed
// to a missing or malformed row.
func (v *verifier) unavailable(err error) bool {
	return err != nil && fhir.KindOf(err) == fhir.Unavailable
}

// missingLeaf continues without leaf i. It uses the stored hash of the leaf, so that
// the following leaves can still be compared. Without that hash, no root can be
// recomputed.
func (v *verifier) missingLeaf(i uint64) error {
	v.problem(ProblemLeaf, int64(i), "", "the leaf is missing or cannot be read")
	hs, err := v.st.Log().Hashes([]int64{tlog.StoredHashIndex(0, int64(i))})
	if v.unavailable(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	var h tlog.Hash
	if err != nil || len(hs) != 1 {
		v.problem(ProblemHash, int64(i), "", "the stored hash of the leaf is missing too")
	} else {
		h = hs[0]
	}
	if err := v.grow(i, h); err != nil {
		return err
	}
	v.checkpointsAt(i + 1)
	return nil
}

// compareRoot compares the stored root with the recomputed one.
func (v *verifier) compareRoot(size uint64) error {
	root := v.root()
	v.report.Root = root.String()
	if size == 0 {
		return nil
	}
	stored, err := v.st.Log().Root(size)
	if v.unavailable(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	if err != nil || tlog.Hash(stored) != root {
		v.problem(ProblemRoot, -1, "", "the root of the stored hashes differs from the root of the leaves")
	}
	return nil
}

// leafEvent compares the AuditEvent that a read by id returns with leaf i.
func (v *verifier) leafEvent(ctx context.Context, i int64, l store.Leaf) error {
	f, ok := parseLeaf(l)
	if !ok {
		v.problem(ProblemLeaf, i, "", "not a leaf of this log")
		return nil
	}
	res, _, err := v.st.Read(ctx, fhir.Ref{Type: "AuditEvent", ID: f.id}, 0)
	switch {
	case v.unavailable(err):
		return fhir.Wrap("audit.Verify", err)
	case err != nil || res.Deleted:
		v.problem(ProblemDropped, i, f.id, "the AuditEvent of this leaf is not in the store")
		return nil
	}
	body, ok := unstamp(res.JSON, f.id)
	switch {
	case !ok || res.Version != 1:
		v.problem(ProblemChanged, i, f.id, "the AuditEvent was written more than once")
	case !f.matches(body):
		v.problem(ProblemChanged, i, f.id, "the AuditEvent differs from the recorded one")
	default:
		v.add(&v.sum, f.id, f.commitment, body)
	}
	return nil
}

// grow adds a record hash and the hashes of the subtrees that it completes, in the
// order in which the store keeps them.
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

// expect queues a recomputed hash for compareHashes.
func (v *verifier) expect(leaf, index int64, h tlog.Hash) {
	v.index, v.want, v.leaf = append(v.index, index), append(v.want, h), append(v.leaf, leaf)
}

// compareHashes compares the queued hashes with the stored ones.
func (v *verifier) compareHashes() error {
	if len(v.index) == 0 {
		return nil
	}
	got, err := v.st.Log().Hashes(v.index)
	if v.unavailable(err) {
		return fhir.Wrap("audit.Verify", err)
	}
	for k, want := range v.want {
		var h [32]byte
		if err == nil {
			h = got[k]
		} else if one, err := v.st.Log().Hashes(v.index[k : k+1]); v.unavailable(err) {
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
				"stored hash "+strconv.FormatInt(v.index[k], 10)+" differs from the hash of the leaves")
		}
	}
	v.index, v.want, v.leaf = v.index[:0], v.want[:0], v.leaf[:0]
	return nil
}

// root returns the root of the leaves so far.
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

// checkpointsAt compares the root with the checkpoints of the given size.
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
				fmt.Sprintf("the first %d leaves differ from the signed checkpoint", size))
		}
	}
}

// unstamp reverses fhir.Stamp: it removes meta.versionId and meta.lastUpdated from
// stored bytes. It reports false unless the version is 1.
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

var errCheckpoint = errors.New("malformed checkpoint")
