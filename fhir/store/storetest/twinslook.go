package storetest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// id is of an Observation that is or was there, or of none.
func (w *twins) id() string {
	if len(w.ids) == 0 || w.one(20, "no id") {
		return w.of("id of nothing", "o1", strings.Repeat("0", 32), strings.Repeat("v", 32))
	}
	return w.ids[w.n(len(w.ids), "id")]
}

// edit is a write of id as a client would do it.
func (w *twins) edit(id string) store.Write {
	at := fmt.Sprintf("2026-01-0%dT08:00:%02d.%dZ", 1+w.n(4, "day"), w.n(60, "s"), w.n(10, "tenth"))
	x := put("Observation", id, observation(w.of("patient", "p1", "p2", "p3"), w.n(3, "code"), at, "")+
		`,"valueQuantity":{"value":`+w.of("value", "62", "62.0", "-1", "1e2")+`}`)
	x.Author = "client"
	switch {
	case w.one(3, "remove"):
		x = remove("Observation", id)
	case w.one(3, "as it is"):
		if r, _, err := w.s[0].Read(context.Background(), fhir.Ref{Type: "Observation", ID: id}, 0); err == nil &&
			!r.Deleted {
			x.Resource.JSON = unstamped(&r)
			x.Vendor, x.SkipSame = "apple", w.one(2, "skip same")
		}
	}
	x.Expect = store.Expect(w.n(4, "expect"))
	x.IfVersion = 1 + uint64(w.n(2, "version"))
	return x
}

// unstamped is the stored form without version facts.
func unstamped(r *fhir.Resource) []byte {
	p := fhir.Prefix(r.Type, r.ID)
	s := strings.TrimPrefix(string(r.JSON), p)
	facts := fmt.Sprintf(`"versionId":"%d","lastUpdated":"%s"`, r.Version,
		r.LastUpdated.UTC().Format(fhir.InstantLayout))
	return []byte(p + strings.TrimPrefix(strings.TrimPrefix(s, facts), ","))
}

// write edits some Observations.
func (w *twins) write() {
	var b store.Batch
	used := map[string]bool{}
	for range 1 + w.n(3, "writes") {
		if id := w.id(); !used[id] {
			used[id] = true
			b.Writes = append(b.Writes, w.edit(id))
		}
	}
	w.commit(&b)
}

// before writes Observations under ids that samples will have, some of which
// come at once.
func (w *twins) before() {
	x := w.run(w.template(), 1+w.n(5, "samples"), w.moment())
	if x.Columns.Len() == 0 {
		return
	}
	ids := idsOf(x)
	e := w.edit(ids[w.n(len(ids), "which")])
	e.Expect = store.Any
	w.commit(&store.Batch{Writes: []store.Write{e}})
	w.take([]store.SeriesWrite{x})
}

// probe keeps samples that are new now, for later.
func (w *twins) probe() {
	fresh, _, at := w.missing([]store.SeriesWrite{w.run(w.template(), 1+w.n(5, "samples"), w.moment())})
	if len(fresh) > 0 {
		w.old = &pending{fresh[0], at}
	}
}

// late commits what was probed a while ago. Where a sample came meanwhile both
// refuse. A store of samples may refuse more: any change of the stream; then it
// probes again.
func (w *twins) late() {
	if w.old == nil {
		return
	}
	old := w.old
	w.old = nil
	fresh, _, at := w.missing([]store.SeriesWrite{old.w})
	there := len(fresh) == 0 || fresh[0].Columns.Len() < old.w.Columns.Len()
	b := store.Batch{Series: []store.SeriesWrite{old.w}, Probed: old.at}
	if there {
		for i, s := range w.s {
			if _, err := s.Commit(context.Background(), &b); fhir.KindOf(err) != fhir.Conflict {
				w.rt.Fatalf("store %d: samples that came meanwhile: %v", i, err)
			}
		}
		b.Series = fresh
	}
	if b.Probed = at; len(b.Series) > 0 {
		w.commit(&b)
	}
}

func (w *twins) compact() {
	if err := w.s[1].Compact(context.Background()); err != nil {
		w.rt.Fatal(err)
	}
}

// again restarts or kills both.
func (w *twins) again() {
	kill := w.d[1].Crash != nil && w.one(2, "kill")
	for i := range w.s {
		w.stop[i]()
		if kill {
			w.s[i] = w.d[i].Crash(w.t, w.s[i])
		} else {
			w.s[i] = w.d[i].Reopen(w.t, w.s[i])
		}
		w.watch(i)
	}
	if w.s[0].LastSeq() != w.s[1].LastSeq() {
		w.rt.Fatalf("T is %d and %d", w.s[0].LastSeq(), w.s[1].LastSeq())
	}
}

// at is a commit to look at, mostly the latest.
func (w *twins) at() store.Seq {
	if len(w.pins) == 0 || !w.one(2, "earlier") {
		return 0
	}
	return w.pins[w.n(len(w.pins), "at")]
}

func (w *twins) read() {
	ctx := context.Background()
	at := w.at()
	for range 3 {
		ref := fhir.Ref{Type: "Observation", ID: w.id()}
		before, version := uint64(w.n(4, "before")), uint64(1+w.n(3, "version"))
		var out [2]string
		for i, s := range w.s {
			say := func(r fhir.Resource, f *access.Facts) bool {
				out[i] += fmt.Sprintf("v%d %v %v %s %s\n", r.Version, r.Deleted, r.LastUpdated, tokens(f), r.JSON)
				return true
			}
			tell := func(r fhir.Resource, f *access.Facts, err error) {
				if err != nil {
					out[i] += fmt.Sprintf("kind %d\n", fhir.KindOf(err))
				} else {
					say(r, f)
				}
			}
			tell(s.Read(ctx, ref, at))
			tell(s.ReadVersion(ctx, ref, version))
			if err := s.History(ctx, ref, at, before, say); err != nil {
				out[i] += fmt.Sprintf("kind %d\n", fhir.KindOf(err))
			}
			hs, err := s.Heads(ctx, []fhir.Ref{ref})
			out[i] += fmt.Sprint(hs, err)
		}
		w.same(fmt.Sprintf("%s at %d, before %d, version %d", ref, at, before, version), out[0], out[1])
	}
}

func foundText(f *store.Found) string {
	return fmt.Sprintf("%q v%d %v %v %s %s", f.Pos, f.Resource.Version, f.Resource.LastUpdated, f.Resource.Deleted,
		tokens(f.Facts), f.Resource.JSON)
}

// list calls a walk and writes down what it gives, and how it ends. In its
// midst it lets during happen.
func list(walk func(func(*store.Found) bool) error, during func()) (out []string, pos []string) {
	err := walk(func(f *store.Found) bool {
		if out, pos = append(out, foundText(f)), append(pos, strings.Clone(f.Pos)); len(out) == 2 && during != nil {
			during()
		}
		return true
	})
	if err != nil {
		out = append(out, fmt.Sprintf("kind %d", fhir.KindOf(err)))
	}
	return out, pos
}

// during is what may happen while the second store is read, at a commit that
// is named: blocks are rewritten, samples leave them and others come.
func (w *twins) during(i int) func() {
	if i == 0 || !w.one(4, "during") {
		return nil
	}
	return func() {
		switch w.n(3, "meanwhile") {
		case 0:
			w.append()
		case 1:
			w.write()
		}
		w.compact()
	}
}

// consents lets p1 and vendor apple through, and what it wrote itself.
type consents struct{ patient, vendor, category string }

func (c consents) Permits(_ string, f *access.Facts) bool {
	return (c.patient == "" || f.Patient == c.patient) && (c.vendor == "" || f.Vendor == c.vendor) &&
		(c.category == "" || slices.Contains(f.Categories, c.category))
}

// filter is a random grant.
func (w *twins) filter() access.Filter {
	if w.one(2, "all") {
		return all
	}
	g := access.Grant{Recipient: "client",
		Consents: consents{w.of("patient", "", "p1", "p2"), w.of("vendor", "", "apple"),
			w.of("category", "", "vital-signs", "activity")}}
	for range 1 + w.n(2, "rules") {
		r := access.Rule{Type: "Observation", May: access.Search | access.Read}
		for w.one(2, "granular") {
			p := w.of("scope parameter", "code", "category", "status", "identifier", "_id")
			tok := map[string][]access.Token{"code": {{System: sys, Code: "c1"}, {System: "urn:other", Code: "c2"}},
				"category": {{Code: "activity"}},
				"status": {{System: "http://hl7.org/fhir/observation-status", Code: "final"},
					{Code: "preliminary"}}, "identifier": {{Code: w.id()}, {Code: "heart p1"}},
				"_id": {{Code: w.id()}}}[p]
			r.Params = append(r.Params, access.Param{Name: p, Any: tok})
		}
		g.Rules = append(g.Rules, r)
	}
	return g.Filter(access.Search)
}

// find asks one question of both.
func (w *twins) find() {
	ctx := context.Background()
	raw := w.question()
	pairs, err := search.Pairs(raw)
	if err != nil {
		w.rt.Fatal(raw, err)
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{})
	if err != nil {
		w.rt.Skip(raw, err) // the parameter does not take such a value
	}
	f := store.Find{Query: q, Filter: w.filter(), At: w.at(), Limit: []int{0, 0, 1, 7, 1000}[w.n(5, "limit")]}
	if f.At == 0 && w.one(2, "pinned") {
		f.At = w.s[0].LastSeq()
	}
	what := fmt.Sprintf("%s at %d, limit %d", raw, f.At, f.Limit)
	ask := func(f store.Find) (pos []string) {
		var got [2][]string
		for i, s := range w.s {
			got[i], pos = list(func(fn func(*store.Found) bool) error { return s.Find(ctx, f, fn) }, w.during(i))
		}
		w.same(what, strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
		return pos
	}
	if pos := ask(f); len(pos) > 0 {
		f.After = pos[w.n(len(pos), "after")]
		what += " after"
		ask(f)
		f.After = ""
	}
	var n [2]string
	for i, s := range w.s {
		c, err := s.Count(ctx, f)
		n[i] = fmt.Sprint(c, fhir.KindOf(err))
	}
	w.same(what+", count", n[0], n[1])
	if col, ok := w.s[1].(store.Columnar); ok && q.Patient != "" {
		f.Limit = 0
		w.columns(col, f, what)
	}
}

// columns compares the answers out of columns with those of documents.
func (w *twins) columns(col store.Columnar, f store.Find, what string) {
	ctx := context.Background()
	f.Query.Sort = []search.SortKey{{Param: "date", Desc: true}}
	var newest []string
	have := map[string]bool{}
	err := w.s[0].Find(ctx, f, func(x *store.Found) bool {
		newest = append(newest, strings.Clone(x.Resource.ID))
		have[newest[len(newest)-1]] = true
		return true
	})
	if err != nil {
		return // too costly
	}
	got := map[string]int{}
	doc := func(x *store.Found) bool { got[strings.Clone(x.Resource.ID)]++; return true }
	err = col.FindRuns(ctx, f, doc, func(r *store.Run) bool {
		cols, err := r.Load()
		if err != nil {
			w.rt.Fatalf("%s: %v", what, err)
		}
		part := cols.Slice(r.From, r.To)
		if r.Whole != nil && (r.From != 0 || r.To != cols.Len() ||
			!reflect.DeepEqual(*r.Whole, series.Summarise(cols))) {
			w.rt.Fatalf("%s: a run is said to be a whole block, which it is not", what)
		}
		for _, id := range idsOf(store.SeriesWrite{Template: r.Template, Columns: &part}) {
			got[id]++
		}
		return true
	})
	if err != nil || len(got) != len(have) {
		w.rt.Fatalf("%s: runs have %d of %d matches: %v", what, len(got), len(have), err)
	}
	for id, n := range got {
		if n != 1 || !have[id] {
			w.rt.Fatalf("%s: runs have %s %d times; a match: %v", what, id, n, have[id])
		}
	}
	n := 1 + w.n(5, "newest")
	clear(got)
	if err := col.FindNewest(ctx, f, n, doc); err != nil {
		w.rt.Fatal(err)
	}
	for i, id := range newest {
		if i < n && got[id] != 1 {
			w.rt.Fatalf("%s: the newest %d have not %s, which is number %d", what, n, id, i)
		}
	}
	for id := range got {
		if !have[id] {
			w.rt.Fatalf("%s: the newest %d have %s, which is no match", what, n, id)
		}
	}
}

func (w *twins) scan() {
	r := store.ScanRange{Types: []string{"Observation", "Patient"}, Patient: w.of("patient", "", "p1", "p2"),
		At: w.at(), Filter: w.filter(), Deleted: w.one(2, "deleted")}
	if r.At == 0 {
		r.At = w.s[0].LastSeq()
	}
	if w.one(2, "since") {
		r.Since = w.now.Add(-time.Duration(w.n(20, "since when")) * 10 * time.Millisecond)
	}
	var got [2][]string
	for i, s := range w.s {
		got[i], _ = list(func(fn func(*store.Found) bool) error { return s.Scan(context.Background(), r, fn) },
			w.during(i))
	}
	w.same(fmt.Sprintf("scan of %q at %d since %v", r.Patient, r.At, r.Since), strings.Join(got[0], "\n"),
		strings.Join(got[1], "\n"))
}

func (w *twins) changes() {
	from := w.at()
	var got [2][]string
	for i, s := range w.s {
		if err := s.Changes(context.Background(), from,
			func(c *store.Change) bool { got[i] = append(got[i], change(c)); return true }); err != nil {
			w.rt.Fatal(err)
		}
	}
	w.same(fmt.Sprintf("changes from %d", from), strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
}

// question is a random search, with values that Observations have.
func (w *twins) question() string {
	params := search.Params("Observation")
	var vs *search.Values
	if r, _, err := w.s[0].Read(context.Background(), fhir.Ref{Type: "Observation", ID: w.id()}, 0); err == nil &&
		!r.Deleted {
		if vs, err = search.Extract("Observation", r.JSON); err != nil {
			w.rt.Fatalf("%v: %s", err, r.JSON)
		}
	}
	var q []string
	if w.one(2, "of a patient") {
		q = append(q, w.of("patient", "patient=p1", "patient=p2", "subject=Patient/p1", "patient=p1,p2"))
	}
	for range w.n(4, "clauses") {
		p := params[w.n(len(params), "parameter")]
		if w.one(2, "usual") {
			p, _ = search.Lookup("Observation",
				w.of("usual parameter", "code", "date", "value-quantity", "_lastUpdated", "_id", "identifier",
					"category", "device"))
		}
		var have []search.Value
		if vs != nil {
			have = vs.ByParam[p.Code]
		}
		if p.Type == search.TypeComposite || len(have) == 0 || w.one(10, "missing") {
			q = append(q, p.Code+":missing="+w.of("missing", "true", "false"))
			continue
		}
		name := p.Code
		if p.Type == search.TypeToken && w.one(6, "not") {
			name += ":not"
		}
		var list []string
		for len(list) == 0 || w.one(4, "or") {
			list = append(list, w.value(p.Type, &have[w.n(len(have), "value")]))
		}
		q = append(q, name+"="+strings.Join(list, ","))
	}
	var keys []string
	for range w.n(3, "sort keys") {
		k := w.of("sort", "date", "date", "_lastUpdated", "_id", "value-quantity",
			params[w.n(len(params), "sort parameter")].Code)
		keys = append(keys, w.of("direction", "", "-")+k)
	}
	if len(keys) > 0 {
		q = append(q, "_sort="+strings.Join(keys, ","))
	}
	return strings.Join(q, "&")
}

// value is v, or beside it, as a client writes it.
func (w *twins) value(k search.ParamType, v *search.Value) string {
	prefix := ""
	if k == search.TypeDate || k == search.TypeQuantity {
		prefix = w.of("prefix", "", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
	}
	switch k {
	case search.TypeToken:
		return w.of("token", v.System+"%7C"+v.Code, v.Code, v.System+"%7C")
	case search.TypeDate:
		ms := w.of("date", strconv.FormatInt(v.Lo, 10), strconv.FormatInt(v.Hi, 10))
		n, err := strconv.ParseInt(ms, 10, 64)
		if err != nil || n > series.MaxStart/1000 {
			n = series.MaxStart / 1000
		}
		at := time.UnixMilli(max(n, series.MinStart/1000) + int64(w.n(3, "beside")-1)*1000).UTC()
		return prefix + at.Format(w.of("precision", "2006", "2006-01", "2006-01-02", "2006-01-02T15:04Z",
			"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z"))
	case search.TypeQuantity:
		n := strconv.FormatFloat(v.Num, 'f', -1, 64)
		return prefix + w.of("quantity", n, n+"%7C%7C"+v.Code, n+"%7C"+v.System+"%7C"+v.Code, "62", "62.0", "0")
	case search.TypeReference:
		if v.RefID == "" {
			return v.Code
		}
		return v.RefType + "/" + v.RefID
	}
	return v.Code
}
