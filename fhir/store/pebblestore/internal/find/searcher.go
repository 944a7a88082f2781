package find

import (
	"context"
	"encoding/base64"
	"sync/atomic"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
)

// Searcher answers searches. It holds the state that outlives a search, and is safe
// for concurrent use.
type Searcher struct {
	bounds   Bounds
	Results  *sorted.Results
	clusters signatureCache
	looked   atomic.Uint64 // rows that finished searches looked at
}

// New returns a Searcher that keeps its sorted results in r.
func New(r *sorted.Results, b Bounds) *Searcher {
	s := &Searcher{bounds: b, Results: r}
	s.clusters.byID, _ = simplelru.NewLRU[Cluster, *signatures](maxClusters, nil) // fails only for a size below one
	return s
}

// Find implements store.Store at a snapshot.
func (s *Searcher) Find(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find,
	fn func(*store.Found) bool) error {
	n := 0
	return s.each(ctx, op, snap, req, req.Query.Sort, func(m *snapshot.Match, pos []byte) bool {
		n++
		more := fn(&store.Found{Resource: m.Resource(), Facts: &m.Facts,
			Pos: base64.RawURLEncoding.EncodeToString(pos)})
		return more && (req.Limit <= 0 || n < req.Limit)
	})
}

// Count implements store.Store at a snapshot.
func (s *Searcher) Count(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find) (uint64, error) {
	var n uint64
	req.After = ""
	f, err := s.finder(ctx, op, snap, req)
	if err != nil {
		return 0, err
	}
	if !req.Undeleted || f.at == snap.Head.Seq {
		n, done, err := f.countRows()
		if done || err != nil {
			s.looked.Add(uint64(f.steps))
			return n, fault.Wrap(op, err)
		}
	}
	err = s.run(f, req, nil, func(*snapshot.Match, []byte) bool { n++; return true })
	return n, err
}

func (s *Searcher) each(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find, sort []search.SortKey,
	emit func(*snapshot.Match, []byte) bool) error {
	f, err := s.finder(ctx, op, snap, req)
	if err != nil {
		return err
	}
	return s.run(f, req, sort, emit)
}

func (s *Searcher) finder(ctx context.Context, op string, snap *snapshot.Snapshot, req store.Find) (*finder, error) {
	at, err := snap.At(op, req.At)
	if err != nil {
		return nil, err
	}
	sel, err := search.Select(req.Query)
	if err != nil {
		return nil, err
	}
	return &finder{searcher: s, evaluator: evaluator{query: req.Query, sel: sel},
		indexes: &indexes{reader: snap.Reader},
		request: request{ctx: ctx, op: op, snap: snap, at: at, filter: req.Filter, owner: req.Owner}}, nil
}

// run runs the search of a finder.
func (s *Searcher) run(f *finder, req store.Find, sort []search.SortKey,
	emit func(*snapshot.Match, []byte) bool) error {
	after, err := base64.RawURLEncoding.DecodeString(req.After)
	if err != nil {
		return errPos(f.op)
	}
	var failed error
	if req.Undeleted && f.at < f.snap.Head.Seq {
		emit = undeleted(f.snap, emit, &failed)
	}
	f.emit = emit
	if err = f.run(sort, after); err == nil {
		err = failed
	}
	s.looked.Add(uint64(f.steps))
	return fault.Wrap(f.op, err)
}

// undeleted leaves out resources that are deleted now. A version that is still
// current need not be looked up.
func undeleted(snap *snapshot.Snapshot, emit func(*snapshot.Match, []byte) bool,
	failed *error) func(*snapshot.Match, []byte) bool {
	return func(m *snapshot.Match, pos []byte) bool {
		if m.Series != nil || m.Document.EndSeq == 0 {
			return emit(m, pos)
		}
		p, err := rows.HeadOf(snap.Reader, fhir.Ref{Type: m.Row.Type, ID: m.Row.ID}, snap.Head.Seq)
		if err != nil {
			*failed = err
			return false
		}
		return p == nil || p.Deleted || emit(m, pos)
	}
}

// Bounds limits the memory and work of a search. Tests make them small.
type Bounds struct {
	DayBatch int    // rows held by a walk by date over all patients
	Probe    uint   // rows looked at to learn whether a code has few matches
	Few      uint64 // resources few enough to be walked in order of lastUpdated
	Order    uint   // rows looked at in the order of a sort before all matches are sorted instead
	Group    int    // matches with equal values that a walk in the order of a sort holds
	Others   int    // rows in the clusters of other patients (see merger.others)
}

var DefaultBounds = Bounds{DayBatch: 1024, Probe: 1024, Few: 4096, Order: 65536, Group: 4096, Others: 100_000}

// Tidy drops sorted results that have expired.
func (s *Searcher) Tidy() { s.Results.Tidy() }

// Close removes the sorted results.
func (s *Searcher) Close() error { return s.Results.Close() }

// Note adds the signature of a document that the committer writes at seq. Call it
// before a snapshot shows the document.
func (s *Searcher) Note(seq store.Seq, id Cluster, d *rows.Document, deleted bool, values *search.Values) {
	s.clusters.note(seq, id, d, deleted, values)
}

// NoteRow is Note for a document that another process wrote. It calls decode only if
// signatures of the cluster are kept, and forgets them if decode fails.
func (s *Searcher) NoteRow(seq store.Seq, id Cluster, decode func() (*rows.Document, *search.Values, error)) {
	s.clusters.noteRow(seq, id, decode)
}

// RowsRead returns the number of rows that finished searches looked at.
func (s *Searcher) RowsRead() uint64 { return s.looked.Load() }
