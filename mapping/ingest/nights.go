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
	piece = 400 * day
	// around is the time in seconds that is read before and after a piece, for
	// sessions that reach into it and others that end on the same days.
	around = 5 * day
	// days beside a piece on which a session that it touches may end.
	beside = 2 * day
	// near a piece lie all sessions of these days, wherever the days begin.
	near = beside + day + 15*3600
	// maxAround bounds how much more is read where sessions go on and on.
	maxAround = 40 * day
	// maxSegments bounds the segments that are read for a piece. A piece with
	// more is made shorter, down to a day.
	maxSegments = 200_000
)

// nights makes the nights again whose segments this run or one that was
// interrupted has written, and those that may have ended by now.
func (r *run) nights(ctx context.Context) error {
	for _, of := range r.p.Mapper.Segments(r.q.Vendor) {
		var keys []string
		err := r.p.Store.List(ctx, r.nightRoom(), func(key string, _ []byte) bool {
			keys = append(keys, strings.Clone(key))
			return true
		})
		if err != nil {
			return fhir.Wrap("ingest.nights", err)
		}
		for _, key := range keys {
			for more := true; more; {
				if more, err = r.somePiece(ctx, of, key); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// somePiece makes the nights of one piece of one source again, in one commit
// with the state that says so.
func (r *run) somePiece(ctx context.Context, of mapping.Segments, key string) (more bool, err error) {
	defer r.p.serialize(r.q.Patient, r.q.Vendor)()
	raw, err := r.p.Store.Get(ctx, key)
	if err != nil || raw == nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	var n sourceNights
	if err := json.Unmarshal(raw, &n); err != nil {
		return false, fhir.Wrap("ingest.nights", err)
	}
	now := r.p.Clock()
	n.Open = slices.DeleteFunc(n.Open, func(p period) bool {
		over := ended(time.Unix(p[1], 0), now)
		if over {
			n.Due = append(n.Due, p)
		}
		return over
	})
	if n.Due = merged(n.Due); len(n.Due) == 0 {
		return false, nil
	}
	if err := r.consent(ctx); err != nil {
		return false, err
	}
	a, err := r.firstPiece(ctx, of, &n, now)
	if err != nil {
		return false, err
	}
	w, err := n.write(key)
	if err != nil {
		return false, err
	}
	a.sb.State = append(a.sb.State, w)
	if err := r.write(ctx, a, false); err != nil {
		return false, err
	}
	b := newBatch()
	for m, c := range a.counts {
		c.Read, c.Unchanged = c.Created+c.Updated, 0
		a.counts[m] = c
	}
	r.account(ctx, b, a, now)
	return len(n.Due) > 0, nil
}

// firstPiece makes the nights of the first piece that is due and takes it from
// n. A piece is shorter than usual where segments are many.
func (r *run) firstPiece(ctx context.Context, of mapping.Segments, n *sourceNights, now time.Time) (*attempt, error) {
	due := n.Due[0]
	for length := min(due[1]-due[0], piece); ; length = max(length/4, day) {
		p := period{due[0], due[0] + length}
		sessions, err := r.sessions(ctx, of, n, p)
		if errors.Is(err, errDense) && length > day {
			continue
		}
		if err != nil && !errors.Is(err, errDense) {
			return nil, err
		}
		if p[1] < due[1] {
			n.Due[0][0] = p[1]
		} else {
			n.Due = n.Due[1:]
		}
		a := newAttempt()
		return a, r.derive(ctx, of, n, p, sessions, now, a)
	}
}

// errDense is returned beside the sessions of the first maxSegments segments
// where there are more.
var errDense = errors.New("too many segments for one piece of nights")

// ended reports whether a night that ends at end cannot go on at now.
func ended(end, now time.Time) bool { return now.Sub(end) >= sleep.Gap }

// derive puts into a the nights that the sessions around p make in it, and takes
// back those that are none any more.
func (r *run) derive(ctx context.Context, of mapping.Segments, n *sourceNights, p period, read surroundings,
	now time.Time, a *attempt) error {
	sessions, from, to := read.sessions, read.from, read.to
	first := time.Unix(p[0]-beside, 0).UTC().Format(time.DateOnly)
	last := time.Unix(p[1]+beside, 0).UTC().Format(time.DateOnly)
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
		o, err := r.night(of, n.Source, prefix, x, now)
		if err != nil {
			return err
		}
		if o.preliminary {
			n.Open = append(n.Open, period{x.Start.Unix(), x.End.Unix()})
		}
		made[o.ID] = true
		obs = append(obs, o)
	}
	n.Open = merged(n.Open)
	known, err := r.stated(ctx, of, prefix, from, to)
	if err != nil {
		return err
	}
	joint, err := r.joint(ctx, of, n.Source, from, to)
	if err != nil {
		return err
	}
	known = append(known, joint...)
	if err := r.observations(ctx, newBatch(), obs, a); err != nil {
		return err
	}
	for i := range known {
		k := &known[i]
		stale := !made[k.ref.ID] && k.day >= first && k.day <= last
		if k.told { // by the source as a whole: its segments say it better
			stale = slices.ContainsFunc(sessions, func(x sleep.Session) bool {
				return x.Day >= first && x.Day <= last && x.Start.Before(k.to) && k.from.Before(x.End)
			})
		}
		if stale && k.status != statusRetracted {
			r.retract(a, k)
		}
	}
	return nil
}

// surroundings of a piece are the sessions of a source from some days before it
// to some days behind it.
type surroundings struct {
	sessions []sleep.Session
	from, to time.Time
}

// sessions reads the segments of a source around p.
func (r *run) sessions(ctx context.Context, of mapping.Segments, n *sourceNights, p period) (surroundings, error) {
	before, after := int64(around), int64(around)
	for {
		from, to := time.Unix(p[0]-before, 0).UTC(), time.Unix(p[1]+after, 0).UTC()
		segs, err := r.segments(ctx, of, n, from, to)
		if err != nil {
			return surroundings{}, err
		}
		out := sleep.Sessions(segs)
		if len(segs) >= maxSegments {
			return surroundings{out, from, to}, errDense
		}
		// A session at an edge may go on beyond it. That matters only when it
		// reaches the days that are made again.
		cut := false
		if len(out) > 0 {
			first, last := &out[0], &out[len(out)-1]
			if before < maxAround && first.Start.Sub(from) <= sleep.Gap && first.End.Unix() >= p[0]-near {
				before, cut = 2*before, true
			}
			if after < maxAround && to.Sub(last.End) <= sleep.Gap && last.Start.Unix() <= p[1]+near {
				after, cut = 2*after, true
			}
		}
		if !cut {
			return surroundings{out, from, to}, nil
		}
	}
}

// segments returns the segments of a source that overlap a time. It reads the
// columns of a store that has them, without making Observations.
func (r *run) segments(ctx context.Context, of mapping.Segments, n *sourceNights, from,
	to time.Time) (segs []sleep.Segment, err error) {
	one := func(_ *store.Found, s *stored) bool {
		g, ok := n.segment(s)
		if ok {
			if g.Start, g.End, ok = s.when(); ok {
				segs = append(segs, g)
			}
		}
		return len(segs) < maxSegments
	}
	fast, ok := r.p.Store.(store.Columnar)
	if !ok {
		err = r.find(ctx, of.System, of.Metric, from, to, nil, one)
		return segs, err
	}
	f, err := r.search(of.System, of.Metric, from, to)
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
	err = fast.FindRuns(ctx, f, r.reader(nil, one, &bad), func(x *store.Run) bool {
		if x.Template.Vendor != r.q.Vendor {
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
			var s stored
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
func (n *sourceNights) segment(s *stored) (g sleep.Segment, ok bool) {
	if s.Status == statusRetracted || !slices.Contains(n.Streams, s.identifier(mapping.StreamSystem)) &&
		!slices.Contains(n.Streams, s.Device.Reference) {
		return g, false
	}
	g = sleep.Segment{Sure: !s.unsure(), Device: s.Device.Reference}
	for _, c := range s.Value.Coding {
		if g.Stage, ok = sleep.StageOf(c.Code); ok {
			return g, true
		}
	}
	return g, false
}

// search looks for the patient's Observations of one code of the vendor's that
// overlap a time.
func (r *run) search(system, code string, from, to time.Time) (store.Find, error) {
	q, err := search.Parse("Observation", [][2]string{{"patient", r.q.Patient}, {"code", system + "|" + code},
		{"date", "ge" + from.Format(time.RFC3339)}, {"date", "le" + to.Format(time.RFC3339)}}, search.ParseOptions{})
	return store.Find{Query: q, Filter: access.All().Filter(access.Search)}, fhir.Wrap("ingest.find", err)
}

// find passes each Observation that search finds to fn, if its JSON holds text.
func (r *run) find(ctx context.Context, system, code string, from, to time.Time, text []byte,
	fn func(*store.Found, *stored) bool) error {
	f, err := r.search(system, code, from, to)
	if err != nil {
		return err
	}
	var bad error
	err = r.p.Store.Find(ctx, f, r.reader(text, fn, &bad))
	return fhir.Wrap("ingest.find", cmp.Or(err, bad))
}

// reader decodes found Observations of the vendor for fn, if their JSON holds
// text. It sets bad and ends the search when one cannot be decoded.
func (r *run) reader(text []byte, fn func(*store.Found, *stored) bool, bad *error) func(*store.Found) bool {
	return func(f *store.Found) bool {
		var s stored
		if f.Facts.Vendor != r.q.Vendor || !bytes.Contains(f.Resource.JSON, text) {
			return true
		}
		if *bad = json.Unmarshal(f.Resource.JSON, &s); *bad != nil {
			return false
		}
		return fn(f, &s)
	}
}

// night is a session as an Observation.
func (r *run) night(of mapping.Segments, source, prefix string, x *sleep.Session,
	now time.Time) (o observation, err error) {
	s := x.Sample()
	s.Metric, s.Source.Name, s.VendorID = of.Of, source, prefix+x.Name
	if !ended(x.End, now) {
		s.Status = sample.Preliminary
	}
	res, err := r.p.Mapper.Map(nil, r.q.Vendor, &s, r.q.Patient, r.zone)
	if err != nil {
		return o, fhir.Wrap("ingest.night", err)
	}
	if d := x.Device(); d != "" {
		res.JSON, _ = mapping.KeepSource(res.JSON, []byte(`,"device":{"reference":"`+d+`"}`))
		res.Hash = store.ContentHash(res.JSON)
	}
	return observation{Result: res, preliminary: s.Status == sample.Preliminary}, nil
}

// known is a stored night of one source.
type known struct {
	ref      fhir.Ref
	metric   string
	vendorID string
	day      string // of waking
	told     bool   // stated by the source as a whole, not made of segments
	status   string
	from, to time.Time
	json     []byte
}

// toldMark tells nights that a source states as a whole from those that are
// made of segments: night/HASH/DAY/hHOUR.
const toldMark = "/h"

// stated are the stored nights whose id of the vendor's has the prefix.
func (r *run) stated(ctx context.Context, of mapping.Segments, prefix string, from,
	to time.Time) (out []known, err error) {
	system := fhir.Canonical + "/identifier/" + r.q.Vendor + "/source"
	err = r.find(ctx, of.System, of.Of, from, to, []byte(prefix), func(f *store.Found, s *stored) bool {
		k := known{ref: f.Resource.Ref(), metric: of.Of, vendorID: s.identifier(system), status: s.Status}
		name, ok := strings.CutPrefix(k.vendorID, prefix)
		if !ok {
			return true
		}
		k.day, _, _ = strings.Cut(name, "/")
		k.told = strings.Contains(name, toldMark)
		if k.from, k.to, ok = s.when(); ok {
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
func (r *run) retract(a *attempt, k *known) {
	a.sb.Writes = append(a.sb.Writes, store.Write{Op: store.Put, Vendor: r.q.Vendor, SkipSame: true,
		Resource: fhir.Resource{Type: k.ref.Type, ID: k.ref.ID, JSON: withStatus(k.json, statusRetracted)}})
	a.metrics = append(a.metrics, k.metric)
	a.listed = append(a.listed, k.ref)
}

// named gives nights that the source states as a whole the identity under
// which the store has them: what overlaps in time is one night, also when it
// begins at another hour now. A night that is made of segments stands.
func (r *run) named(ctx context.Context, obs []observation, a *attempt) ([]observation, error) {
	for _, of := range r.p.Mapper.Segments(r.q.Vendor) {
		isNight := func(o observation) bool { return o.Metric == of.Of }
		if !slices.ContainsFunc(obs, isNight) {
			continue
		}
		var out []observation
		var told []known // of this batch
		for i := range obs {
			if o := &obs[i]; isNight(*o) {
				keep, err := r.tell(ctx, of, o, out, &told, a)
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
func (r *run) tell(ctx context.Context, of mapping.Segments, o *observation, before []observation, told *[]known,
	a *attempt) (keep bool, err error) {
	var s stored
	if err := json.Unmarshal(o.JSON, &s); err != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	vendorID := s.identifier(fhir.Canonical + "/identifier/" + r.q.Vendor + "/source")
	at := strings.Index(vendorID, toldMark)
	from, to, ok := s.when()
	if !ok || at < 0 || strings.Count(vendorID, "/") < 3 {
		return true, nil
	}
	prefix := vendorID[:strings.Index(vendorID, "/")+1]
	prefix += vendorID[len(prefix):][:strings.Index(vendorID[len(prefix):], "/")+1]
	all, err := r.stated(ctx, of, prefix, from, to)
	if err != nil {
		return false, err
	}
	several, err := r.severalSources(ctx, of, o, from, to, a)
	if err != nil || several {
		return !several, err
	}
	overlaps := func(k *known) bool {
		return k.status != statusRetracted && (k.from.Before(to) && from.Before(k.to) || k.from.Equal(from))
	}
	same := -1
	for i := range all {
		switch k := &all[i]; {
		case !overlaps(k):
		case !k.told:
			a.count(o.Metric, Counts{Unchanged: 1})
			return false, nil
		case same < 0:
			same = i
		default: // two parts of a night have become one
			a.replaced = append(a.replaced, *k)
		}
	}
	this := known{ref: fhir.Ref{Type: "Observation", ID: o.ID}, vendorID: vendorID, from: from, to: to}
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
func (r *run) severalSources(ctx context.Context, of mapping.Segments, o *observation, from, to time.Time,
	a *attempt) (bool, error) {
	parts := strings.Split(o.source, "|")
	if len(parts) < 2 || len(parts) > 16 {
		return false, nil
	}
	for _, part := range parts {
		all, err := r.stated(ctx, of, "night/"+sourceHash(part)+"/", from, to)
		if err != nil {
			return false, err
		}
		for i := range all {
			if k := &all[i]; !k.told && k.status != statusRetracted && k.from.Before(to) && from.Before(k.to) {
				a.count(o.Metric, Counts{Unchanged: 1})
				return true, nil
			}
		}
	}
	key := r.nightRoom() + sourceHash(o.source)
	raw, err := r.p.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return false, fhir.Wrap("ingest.tell", err)
	}
	w, err := (&sourceNights{Source: o.source}).write(key)
	if err == nil && !slices.ContainsFunc(a.sb.State, func(s store.StateWrite) bool { return s.Key == key }) {
		a.sb.State = append(a.sb.State, w)
	}
	return false, err
}

// joint are the nights that were stated as a whole of several sources, this one
// among them.
func (r *run) joint(ctx context.Context, of mapping.Segments, source string, from,
	to time.Time) (out []known, err error) {
	var prefixes []string
	var bad error
	err = r.p.Store.List(ctx, r.nightRoom(), func(_ string, raw []byte) bool {
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
			var some []known
			some, err = r.stated(ctx, of, p, from, to)
			out = append(out, slices.DeleteFunc(some, func(k known) bool { return !k.told })...)
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
