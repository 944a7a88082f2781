package find

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/snapshot"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

// versions walks the versions of several types, the newest commit first. It merges the U
// rows of the types, or the V rows of a patient.
type versions struct {
	finder
	req     store.VersionRange
	fn      func(*store.Found) bool
	sources []*versionSource
	changes *pebble.Iterator // over table L
	last    versionPos       // the entry looked at last
	looked  int
	// current holds, for each type, the first commit of which a version that it ended was
	// current after From.
	current map[string]store.Seq
	from    int64 // Unix milliseconds
}

// versionSource is an iterator over the U or V rows of one type, from the newest back.
type versionSource struct {
	typ    string
	it     *pebble.Iterator
	prefix []byte
	ok     bool
	seq    store.Seq
	row    rows.Updates
}

// versionPos is the position of a version: the resource that a commit wrote.
type versionPos struct {
	seq     store.Seq
	typ, id string
}

// firstEvent is added to the number of an AuditEvent in its commit, so that it is not that
// of an L row.
const firstEvent = 1 << 31

const posVersion = 'v'

func (p *versionPos) encode() string {
	b := rows.AppendText(keys.AppendUint64([]byte{posVersion}, uint64(p.seq)), p.typ)
	return base64.RawURLEncoding.EncodeToString(append(b, p.id...))
}

func decodeVersionPos(op, s string) (p versionPos, err error) {
	if s == "" {
		return p, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(b) < 9 || b[0] != posVersion {
		return p, errPos(op)
	}
	r := rows.Reader{Bytes: b[1:]}
	p.seq, p.typ = store.Seq(r.Uint64()), r.Text()
	if p.id = string(r.Bytes); r.Bad || p.seq == 0 {
		return p, errPos(op)
	}
	return p, nil
}

// Versions implements store.Store at a snapshot.
func (s *Searcher) Versions(ctx context.Context, op string, snap *snapshot.Snapshot, req store.VersionRange,
	fn func(*store.Found) bool) (rest search.Position, err error) {
	at, err := snap.At(op, req.At)
	if err != nil {
		return "", err
	}
	after, err := decodeVersionPos(op, req.After)
	if err != nil {
		return "", err
	}
	v := &versions{req: req, fn: fn, current: map[string]store.Seq{}, from: floorMS(req.From)}
	v.finder = finder{searcher: s, request: request{ctx: ctx, op: op, snap: snap, at: at, filter: req.Filter}}
	defer func() {
		for _, source := range v.sources {
			fault.Close(source.it, &err)
		}
		if v.changes != nil {
			fault.Close(v.changes, &err)
		}
	}()
	if err := v.open(after); err != nil {
		return "", fault.Wrap(op, err)
	}
	more, err := v.walk(after)
	if err != nil || !more {
		return "", fault.Wrap(op, err)
	}
	return v.last.encode(), nil
}

// floorMS returns t in Unix milliseconds, and the smallest number for the zero time.
func floorMS(t time.Time) int64 {
	if t.IsZero() {
		return math.MinInt64
	}
	return t.UnixMilli()
}

// open opens the sources at the newest rows that may be of use.
func (v *versions) open(after versionPos) (err error) {
	if v.changes, err = v.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: []byte{keys.TableChange},
		UpperBound: []byte{keys.TableChange + 1}}); err != nil {
		return err
	}
	for _, typ := range v.req.Types {
		prefix := keys.TypeUpdates(typ)
		if _, single := search.PatientParam(typ); single && v.req.Patient != "" {
			prefix = keys.PatientUpdates(v.req.Patient, typ)
		}
		it, err := v.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: keys.PrefixEnd(prefix)})
		if err != nil {
			return err
		}
		source := &versionSource{typ: typ, it: it, prefix: prefix}
		v.sources = append(v.sources, source)
		end := v.at + 1
		if !v.req.To.IsZero() {
			if end, err = v.firstUpdated(it, prefix, ceilMS(v.req.To)); err != nil {
				return err
			}
		}
		if after.seq != 0 {
			end = min(end, after.seq+1)
		}
		if err := source.decode(it.SeekLT(keys.UpdateKey(prefix, end, 0))); err != nil {
			return err
		}
	}
	return nil
}

// ceilMS returns the first millisecond that does not begin before t.
func ceilMS(t time.Time) int64 {
	ms := t.UnixMilli()
	if time.UnixMilli(ms).Before(t) {
		ms++
	}
	return ms
}

func (s *versionSource) decode(ok bool) (err error) {
	if s.ok = ok; ok {
		s.seq, s.row, err = rowOf(s.it, s.prefix)
		return err
	}
	return s.it.Error()
}

// versionEntry is one entry of a commit: an L row by its number, or an AuditEvent.
type versionEntry struct {
	number uint32
	typ    string
	event  keys.Row
}

// walk walks the commits. It returns true if it has looked at as many rows as it may.
func (v *versions) walk(after versionPos) (more bool, err error) {
	since := int64(math.MinInt64)
	if !v.req.Since.IsZero() {
		since = ceilMS(v.req.Since)
	}
	for {
		var seq store.Seq
		for _, s := range v.sources {
			if s.ok && s.row.Updated < since {
				s.ok = false
			}
			if s.ok {
				seq = max(seq, s.seq)
			}
		}
		if seq == 0 {
			return false, nil
		}
		entries, err := v.entries(seq)
		if err != nil {
			return false, err
		}
		if entries, err = v.skipTo(seq, entries, &after); err != nil {
			return false, err
		}
		for i := range entries {
			if v.spent() {
				return true, nil
			}
			id := ""
			if i == 0 && after.seq == seq {
				id = after.id // of a run of samples, of which some may follow
			}
			if next, err := v.entry(seq, &entries[i], id); err != nil || next != goOn {
				return next == stopFull, err
			}
		}
	}
}

// skipTo returns the entries of a commit from the one with the position on, if it is in this
// commit.
func (v *versions) skipTo(seq store.Seq, entries []versionEntry, after *versionPos) ([]versionEntry, error) {
	if after.seq != seq {
		return entries, nil
	}
	for i := range entries {
		if in, err := v.contains(seq, &entries[i], after); err != nil || in {
			return entries[i:], err
		}
	}
	return nil, errPos(v.op)
}

// contains reports whether an entry of a commit has a resource.
func (v *versions) contains(seq store.Seq, e *versionEntry, p *versionPos) (bool, error) {
	if e.typ != p.typ {
		return false, nil
	}
	if e.typ == "AuditEvent" {
		return e.event.ID == p.id, nil
	}
	raw, err := v.change(seq, e.number)
	if err != nil {
		return false, err
	}
	if !rows.IsSeriesChange(raw) {
		c, err := rows.DecodeChange(raw)
		return c.ID == p.id, err
	}
	c, err := rows.DecodeSeriesChange(raw)
	if err != nil {
		return false, err
	}
	// Two runs of a commit may have the same identity.
	ref := fhir.Ref{Type: p.typ, ID: p.id}
	head, err := rows.HeadOf(v.snap.Reader, ref, seq)
	if err != nil || head != nil {
		return head != nil && head.Moved && head.Seq == seq && head.Series == c.Series, err
	}
	sample, err := v.snap.Tier.Sample(v.snap.Reader, ref)
	return sample != nil && sample.Series.ID == c.Series && store.Seq(sample.Sample.Commit.Seq) == seq, err
}

// change returns an L row.
func (v *versions) change(seq store.Seq, number uint32) ([]byte, error) {
	k := keys.ChangeKey(seq, number)
	if !v.changes.SeekGE(k) || !bytes.Equal(v.changes.Key(), k) {
		return nil, errors.Join(v.changes.Error(), fault.ErrRow)
	}
	return v.changes.Value(), nil
}

// verdict says how a walk continues after an entry.
type verdict uint8

const (
	goOn     verdict = iota
	stopDone         // the callback wants no more
	stopFull         // as many rows were looked at as may be
)

// spent reports whether no further row may be looked at.
func (v *versions) spent() bool { return v.req.Rows > 0 && v.looked >= v.req.Rows }

// entries returns the entries of a commit in the order in which they were written, and
// moves the sources past it.
func (v *versions) entries(seq store.Seq) (out []versionEntry, err error) {
	for _, s := range v.sources {
		for s.ok && s.seq == seq {
			if s.typ == "AuditEvent" {
				events, err := s.row.Events(seq)
				if err != nil {
					return nil, err
				}
				for i, r := range events {
					out = append(out, versionEntry{number: firstEvent + uint32(i), typ: s.typ, event: r})
				}
			} else {
				ns, err := s.row.Changes()
				if err != nil {
					return nil, err
				}
				for _, n := range ns {
					out = append(out, versionEntry{number: n, typ: s.typ})
				}
			}
			if err := s.decode(s.it.Prev()); err != nil {
				return nil, err
			}
		}
	}
	slices.SortFunc(out, func(a, b versionEntry) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// entry emits the versions of an entry with an id after the given one.
func (v *versions) entry(seq store.Seq, e *versionEntry, after string) (verdict, error) {
	r := e.event
	if e.typ != "AuditEvent" {
		raw, err := v.change(seq, e.number)
		if err != nil {
			return stopDone, err
		}
		if rows.IsSeriesChange(raw) {
			c, err := rows.DecodeSeriesChange(raw)
			if err != nil {
				return stopDone, err
			}
			return v.samples(versionPos{seq, e.typ, after}, &c)
		}
		c, err := rows.DecodeChange(raw)
		if err != nil {
			return stopDone, err
		}
		r = keys.Row{Location: c.Location, Type: c.Type, ID: c.ID, Seq: seq}
	}
	if r.ID == after {
		return goOn, nil
	}
	m, err := v.snap.FetchRow(r)
	if err != nil {
		return stopDone, err
	}
	return v.version(versionPos{seq, e.typ, r.ID}, m)
}

// samples emits the samples that a commit wrote of a series, after a position.
func (v *versions) samples(at versionPos, c *rows.SeriesChange) (out verdict, err error) {
	ser, err := v.snap.Tier.Series(v.snap.Reader, &c.Location, c.Series)
	if err != nil {
		return stopDone, err
	}
	first := c.First
	if k, ok := series.ParseID(at.id); ok {
		first = max(first, k.Start)
	}
	moved, err := v.snap.Moved(ser, at.seq, first, c.Last)
	if err != nil {
		return stopDone, err
	}
	w := v.snap.Walk(ser, at.seq, false)
	defer fault.Close(fault.CloseFunc(w.Close), &err)
	w.Only = at.seq
	w.Skip = func(h *series.Header) bool { return store.Seq(h.MaxSeq) < at.seq }
	if err := w.SeekRange(first, c.Last+1); err != nil {
		return stopDone, err
	}
	after := at.id
	for w.Valid() || len(moved) > 0 {
		if v.spent() {
			return stopFull, nil
		}
		m, err := v.nextSample(w, ser, &moved, at.seq)
		if err != nil {
			return stopDone, err
		}
		if m == nil || m.Row.ID <= after {
			continue
		}
		at.id = m.Row.ID
		if out, err := v.version(at, m); err != nil || out != goOn {
			return out, err
		}
	}
	return goOn, nil
}

// nextSample takes the next of the samples and of those that have become documents. It is
// nil for a sample of another commit.
func (v *versions) nextSample(w *tier.Walk, ser *tier.Series, moved *[]*snapshot.Match,
	seq store.Seq) (m *snapshot.Match, err error) {
	if w.Valid() {
		s := w.Sample()
		if store.Seq(s.Commit.Seq) != seq {
			return nil, w.Next()
		}
		m = snapshot.NewSample(ser, &s)
	}
	if list := *moved; len(list) > 0 && (m == nil || list[0].Row.ID < m.Row.ID) {
		*moved = list[1:]
		return list[0], nil
	}
	return m, w.Next()
}

// version emits one version, if it was current in the period and the filter allows it.
func (v *versions) version(pos versionPos, m *snapshot.Match) (verdict, error) {
	v.looked++
	v.last = pos
	if err := v.step(); err != nil {
		return stopDone, err
	}
	if in, err := v.inPeriod(m); err != nil || !in || !v.filter.Allow(&m.Facts) {
		return goOn, err
	}
	if !v.fn(&store.Found{Resource: m.Resource(), Facts: &m.Facts, Pos: pos.encode()}) {
		return stopDone, nil
	}
	return goOn, nil
}

// inPeriod reports whether a version written before To was current after From. A deletion
// counts only if it took place in the period.
func (v *versions) inPeriod(m *snapshot.Match) (bool, error) {
	if v.req.To.IsZero() || m.Document.Updated >= v.from {
		return true, nil
	}
	if m.Document.Deleted {
		return false, nil
	}
	end := m.Document.EndSeq
	if end == 0 || end > v.at {
		return true, nil
	}
	first, ok := v.current[m.Row.Type]
	if !ok {
		prefix := keys.TypeUpdates(m.Row.Type)
		it, err := v.snap.Reader.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: keys.PrefixEnd(prefix)})
		if err != nil {
			return false, err
		}
		defer fault.Close(it, &err)
		if first, err = v.firstUpdated(it, prefix, v.from+1); err != nil {
			return false, err
		}
		v.current[m.Row.Type] = first
	}
	return end >= first, nil
}
