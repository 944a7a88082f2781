package find

import (
	"context"
	"errors"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/sorted"
)

// request is one search at one snapshot. It does not change while the search runs.
type request struct {
	ctx    context.Context
	op     string
	snap   *snapshot.Snapshot
	at     store.Seq
	filter access.Filter
	// owner names the client whose sorted results are kept.
	owner string
	// documentsOnly leaves out the samples.
	documentsOnly bool
	// since, in Unix milliseconds, limits a scan to resources updated after it.
	since int64
}

// finder runs a search: it walks rows, and passes the matches that the filter
// allows to emit. A copy of a finder with another emit is a search within the
// search.
type finder struct {
	request
	evaluator
	searcher *Searcher
	indexes  *indexes
	driver   *driver // the result of choose, once chosen is set
	chosen   bool
	union    *union // where the matches can be, or nil
	// emit takes a match and the position after which to continue. It returns false
	// to end the search.
	emit func(m *snapshot.Match, pos []byte) bool
	// passing is set if emit keeps neither the match nor its position, so that one
	// match can be reused and no position is encoded.
	passing bool
	taken   *sorted.Result  // a kept result, which sorted releases
	reused  *snapshot.Match // the match that is reused
	recent  rows.Recent     // the strings of the document decoded last
	steps   uint            // rows looked at
	budget  uint            // steps after which a probe fails with errProbe; 0 is no limit
}

func errPos(op string) error {
	return fhir.Errorf(fhir.Invalid, op, "the position does not belong to this search")
}

// step counts a row, and checks the context every 64 rows.
func (f *finder) step() error {
	f.steps++
	if f.budget > 0 && f.steps > f.budget {
		return errProbe
	}
	if f.steps%64 == 0 && f.ctx.Err() != nil {
		return fault.Canceled(f.op, f.ctx.Err())
	}
	return nil
}

// accept reports whether a document that is current at the snapshot, or a sample,
// matches and is allowed by the filter.
func (f *finder) accept(m *snapshot.Match) bool {
	if m.Series != nil {
		return f.matchesSample(m.Series, &m.Sample) && f.filter.Allow(&m.Facts)
	}
	return !m.Document.Deleted && f.matches(m) && f.filter.Allow(&m.Facts)
}

// errProbe ends a probe that has looked at as many rows as it may.
var errProbe = errors.New("more rows than a probe looks at")
