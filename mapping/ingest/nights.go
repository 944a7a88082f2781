package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/sleep"
)

const (
	// piece is the time in seconds whose nights one commit makes again: some
	// hundred Observations.
	pieceSeconds = 400 * secondsPerDay
	// around is the time in seconds that is read before and after a piece, for
	// sessions that reach into it and others that end on the same days.
	marginSeconds = 5 * secondsPerDay
	// days beside a piece on which a session that it touches may end.
	daySeconds = 2 * secondsPerDay
	// near a piece lie all sessions of these days, wherever the days begin.
	reachSeconds = daySeconds + secondsPerDay + 15*3600
	// maxAround bounds how much more is read where sessions go on and on.
	maxMargin = 40 * secondsPerDay
	// maxSegments bounds the segments that are read for a piece. A piece with
	// more is made shorter, down to a day.
	maxSegments = 200_000
)

// nights makes the nights again whose segments this run or one that was
// interrupted has written, and those that may have ended by now.
func (d *delivery) updateNights(ctx context.Context) error {
	for _, of := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		var keys []string
		err := d.pipeline.Store.List(ctx, d.nightPrefix(), func(key string, _ []byte) bool {
			keys = append(keys, strings.Clone(key))
			return true
		})
		if err != nil {
			return fhir.Wrap("ingest.nights", err)
		}
		for _, key := range keys {
			for more := true; more; {
				if more, err = d.updatePiece(ctx, of, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// somePiece makes the nights of one piece of one source again, in one commit
// with the state that says so.
func (d *delivery) updatePiece(ctx context.Context, of mapping.Segments, key string) (more bool, err error) {
	defer d.pipeline.lock(d.request.Patient, d.request.Vendor)()
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	var n sourceNights
	if err := json.Unmarshal(raw, &n); err != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	now := d.pipeline.Clock()
	n.Open = slices.DeleteFunc(n.Open, func(p period) bool {
		over := ended(time.Unix(p[1], 0), now)
		if over {
			n.Due = append(n.Due, p)
		}
		return over
	})
	if n.Due = mergePeriods(n.Due); len(n.Due) == 0 {
		return false, nil
	}
	if err := d.checkConsent(ctx); err != nil {
		return false, err
	}
	a, err := d.deriveFirstPiece(ctx, of, &n, now)
	if err != nil {
		return false, err
	}
	w, err := n.stateWrite(key)
	if err != nil {
		return false, err
	}
	a.batch.State = append(a.batch.State, w)
	if err := d.write(ctx, a, false); err != nil {
		return false, err
	}
	b := newBatch()
	for m, c := range a.counts {
		c.Read, c.Unchanged = c.Created+c.Updated, 0
		a.counts[m] = c
	}
	d.account(ctx, b, a, now)
	return len(n.Due) > 0, nil
}

// firstPiece makes the nights of the first piece that is due and takes it from
// n. A piece is shorter than usual where segments are many.
func (d *delivery) deriveFirstPiece(ctx context.Context, of mapping.Segments, n *sourceNights, now time.Time) (*commitAttempt, error) {
	due := n.Due[0]
	for length := min(due[1]-due[0], pieceSeconds); ; length = max(length/4, secondsPerDay) {
		p := period{due[0], due[0] + length}
		sessions, err := d.readSessions(ctx, of, n, p)
		if errors.Is(err, errTooManySegments) && length > secondsPerDay {
			continue
		}
		if err != nil && !errors.Is(err, errTooManySegments) {
			return nil, err
		}
		if p[1] < due[1] {
			n.Due[0][0] = p[1]
		} else {
			n.Due = n.Due[1:]
		}
		a := newAttempt()
		return a, d.deriveNights(ctx, of, n, p, sessions, now, a)
	}
}

// errDense is returned beside the sessions of the first maxSegments segments
// where there are more.
var errTooManySegments = errors.New("too many segments for one piece of nights")

// ended reports whether a night that ends at end cannot go on at now.
func ended(end, now time.Time) bool { return now.Sub(end) >= sleep.Gap }

// derive puts into a the nights that the sessions around p make in it, and takes
// back those that are none any more.
func (d *delivery) deriveNights(ctx context.Context, of mapping.Segments, n *sourceNights, p period, read sessionWindow,
	now time.Time, a *commitAttempt) error {
	sessions, from, to := read.sessions, read.from, read.to
	first := time.Unix(p[0]-daySeconds, 0).UTC().Format(time.DateOnly)
	last := time.Unix(p[1]+daySeconds, 0).UTC().Format(time.DateOnly)
	for i := range sessions {
		x := &sessions[i]
		if x.End.Unix() >= p[0]-int64(sleep.Gap.Seconds()) && x.Start.Unix() <= p[1]+int64(sleep.Gap.Seconds()) {
			first, last = min(first, x.Day), max(last, x.Day)
		}
	}
	prefix := "night/" + sourceHash(n.Source) + "/"
	var obs []observation
	made := map[string]bool{}
	for i := range sessions {
		x := &sessions[i]
		if x.Day < first || x.Day > last {
			continue
		}
		o, err := d.nightObservation(of, n.Source, prefix, x, now)
		if err != nil {
			return err
		}
		if o.preliminary {
			n.Open = append(n.Open, period{x.Start.Unix(), x.End.Unix()})
		}
		made[o.ID] = true
		obs = append(obs, o)
	}
	n.Open = mergePeriods(n.Open)
	known, err := d.storedNights(ctx, of, prefix, from, to)
	if err != nil {
		return err
	}
	joint, err := d.jointNights(ctx, of, n.Source, from, to)
	if err != nil {
		return err
	}
	known = append(known, joint...)
	if err := d.addObservations(ctx, newBatch(), obs, a); err != nil {
		return err
	}
	for i := range known {
		k := &known[i]
		stale := !made[k.ref.ID] && k.day >= first && k.day <= last
		if k.whole { // by the source as a whole: its segments say it better
			stale = slices.ContainsFunc(sessions, func(x sleep.Session) bool {
				return x.Day >= first && x.Day <= last && x.Start.Before(k.to) && k.from.Before(x.End)
			})
		}
		if stale && k.status != statusRetracted {
			d.retract(a, k)
		}
	}
	return nil
}

// surroundings of a piece are the sessions of a source from some days before it
// to some days behind it.
type sessionWindow struct {
	sessions []sleep.Session
	from, to time.Time
}

// sessions reads the segments of a source around p.
func (d *delivery) readSessions(ctx context.Context, of mapping.Segments, n *sourceNights, p period) (sessionWindow, error) {
	before, after := int64(marginSeconds), int64(marginSeconds)
	for {
		from, to := time.Unix(p[0]-before, 0).UTC(), time.Unix(p[1]+after, 0).UTC()
		segs, err := d.readSegments(ctx, of, n, from, to)
		if err != nil {
			return sessionWindow{}, err
		}
		out := sleep.Sessions(segs)
		if len(segs) >= maxSegments {
			return sessionWindow{out, from, to}, errTooManySegments
		}
		// A session at an edge may go on beyond it. That matters only when it
		// reaches the days that are made again.
		cut := false
		if len(out) > 0 {
			first, last := &out[0], &out[len(out)-1]
			if before < maxMargin && first.Start.Sub(from) <= sleep.Gap && first.End.Unix() >= p[0]-reachSeconds {
				before, cut = 2*before, true
			}
			if after < maxMargin && to.Sub(last.End) <= sleep.Gap && last.Start.Unix() <= p[1]+reachSeconds {
				after, cut = 2*after, true
			}
		}
		if !cut {
			return sessionWindow{out, from, to}, nil
		}
	}
}

// segments returns the segments of a source that overlap a time. It reads the
// columns of a store that has them, without making Observations.
func (d *delivery) readSegments(ctx context.Context, of mapping.Segments, n *sourceNights, from,
	to time.Time) (segs []sleep.Segment, err error) {
	one := func(_ *store.Found, s *storedElements) bool {
		g, ok := n.segment(s)
		if ok {
			if g.Start, g.End, ok = s.effective(); ok {
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	}
	fast, ok := d.pipeline.Store.(store.Columnar)
	if !ok {
		err = d.find(ctx, of.System, of.Metric, from, to, nil, one)
		return segs, err
	}
	f, err := d.search(of.System, of.Metric, from, to)
	if err != nil {
		return nil, err
	}
	likes := map[*series.Template]*sleep.Segment{} // nil: of another source
	zones := map[int16]*time.Location{}
	at := func(us int64, off int16) time.Time {
		if zones[off] == nil {
			zones[off] = time.FixedZone("", int(off)*60)
		}
		return time.UnixMicro(us).In(zones[off])
	}
	var bad error
	err = fast.FindRuns(ctx, f, d.decoder(nil, one, &bad), func(x *store.Run) bool {
		if x.Template.Vendor != d.request.Vendor {
			return true
		}
		var cols *series.Columns
		if cols, bad = x.Load(); bad != nil {
			return false
		}
		like, seen := likes[x.Template]
		if !seen {
			first := cols.At(x.From)
			first.Commit = series.Commit{}
			var s storedElements
			if bad = json.Unmarshal(x.Template.Append(nil, &first), &s); bad != nil {
				return false
			}
			if g, ok := n.segment(&s); ok {
				like = &g
			}
			likes[x.Template] = like
		}
		for i := x.From; like != nil && i < x.To && len(segs) < maxSegments; i++ {
			if s := cols.At(i); s.End != series.NoEnd {
				g := *like
				g.Start, g.End = at(s.Start, s.Off), at(s.End, s.EndOff)
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	})
	return segs, fhir.Wrap("ingest.segments", cmp.Or(err, bad))
}

// segment is s without its times; ok is false when it is not one of the
// source.
func (n *sourceNights) segment(s *storedElements) (g sleep.Segment, ok bool) {
	if s.Status == statusRetracted || !slices.Contains(n.Streams, s.identifier(mapping.StreamSystem)) &&
		!slices.Contains(n.Streams, s.Device.Reference) {
		return g, false
	}
	g = sleep.Segment{Sure: !s.zoneUnknown(), Device: s.Device.Reference}
	for _, c := range s.Value.Coding {
		if g.Stage, ok = sleep.StageOf(c.Code); ok {
			return g, true
		}
	}
	return g, false
}

// search looks for the patient's Observations of one code of the vendor's that
// overlap a time.
func (d *delivery) search(system, code string, from, to time.Time) (store.Find, error) {
	q, err := search.Parse("Observation", [][2]string{{"patient", d.request.Patient}, {"code", system + "|" + code},
		{"date", "ge" + from.Format(time.RFC3339)}, {"date", "le" + to.Format(time.RFC3339)}}, search.ParseOptions{})
	return store.Find{Query: q, Filter: access.All().Filter(access.Search)}, fhir.Wrap("ingest.find", err)
}

// find passes each Observation that search finds to fn, if its JSON holds text.
func (d *delivery) find(ctx context.Context, system, code string, from, to time.Time, text []byte,
	fn func(*store.Found, *storedElements) bool) error {
	f, err := d.search(system, code, from, to)
	if err != nil {
		return err
	}
	var bad error
	err = d.pipeline.Store.Find(ctx, f, d.decoder(text, fn, &bad))
	return fhir.Wrap("ingest.find", cmp.Or(err, bad))
}

// reader decodes found Observations of the vendor for fn, if their JSON holds
// text. It sets bad and ends the search when one cannot be decoded.
func (d *delivery) decoder(text []byte, fn func(*store.Found, *storedElements) bool, bad *error) func(*store.Found) bool {
	return func(f *store.Found) bool {
		var s storedElements
		if f.Facts.Vendor != d.request.Vendor || !bytes.Contains(f.Resource.JSON, text) {
			return true
		}
		if *bad = json.Unmarshal(f.Resource.JSON, &s); *bad != nil {
			return false
		}
		return fn(f, &s)
	}
}

// night is a session as an Observation.
func (d *delivery) nightObservation(of mapping.Segments, source, prefix string, x *sleep.Session,
	now time.Time) (o observation, err error) {
	s := x.Sample()
	s.Metric, s.Source.Name, s.VendorID = of.Of, source, prefix+x.Name
	if !ended(x.End, now) {
		s.Status = sample.Preliminary
	}
	res, err := d.pipeline.Mapper.Map(nil, d.request.Vendor, &s, d.request.Patient, d.zone)
	if err != nil {
		return o, fhir.Wrap("ingest.night", err)
	}
	if device := x.Device(); device != "" {
		res.JSON, _ = mapping.KeepSource(res.JSON, []byte(`,"device":{"reference":"`+device+`"}`))
		res.Hash = store.ContentHash(res.JSON)
	}
	return observation{Result: res, preliminary: s.Status == sample.Preliminary}, nil
}

// known is a stored night of one source.
type storedNight struct {
	ref      fhir.Ref
	metric   string
	vendorID string
	day      string // of waking
	whole    bool   // stated by the source as a whole, not made of segments
	status   string
	from, to time.Time
	json     []byte
}

// toldMark tells nights that a source states as a whole from those that are
// made of segments: night/HASH/DAY/hHOUR.
const wholeMark = "/h"

// stated are the stored nights whose id of the vendor's has the prefix.
func (d *delivery) storedNights(ctx context.Context, of mapping.Segments, prefix string, from,
	to time.Time) (out []storedNight, err error) {
	system := fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
	err = d.find(ctx, of.System, of.Of, from, to, []byte(prefix), func(f *store.Found, s *storedElements) bool {
		k := storedNight{ref: f.Resource.Ref(), metric: of.Of, vendorID: s.identifier(system), status: s.Status}
		name, ok := strings.CutPrefix(k.vendorID, prefix)
		if !ok {
			return true
		}
		k.day, _, _ = strings.Cut(name, "/")
		k.whole = strings.Contains(name, wholeMark)
		if k.from, k.to, ok = s.effective(); ok {
			k.json = unstamped(&f.Resource)
			out = append(out, k)
		}
		return true
	})
	return out, err
}

// unstamped is a copy of a stored version without its version facts.
func unstamped(v *fhir.Resource) []byte {
	p := fhir.Prefix(v.Type, v.ID)
	stamp := fhir.Stamp([]byte(p+"}"), v.Type, v.ID, v.Version, v.LastUpdated)
	rest := v.JSON[len(stamp)-1:]
	return append([]byte(p), bytes.TrimPrefix(rest, []byte(","))...)
}

const statusRetracted = "entered-in-error"

// retract takes a stored night back.
func (d *delivery) retract(a *commitAttempt, k *storedNight) {
	a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, SkipSame: true,
		Resource: fhir.Resource{Type: k.ref.Type, ID: k.ref.ID, JSON: withStatus(k.json, statusRetracted)}})
	a.metrics = append(a.metrics, k.metric)
	a.targets = append(a.targets, k.ref)
}

// named gives nights that the source states as a whole the identity under
// which the store has them: what overlaps in time is one night, also when it
// begins at another hour now. A night that is made of segments stands.
func (d *delivery) resolveNights(ctx context.Context, obs []observation, a *commitAttempt) ([]observation, error) {
	for _, of := range d.pipeline.Mapper.Segments(d.request.Vendor) {
		isNight := func(o observation) bool { return o.Metric == of.Of }
		if !slices.ContainsFunc(obs, isNight) {
			continue
		}
		var out []observation
		var told []storedNight // of this batch
		for i := range obs {
			if o := &obs[i]; isNight(*o) {
				keep, err := d.resolveNight(ctx, of, o, out, &told, a)
				if err != nil {
					return nil, err
				}
				if !keep {
					continue
				}
			}
			out = append(out, obs[i])
		}
		obs = out
	}
	return obs, nil
}

// tell finds the night that o is. It is false when o has nothing to say.
func (d *delivery) resolveNight(ctx context.Context, of mapping.Segments, o *observation, before []observation, told *[]storedNight,
	a *commitAttempt) (keep bool, err error) {
	var s storedElements
	if err := json.Unmarshal(o.JSON, &s); err != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	vendorID := s.identifier(fhir.Canonical + "/identifier/" + d.request.Vendor + "/source")
	at := strings.Index(vendorID, wholeMark)
	from, to, ok := s.effective()
	if !ok || at < 0 || strings.Count(vendorID, "/") < 3 {
		return true, nil
	}
	prefix := vendorID[:strings.Index(vendorID, "/")+1]
	prefix += vendorID[len(prefix):][:strings.Index(vendorID[len(prefix):], "/")+1]
	all, err := d.storedNights(ctx, of, prefix, from, to)
	if err != nil {
		return false, err
	}
	several, err := d.severalSources(ctx, of, o, from, to, a)
	if err != nil || several {
		return !several, err
	}
	overlaps := func(k *storedNight) bool {
		return k.status != statusRetracted && (k.from.Before(to) && from.Before(k.to) || k.from.Equal(from))
	}
	same := -1
	for i := range all {
		switch k := &all[i]; {
		case !overlaps(k):
		case !k.whole:
			a.count(o.Metric, Counts{Unchanged: 1})
			return false, nil
		case same < 0:
			same = i
		default: // two parts of a night have become one
			a.retractions = append(a.retractions, *k)
		}
	}
	this := storedNight{ref: fhir.Ref{Type: "Observation", ID: o.ID}, vendorID: vendorID, from: from, to: to}
	if same >= 0 {
		this.ref, this.vendorID = all[same].ref, all[same].vendorID
	} else {
		for i := range *told {
			if k := &(*told)[i]; strings.HasPrefix(k.vendorID, prefix) && overlaps(k) {
				this.ref, this.vendorID = k.ref, k.vendorID
				break
			}
		}
	}
	o.rename(this.ref.ID, vendorID, this.vendorID)
	for i := range before {
		if before[i].ID == o.ID { // the payload states it twice: its last word counts
			a.count(o.Metric, Counts{Dropped: 1})
			o.seq, before[i] = before[i].seq, *o
			*told = append(*told, this)
			return false, nil
		}
	}
	*told = append(*told, this)
	return true, nil
}

// severalSources reports whether o, a night that a source states as a whole,
// is of several ("Watch|Phone"), and the segments of one of them say it.
// Otherwise it is remembered that there are such nights.
func (d *delivery) severalSources(ctx context.Context, of mapping.Segments, o *observation, from, to time.Time,
	a *commitAttempt) (bool, error) {
	parts := strings.Split(o.source, "|")
	if len(parts) < 2 || len(parts) > 16 {
		return false, nil
	}
	for _, part := range parts {
		all, err := d.storedNights(ctx, of, "night/"+sourceHash(part)+"/", from, to)
		if err != nil {
			return false, err
		}
		for i := range all {
			if k := &all[i]; !k.whole && k.status != statusRetracted && k.from.Before(to) && from.Before(k.to) {
				a.count(o.Metric, Counts{Unchanged: 1})
				return true, nil
			}
		}
	}
	key := d.nightPrefix() + sourceHash(o.source)
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	w, err := (&sourceNights{Source: o.source}).stateWrite(key)
	if err == nil && !slices.ContainsFunc(a.batch.State, func(s store.StateWrite) bool { return s.Key == key }) {
		a.batch.State = append(a.batch.State, w)
	}
	return false, err
}

// joint are the nights that were stated as a whole of several sources, this one
// among them.
func (d *delivery) jointNights(ctx context.Context, of mapping.Segments, source string, from,
	to time.Time) (out []storedNight, err error) {
	var prefixes []string
	var bad error
	err = d.pipeline.Store.List(ctx, d.nightPrefix(), func(_ string, raw []byte) bool {
		var n sourceNights
		if bad = json.Unmarshal(raw, &n); bad != nil {
			return false
		}
		if parts := strings.Split(n.Source, "|"); len(parts) > 1 && slices.Contains(parts, source) {
			prefixes = append(prefixes, "night/"+sourceHash(n.Source)+"/")
		}
		return true
	})
	if err == nil {
		err = bad
	}
	for _, p := range prefixes {
		if err == nil {
			var some []storedNight
			some, err = d.storedNights(ctx, of, p, from, to)
			out = append(out, slices.DeleteFunc(some, func(k storedNight) bool { return !k.whole })...)
		}
	}
	return out, fhir.Wrap("ingest.nights", err)
}

// rename gives o another identity.
func (o *observation) rename(id, was, vendorID string) {
	if id == o.ID && was == vendorID {
		return
	}
	o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+o.ID+`"`), []byte(`"`+id+`"`))
	o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+was+`"`), []byte(`"`+vendorID+`"`))
	o.ID, o.Hash = id, store.ContentHash(o.JSON)
}
