package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const sys = "urn:codes"

// observation returns an Observation with code c<code>, and code c<code+1> of
// another system.
func observation(patient string, code int, at, until string) string {
	s := fmt.Sprintf(`"status":"final","code":{"coding":[{"system":"%s","code":"c%d"},{"system":"urn:other","code":"c%d"}]},"subject":{"reference":"Patient/%s"},"device":{"reference":"Device/d%d"}`,
		sys, code, code+1, patient, code)
	switch {
	case until == "open":
		return s + `,"effectivePeriod":{"start":"` + at + `"}`
	case until != "":
		return s + `,"effectivePeriod":{"start":"` + at + `","end":"` + until + `"}`
	case at != "":
		return s + `,"effectiveDateTime":"` + at + `"`
	}
	return s
}

func parse(t interface{ Fatal(...any) }, typ, raw string) *search.Query {
	v, err := search.Pairs(raw)
	if err != nil {
		t.Fatal(err)
	}
	q, err := search.Parse(typ, v, search.ParseOptions{})
	if err != nil {
		t.Fatal(raw, err)
	}
	return q
}

type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

func found(t fataler, s store.Store, f store.Find) []string {
	t.Helper()
	var ids []string
	if err := s.Find(context.Background(), f,
		func(x *store.Found) bool { ids = append(ids, x.Resource.ID); return true }); err != nil {
		t.Fatal(err)
	}
	return ids
}

// paged returns the matches by following positions.
func paged(t fataler, s store.Store, f store.Find, n int) []string {
	t.Helper()
	var ids []string
	f.Limit = n
	for {
		got := 0
		err := s.Find(context.Background(), f, func(x *store.Found) bool {
			ids = append(ids, x.Resource.ID)
			f.After = x.Pos
			got++
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		if got == 0 {
			return ids
		}
	}
}

// world is the naive model: the current resources after each commit.
type world map[store.Seq]map[string]*search.Values

var queries = []struct{ typ, raw string }{
	{"Observation", ""}, {"Observation", "patient=p1"}, {"Observation", "patient=p1&code=c1"},
	{"Observation", "patient=p1&code=" + sys + "|c1"}, {"Observation", "patient=p1&code=urn:other|c1,c3"},
	{"Observation", "patient=p1&code=c1&_sort=-date"}, {"Observation", "patient=p1&code=c1,c2&_sort=date"},
	{"Observation", "patient=p1&_sort=-date"}, {"Observation", "patient=p2&_sort=date&date=ge2026-01-02"},
	{"Observation", "patient=p1&code=c1&date=lt2026-01-03"},
	{"Observation", "patient=p1&code=c1,c2&date=gt2026-01-02T00:00:00Z&_sort=-date"},
	{"Observation", "patient=p1&date=2026-01-02&_sort=-date"},
	{"Observation", "patient=p1&date=ge2026-01-02&date=le2026-01-03&_sort=date"},
	{"Observation", "patient=p1&code=c1&date=sa2026-01-01,eb2026-01-03"},
	{"Observation", "patient=p1&date=ne2026-01-02&code=c2"},
	{"Observation", "patient=p1&date=gt2026-01-06"}, {"Observation", "patient=p1&date=ge2026-01-07&_sort=date"},
	{"Observation", "patient=p1&code=c1&date=ap2026-01-08"},
	{"Observation", "device=Device/d1"}, {"Observation", "device=Device/d1,Device/d2&patient=p1"},
	{"Observation", "device=Device/d1,Device/d0"},
	{"Observation", "code=c2"}, {"Observation", "code=c0,c2,c3"}, {"Observation", "code=urn:other|c1"},
	{"Observation", "code=urn:other|c1,urn:other|c3&date=ge2026-01-02"},
	{"Observation", "code=c1,c2&_sort=-date"}, {"Observation", "code=nothing"}, {"Observation", "code=c3&code=c2"},
	{"Observation", "_id=o1,o3,o5"}, {"Observation", "_id=o1&patient=p1"},
	{"Observation", "_sort=-_lastUpdated"}, {"Observation", "_sort=code,-_id"},
	{"Observation", "code:not=c1&patient=p1"},
	{"Observation", "date:missing=true&patient=p1"}, {"Observation", "_sort=date"}, {"Patient", "_id=p1"},
	{"Patient", ""},
	{"Group", "member=Patient/p1"}, {"Group", "member=Patient/p1,Patient/p2"}, {"Provenance", "patient=p2"},
	{"Provenance", "_sort=_id"},
	{"AuditEvent", "patient=p1"}, {"AuditEvent", "patient=p1&_sort=-date"}, {"AuditEvent", "patient=p2&_sort=date"},
	{"AuditEvent", "patient=p2&_sort=-date&date=ge2026-01-02"},
	{"AuditEvent", "entity=Patient/p1"}, {"AuditEvent", "entity=Patient/p1,Observation/o1&_sort=-date"},
	{"AuditEvent", "entity=p2"}, {"AuditEvent", "entity:Patient=p2&_sort=date"},
	{"AuditEvent", "entity=Patient/p1&patient=p2"}, {"AuditEvent", "agent=Patient/p1"},
	{"AuditEvent", "entity=Patient/p1&entity=Patient/p2"}, {"AuditEvent", "entity:missing=true"},
	{"AuditEvent", "patient=p1,p2&_sort=-date"}, {"AuditEvent", "_sort=-date"},
	{"AuditEvent", "patient=p1&patient=p2&_sort=date"}, {"Provenance", "patient=p2&_sort=-recorded"},
	{"Observation", "patient=p1&value-quantity=ge62&_sort=-value-quantity"},
	{"Observation", "value-quantity=62,0&_sort=date"}, {"Observation", "component-value-quantity=lt62"},
	{"Observation", "status=final&_sort=-date"}, {"Observation", "status:not=final&code=c2"},
	{"Observation", "category=activity"}, {"Observation", "identifier=urn:s|heart p1&_sort=-date"},
	{"Observation", "patient=p1&code=c1&date=lt1970-01-01&_sort=-date"}, {"Observation", "patient:missing=true"},
	{"Observation", "patient=p2&code=c2&date=ge2026-01-02T00:00:00Z&_sort=date"},
	{"Observation", "_sort=_lastUpdated"}, {"Observation", "code=c1&_sort=-_lastUpdated"},
	{"Patient", "_sort=-_lastUpdated"}, {"AuditEvent", "_sort=-_lastUpdated"},
	{"Observation", "patient=p1&_sort=_lastUpdated"}, {"Observation", "patient=p2&_sort=-_lastUpdated&code=c1"},
	{"Observation", "_sort=_lastUpdated,_id"}, {"Observation", "_sort=-_lastUpdated,-_id"},
	{"Observation", "_sort=-_lastUpdated,date"}, {"AuditEvent", "_sort=_lastUpdated"},
	{"AuditEvent", "patient=p1&_sort=-_lastUpdated"}, {"Group", "_sort=_lastUpdated"},
	{"Provenance", "_sort=-_lastUpdated"},
	{"Provenance", "patient=p1&_sort=_lastUpdated"}, {"Observation", "device=Device/d1&_sort=-_lastUpdated"},
	{"Observation", "code=c2&_sort=_lastUpdated"}, {"Observation", "_id=o1,o2,o3&_sort=-_lastUpdated"},
	{"Observation", "_sort=-date"}, {"Observation", "code=c0&_sort=date"},
	{"Observation", "code=c1,c2,c3&_sort=date&date=ge2026-01-02&date=lt2026-01-04"},
	{"Observation", "status=final&date=ge2026-01-02T12:00:00Z&_sort=-date"},
	{"Observation", "date=sa2026-01-03&_sort=date"}, {"Observation", "device=Device/d1,Device/d2&_sort=-date"},
	{"AuditEvent", "_sort=date"}, {"AuditEvent", "date=ge2026-01-02&_sort=-date"}, {"Provenance", "_sort=-recorded"},
	{"Observation", "_sort=-_id"}, {"Observation", "_sort=_id"}, {"Observation", "patient=p1&_sort=-_id"},
	{"Observation", "_sort=-value-quantity,date,_id"}, {"Observation", "_sort=status,-date"},
	{"AuditEvent", "_sort=agent,-date"},
	{"Observation", "date=ge2026-01-02&date=le2026-01-03"}, {"AuditEvent", "date=lt2026-01-03"},
}

// bounded lists searches whose bounds on lastUpdated are drawn from the commits.
var bounded = []struct{ typ, raw string }{
	{"Observation", ""}, {"Observation", "patient=p1&"}, {"Observation", "code=c1&"},
	{"Observation", "patient=p2&code=c2&"}, {"AuditEvent", ""}, {"Group", ""}, {"Patient", ""},
	{"Observation", "_sort=_lastUpdated&"}, {"Observation", "_sort=-_lastUpdated&"},
	{"Observation", "patient=p1&_sort=-_lastUpdated&"}, {"AuditEvent", "_sort=-_lastUpdated&"},
	{"Observation", "patient=p1&_sort=-date&"}, {"Observation", "_sort=date&"}, {"Observation", "device=Device/d1&"},
}

// polls searches for resources updated before and after a commit.
func (w world) polls(rt *rapid.T, s store.Store, at store.Seq) {
	var when []int64
	for _, v := range w[at] {
		when = append(when, v.ByParam["_lastUpdated"][0].Lo)
	}
	if len(when) == 0 {
		return
	}
	slices.Sort(when)
	for _, q := range bounded {
		ms := rapid.SampledFrom(when).Draw(rt, "when") + int64(rapid.IntRange(-1, 1).Draw(rt, "beside"))
		prefix := rapid.SampledFrom([]string{"gt", "ge", "lt", "le", "eq", "ne", "sa", "eb"}).Draw(rt, "prefix")
		raw := q.raw + "_lastUpdated=" + prefix + time.UnixMilli(ms).UTC().Format(fhir.InstantLayout)
		if rapid.Bool().Draw(rt, "window") {
			raw += "&_lastUpdated=ge" + time.UnixMilli(rapid.SampledFrom(when).Draw(rt,
				"from")).UTC().Format(fhir.InstantLayout)
		}
		w.check(rt, s, q.typ, raw, at, rapid.IntRange(1, 4).Draw(rt, "page"))
	}
}

func testFind(t *testing.T, d Driver) {
	rapid.Check(t, func(rt *rapid.T) {
		s := d.Open(t, nil)
		defer func() { shut(t, s) }()
		w, last := write(rt, s)
		s = d.Reopen(t, s)
		ts := make([]store.Seq, 0, len(w))
		for at := range w {
			ts = append(ts, at)
		}
		slices.Sort(ts)
		for _, q := range queries {
			at := rapid.SampledFrom(ts).Draw(rt, "at")
			w.check(rt, s, q.typ, q.raw, at, rapid.IntRange(1, 4).Draw(rt, "page"))
			w.check(rt, s, q.typ, q.raw, last, 2)
		}
		w.polls(rt, s, last)
		w.polls(rt, s, rapid.SampledFrom(ts).Draw(rt, "polled at"))
		w.scans(rt, s, last)
		sound(rt, s)
	})
}

// write commits random batches and updates the model.
func write(rt *rapid.T, s store.Store) (world, store.Seq) {
	w := world{}
	cur := map[string]*search.Values{}
	var samples []string
	last := store.Seq(0)
	for range rapid.IntRange(4, 25).Draw(rt, "commits") {
		ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 15), 1, 4, rapid.ID[int]).Draw(rt, "ids")
		var b store.Batch
		for _, i := range ids {
			b.Writes = append(b.Writes, anyWrite(rt, i))
		}
		if len(samples) > 0 && rapid.IntRange(0, 2).Draw(rt, "edit") == 0 {
			id := rapid.SampledFrom(samples).Draw(rt, "sample")
			if rapid.Bool().Draw(rt, "remove") {
				b.Writes = append(b.Writes, remove("Observation", id))
			} else {
				b.Writes = append(b.Writes, put("Observation", id, observation("p2", 1, "2026-01-03T07:00:00Z", "")))
			}
		}
		if rapid.IntRange(0, 2).Draw(rt, "samples") == 0 {
			anySamples(rt, s, &b)
		}
		r, err := s.Commit(context.Background(), &b)
		if err != nil {
			rt.Fatal(err)
		}
		for _, x := range b.Series {
			for i, id := range idsOf(x) {
				res, _, err := s.Read(context.Background(), fhir.Ref{Type: "Observation", ID: id}, 0)
				if err != nil {
					rt.Fatal(err)
				}
				v, err := search.Extract("Observation", stamped(x, i, r.Seq, res.LastUpdated))
				if err != nil {
					rt.Fatal(err)
				}
				cur["Observation/"+id] = v
				samples = append(samples, id)
			}
		}
		for i, o := range r.Outcomes {
			key := o.Ref.String()
			if o.Deleted {
				delete(cur, key)
				continue
			}
			if o.Unchanged {
				continue
			}
			v, err := search.Extract(b.Writes[i].Resource.Type, o.JSON)
			if err != nil {
				rt.Fatal(err)
			}
			cur[key] = v
		}
		if r.Seq == 0 {
			continue
		}
		last = r.Seq
		snap := map[string]*search.Values{}
		for k, v := range cur {
			snap[k] = v
		}
		w[r.Seq] = snap
	}
	if last == 0 {
		rt.Skip("nothing was written")
	}
	return w, last
}

// anySamples adds new samples of a stream to b.
func anySamples(rt *rapid.T, s store.Store, b *store.Batch) {
	t := rapid.SampledFrom(streams()).Draw(rt, "template")
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 2))
	all := samplesOf(rnd, t, rapid.IntRange(1, 5).Draw(rt, "n"), moments[rapid.IntRange(0, 5).Draw(rt, "moment")])
	if all.Columns.Len() == 0 {
		return
	}
	at, found := probe(rt, s, all)
	fresh := store.SeriesWrite{Template: t, Columns: &series.Columns{}}
	for i, p := range found[0] {
		if x := all.Columns.At(i); p == store.Missing {
			fresh.Columns.Append(&x, t.Values)
		}
	}
	if b.Probed = at; fresh.Columns.Len() > 0 {
		b.Series = []store.SeriesWrite{fresh}
	}
}

func anyWrite(rt *rapid.T, i int) store.Write {
	p := rapid.SampledFrom([]string{"p1", "p2", "p3"}).Draw(rt, "patient")
	typ, id, rest := "Observation", fmt.Sprintf("o%d", i), ""
	switch i {
	case 9:
		typ, id, rest = "Group", "g1", `"type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}},{"entity":{"reference":"Patient/`+p+`"}}]`
	case 10:
		typ, id, rest = "Provenance", "v1",
			`"target":[{"reference":"Patient/p1"},{"reference":"Patient/`+p+`"}],"recorded":"2026-01-01T00:00:00Z"`
	case 11:
		typ, id = "Patient", p
	case 12, 13, 14, 15:
		typ, id = "AuditEvent", fmt.Sprintf("a%d", i)
		other := rapid.SampledFrom([]string{"p1", "p2", "p3"}).Draw(rt, "second patient")
		rest = fmt.Sprintf(`"recorded":"2026-01-%02dT08:00:00Z","agent":[{"who":{"reference":"%s"}}],"entity":[{"what":{"reference":"Patient/%s"}},{"what":{"reference":"%s"}}]`,
			rapid.IntRange(1, 4).Draw(rt, "day"),
			rapid.SampledFrom([]string{"Patient/p1", "Patient/p2", "Device/d1"}).Draw(rt, "agent"), p,
			rapid.SampledFrom([]string{"Patient/" + other, "Observation/o1"}).Draw(rt, "what"))
	default:
		day := rapid.IntRange(1, 4).Draw(rt, "day")
		at := fmt.Sprintf("2026-01-%02dT%02d:00:00Z", day, rapid.IntRange(0, 23).Draw(rt, "hour"))
		until := ""
		switch rapid.IntRange(0, 5).Draw(rt, "time") {
		case 0:
			at = ""
		case 1:
			until = fmt.Sprintf("2026-01-%02dT23:30:00Z", day+rapid.IntRange(0, 4).Draw(rt, "days"))
		case 2:
			until = "open"
		case 3:
			at = at[:10]
		}
		rest = observation(p, rapid.IntRange(0, 2).Draw(rt, "code"), at, until)
	}
	if rapid.IntRange(0, 4).Draw(rt, "op") == 0 {
		return remove(typ, id)
	}
	w := put(typ, id, rest)
	w.SkipSame = rapid.Bool().Draw(rt, "same")
	return w
}

// check compares one search with the model.
func (w world) check(rt *rapid.T, s store.Store, typ, raw string, at store.Seq, page int) {
	q := parse(rt, typ, raw)
	var want []string
	for key, v := range w[at] {
		ref, _ := fhir.ParseRef(key)
		if ref.Type == typ && search.Match(q, v) {
			want = append(want, ref.ID)
		}
	}
	sort.Strings(want)
	f := store.Find{Query: q, Filter: all, At: at}
	got := found(rt, s, f)
	if p := paged(rt, s, f, page); !slices.Equal(p, got) {
		rt.Fatalf("%s?%s at %d: pages of %d give %v, one scan %v", typ, raw, at, page, p, got)
	}
	if n, err := s.Count(context.Background(), f); err != nil || n != uint64(len(got)) {
		rt.Fatalf("%s?%s at %d: count %d, found %d: %v", typ, raw, at, n, len(got), err)
	}
	for i := 1; i < len(got); i++ {
		c := search.CompareValues(typ, q.Sort, w[at][typ+"/"+got[i-1]], w[at][typ+"/"+got[i]])
		// Equal matches are ordered by id, unless the date has its own order.
		ties := len(q.Sort) > 1 || len(q.Sort) == 1 && q.Sort[0].Param != "date" && q.Sort[0].Param != "recorded"
		if c > 0 || c == 0 && ties && got[i-1] >= got[i] {
			rt.Fatalf("%s?%s at %d: %v is not in order", typ, raw, at, got)
		}
	}
	sort.Strings(got)
	if !slices.Equal(got, want) {
		rt.Fatalf("%s?%s at %d: got %v, want %v", typ, raw, at, got, want)
	}
}

// scans compares scans of whole types with the model.
func (w world) scans(rt *rapid.T, s store.Store, at store.Seq) {
	types := []string{"Provenance", "Observation", "Patient"}
	for _, patient := range []string{"", "p1", "p3"} {
		var want, got []string
		for key, v := range w[at] {
			ref, _ := fhir.ParseRef(key)
			in := patient == "" || v.Patient == patient
			for _, p := range v.ByParam["patient"] {
				in = in || p.RefID == patient
			}
			if slices.Contains(types, ref.Type) && in {
				want = append(want, key)
			}
		}
		err := s.Scan(context.Background(), store.ScanRange{Types: types, Patient: patient, At: at, Filter: all},
			func(f *store.Found) bool {
				got = append(got, f.Resource.Type+"/"+f.Resource.ID)
				return true
			})
		if err != nil {
			rt.Fatal(err)
		}
		sort.Strings(want)
		sort.Strings(got)
		if !slices.Equal(got, want) {
			rt.Fatalf("scan of patient %q: got %v, want %v", patient, got, want)
		}
		for _, typ := range types {
			scanParts(rt, s, store.ScanRange{Types: []string{typ}, Patient: patient, At: at, Filter: all})
		}
	}
	w.since(rt, s, types, at)
}

// scanParts checks that a scan in two parts, up to any position and after it, gives what
// a whole scan gives, also with deletion markers.
func scanParts(rt *rapid.T, s store.Store, r store.ScanRange) {
	r.Deleted = rapid.Bool().Draw(rt, "deleted")
	list := func(r store.ScanRange) (refs, positions []string) {
		err := s.Scan(context.Background(), r, func(f *store.Found) bool {
			refs = append(refs, fmt.Sprint(f.Resource.Ref(), f.Resource.Version))
			positions = append(positions, f.Pos)
			return true
		})
		if err != nil {
			rt.Fatal(err)
		}
		return refs, positions
	}
	r.Positions = true
	whole, positions := list(r)
	if len(whole) == 0 {
		return
	}
	i := rapid.IntRange(0, len(whole)-1).Draw(rt, "cut")
	first, second := r, r
	first.Positions, second.Positions = false, false
	first.To, second.After = positions[i], positions[i]
	head, _ := list(first)
	tail, _ := list(second)
	if !slices.Equal(append(head, tail...), whole) || len(head) != i+1 {
		rt.Fatalf("scan of %s of %q cut at %d: %v and %v, want %v", r.Types, r.Patient, i, head, tail, whole)
	}
}

// since compares an incremental scan with the change log: it must return every
// resource that changed after an earlier commit, in its current version, deleted or
// not.
func (w world) since(rt *rapid.T, s store.Store, types []string, at store.Seq) {
	from := at / 2
	want := map[string]uint64{}
	var start time.Time
	err := s.Changes(context.Background(), 0, func(c *store.Change) bool {
		r, _, err := s.ReadVersion(context.Background(), c.Ref, c.Version)
		if err != nil {
			rt.Fatal(err)
		}
		if c.Seq <= from {
			start = r.LastUpdated
		} else if slices.Contains(types, c.Ref.Type) {
			want[c.Ref.String()] = c.Version
		}
		return true
	})
	if err != nil {
		rt.Fatal(err)
	}
	n := 0
	err = s.Scan(context.Background(), store.ScanRange{Types: types, Since: start, Deleted: true, At: at,
		Filter: all}, func(f *store.Found) bool {
		n++
		if v := want[f.Resource.Type+"/"+f.Resource.ID]; v != f.Resource.Version {
			rt.Fatalf("scan since T %d gives version %d, the change log %d", from, f.Resource.Version, v)
		}
		return true
	})
	if err != nil || n != len(want) {
		rt.Fatalf("scan since T %d gave %d resources of %d: %v", from, n, len(want), err)
	}
}
