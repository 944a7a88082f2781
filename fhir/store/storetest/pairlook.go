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

// id returns the id of an Observation that exists or existed, or another id.
func (pr *pair) id() string {
	if len(pr.ids) == 0 || pr.one(20, "no id") {
		return pr.of("id of nothing", "o1", strings.Repeat("0", 32), strings.Repeat("v", 32))
	}
	return pr.ids[pr.n(len(pr.ids), "id")]
}

// edit returns a write of id as a client would make it.
func (pr *pair) edit(id string) store.Write {
	at := fmt.Sprintf("2026-01-0%dT08:00:%02d.%dZ", 1+pr.n(4, "day"), pr.n(60, "s"), pr.n(10, "tenth"))
	x := put("Observation", id, observation(pr.of("patient", "p1", "p2", "p3"), pr.n(3, "code"), at, "")+
		`,"valueQuantity":{"value":`+pr.of("value", "62", "62.0", "-1", "1e2")+`}`)
	x.Author = "client"
	switch {
	case pr.one(3, "remove"):
		x = remove("Observation", id)
	case pr.one(3, "as it is"):
		if r, _, err := pr.stores[0].Read(context.Background(), fhir.Ref{Type: "Observation", ID: id}, 0); err == nil &&
			!r.Deleted {
			x.Resource.JSON = unstamped(&r)
			x.Vendor, x.SkipSame = "apple", pr.one(2, "skip same")
		}
	}
	x.Expect = store.Expect(pr.n(4, "expect"))
	x.IfVersion = 1 + uint64(pr.n(2, "version"))
	return x
}

// unstamped returns the stored bytes without version facts.
func unstamped(r *fhir.Resource) []byte {
	p := fhir.Prefix(r.Type, r.ID)
	s := strings.TrimPrefix(string(r.JSON), p)
	facts := fmt.Sprintf(`"versionId":"%d","lastUpdated":"%s"`, r.Version,
		r.LastUpdated.UTC().Format(fhir.InstantLayout))
	return []byte(p + strings.TrimPrefix(strings.TrimPrefix(s, facts), ","))
}

// write edits some Observations.
func (pr *pair) write() {
	var b store.Batch
	used := map[string]bool{}
	for range 1 + pr.n(3, "writes") {
		if id := pr.id(); !used[id] {
			used[id] = true
			b.Writes = append(b.Writes, pr.edit(id))
		}
	}
	pr.commit(&b)
}

// before writes Observations with ids that samples will have, and possibly some of
// these samples.
func (pr *pair) before() {
	x := pr.run(pr.template(), 1+pr.n(5, "samples"), pr.moment())
	if x.Columns.Len() == 0 {
		return
	}
	ids := idsOf(x)
	e := pr.edit(ids[pr.n(len(ids), "which")])
	e.Expect = store.Any
	pr.commit(&store.Batch{Writes: []store.Write{e}})
	pr.take([]store.SeriesWrite{x})
}

// probe probes new samples, to commit them later.
func (pr *pair) probe() {
	fresh, _, at := pr.missing([]store.SeriesWrite{pr.run(pr.template(), 1+pr.n(5, "samples"), pr.moment())})
	if len(fresh) > 0 {
		pr.old = &pending{fresh[0], at}
	}
}

// late commits a batch that was probed earlier. If one of its samples was written
// since, both stores refuse it. A store with series may also refuse it after any
// change of the stream; then it probes again.
func (pr *pair) late() {
	if pr.old == nil {
		return
	}
	old := pr.old
	pr.old = nil
	fresh, _, at := pr.missing([]store.SeriesWrite{old.write})
	there := len(fresh) == 0 || fresh[0].Columns.Len() < old.write.Columns.Len()
	b := store.Batch{Series: []store.SeriesWrite{old.write}, Probed: old.at}
	if there {
		for i, s := range pr.stores {
			if _, err := s.Commit(context.Background(), &b); fhir.KindOf(err) != fhir.Conflict {
				pr.rt.Fatalf("store %d: samples that came meanwhile: %v", i, err)
			}
		}
		b.Series = fresh
	}
	if b.Probed = at; len(b.Series) > 0 {
		pr.commit(&b)
	}
}

func (pr *pair) compact() {
	if err := pr.stores[1].Compact(context.Background()); err != nil {
		pr.rt.Fatal(err)
	}
}

// again restarts or kills both stores.
func (pr *pair) again() {
	kill := pr.driver[1].Crash != nil && pr.one(2, "kill")
	for i := range pr.stores {
		pr.stop[i]()
		if kill {
			pr.stores[i] = pr.driver[i].Crash(pr.test, pr.stores[i])
		} else {
			pr.stores[i] = pr.driver[i].Reopen(pr.test, pr.stores[i])
		}
		pr.watch(i)
	}
	if pr.stores[0].LastSeq() != pr.stores[1].LastSeq() {
		pr.rt.Fatalf("T is %d and %d", pr.stores[0].LastSeq(), pr.stores[1].LastSeq())
	}
}

// at returns a commit to read at, mostly the latest.
func (pr *pair) at() store.Seq {
	if len(pr.pins) == 0 || !pr.one(2, "earlier") {
		return 0
	}
	return pr.pins[pr.n(len(pr.pins), "at")]
}

func (pr *pair) read() {
	ctx := context.Background()
	at := pr.at()
	for range 3 {
		ref := fhir.Ref{Type: "Observation", ID: pr.id()}
		before, version := uint64(pr.n(4, "before")), uint64(1+pr.n(3, "version"))
		var out [2]string
		for i, s := range pr.stores {
			record := func(r fhir.Resource, f *access.Facts) bool {
				out[i] += fmt.Sprintf("v%d %v %v %s %s\n", r.Version, r.Deleted, r.LastUpdated, tokens(f), r.JSON)
				return true
			}
			add := func(r fhir.Resource, f *access.Facts, err error) {
				if err != nil {
					out[i] += fmt.Sprintf("kind %d\n", fhir.KindOf(err))
				} else {
					record(r, f)
				}
			}
			add(s.Read(ctx, ref, at))
			add(s.ReadVersion(ctx, ref, version))
			if err := s.History(ctx, ref, at, before, record); err != nil {
				out[i] += fmt.Sprintf("kind %d\n", fhir.KindOf(err))
			}
			hs, err := s.Heads(ctx, []fhir.Ref{ref})
			out[i] += fmt.Sprint(hs, err)
		}
		pr.same(fmt.Sprintf("%s at %d, before %d, version %d", ref, at, before, version), out[0], out[1])
	}
}

func foundText(f *store.Found) string {
	return fmt.Sprintf("%q v%d %v %v %s %s", f.Pos, f.Resource.Version, f.Resource.LastUpdated, f.Resource.Deleted,
		tokens(f.Facts), f.Resource.JSON)
}

// list runs a walk and records what it returns and how it ends. It calls during
// halfway.
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

// during returns a function that may run while the second store is read at an
// earlier commit: it rewrites blocks, takes samples out of them and adds others.
func (pr *pair) during(i int) func() {
	if i == 0 || !pr.one(4, "during") {
		return nil
	}
	return func() {
		switch pr.n(3, "meanwhile") {
		case 0:
			pr.append()
		case 1:
			pr.write()
		}
		pr.compact()
	}
}

// consents allows patient p1 and vendor apple, and what the vendor wrote itself.
type consents struct{ patient, vendor, category string }

func (c consents) Permits(_ string, f *access.Facts) bool {
	return (c.patient == "" || f.Patient == c.patient) && (c.vendor == "" || f.Vendor == c.vendor) &&
		(c.category == "" || slices.Contains(f.Categories, c.category))
}

// filter returns the filter of a random grant.
func (pr *pair) filter() access.Filter {
	if pr.one(2, "all") {
		return all
	}
	g := access.Grant{Recipient: "client",
		Consents: consents{pr.of("patient", "", "p1", "p2"), pr.of("vendor", "", "apple"),
			pr.of("category", "", "vital-signs", "activity")}}
	for range 1 + pr.n(2, "rules") {
		r := access.Rule{Type: "Observation", May: access.Search | access.Read}
		for pr.one(2, "granular") {
			p := pr.of("scope parameter", "code", "category", "status", "identifier", "_id")
			tok := map[string][]access.Token{"code": {{System: sys, Code: "c1"}, {System: "urn:other", Code: "c2"}},
				"category": {{Code: "activity"}},
				"status": {{System: "http://hl7.org/fhir/observation-status", Code: "final"},
					{Code: "preliminary"}}, "identifier": {{Code: pr.id()}, {Code: "heart p1"}},
				"_id": {{Code: pr.id()}}}[p]
			r.Params = append(r.Params, access.Param{Name: p, Any: tok})
		}
		g.Rules = append(g.Rules, r)
	}
	return g.Filter(access.Search)
}

// find runs one search on both stores.
func (pr *pair) find() {
	ctx := context.Background()
	raw := pr.question()
	pairs, err := search.Pairs(raw)
	if err != nil {
		pr.rt.Fatal(raw, err)
	}
	q, err := search.Parse("Observation", pairs, search.ParseOptions{})
	if err != nil {
		pr.rt.Skip(raw, err) // the parameter does not accept this value
	}
	f := store.Find{Query: q, Filter: pr.filter(), At: pr.at(), Limit: []int{0, 0, 1, 7, 1000}[pr.n(5, "limit")]}
	if f.At == 0 && pr.one(2, "pinned") {
		f.At = pr.stores[0].LastSeq()
	}
	what := fmt.Sprintf("%s at %d, limit %d", raw, f.At, f.Limit)
	ask := func(f store.Find) (pos []string) {
		var got [2][]string
		for i, s := range pr.stores {
			got[i], pos = list(func(fn func(*store.Found) bool) error { return s.Find(ctx, f, fn) }, pr.during(i))
		}
		pr.same(what, strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
		return pos
	}
	if pos := ask(f); len(pos) > 0 {
		f.After = pos[pr.n(len(pos), "after")]
		what += " after"
		ask(f)
		f.After = ""
	}
	var n [2]string
	for i, s := range pr.stores {
		c, err := s.Count(ctx, f)
		n[i] = fmt.Sprint(c, fhir.KindOf(err))
	}
	pr.same(what+", count", n[0], n[1])
	if col, ok := pr.stores[1].(store.Columnar); ok && q.Patient != "" {
		f.Limit = 0
		pr.columns(col, f, what)
	}
}

// columns compares the answers from columns with those from documents.
func (pr *pair) columns(col store.Columnar, f store.Find, what string) {
	ctx := context.Background()
	f.Query.Sort = []search.SortKey{{Param: "date", Desc: true}}
	var newest []string
	have := map[string]bool{}
	err := pr.stores[0].Find(ctx, f, func(x *store.Found) bool {
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
			pr.rt.Fatalf("%s: %v", what, err)
		}
		part := cols.Slice(r.From, r.To)
		if r.Header != nil && (r.From != 0 || r.To != cols.Len() ||
			!reflect.DeepEqual(*r.Header, series.Summarize(cols))) {
			pr.rt.Fatalf("%s: a run has the header of a block of which it is a part", what)
		}
		for _, id := range idsOf(store.SeriesWrite{Template: r.Template, Columns: &part}) {
			got[id]++
		}
		return true
	})
	if err != nil || len(got) != len(have) {
		pr.rt.Fatalf("%s: runs have %d of %d matches: %v", what, len(got), len(have), err)
	}
	for id, n := range got {
		if n != 1 || !have[id] {
			pr.rt.Fatalf("%s: runs have %s %d times; a match: %v", what, id, n, have[id])
		}
	}
	n := 1 + pr.n(5, "newest")
	clear(got)
	if err := col.FindNewest(ctx, f, n, doc); err != nil {
		pr.rt.Fatal(err)
	}
	for i, id := range newest {
		if i < n && got[id] != 1 {
			pr.rt.Fatalf("%s: the newest %d have not %s, which is number %d", what, n, id, i)
		}
	}
	for id := range got {
		if !have[id] {
			pr.rt.Fatalf("%s: the newest %d have %s, which is no match", what, n, id)
		}
	}
}

func (pr *pair) scan() {
	r := store.ScanRange{Types: []string{"Observation", "Patient"}, Patient: pr.of("patient", "", "p1", "p2"),
		At: pr.at(), Filter: pr.filter(), Deleted: pr.one(2, "deleted")}
	if r.At == 0 {
		r.At = pr.stores[0].LastSeq()
	}
	if pr.one(2, "since") {
		r.Since = pr.clock.Now().Add(-time.Duration(pr.n(20, "since when")) * 10 * time.Millisecond)
	}
	var got [2][]string
	for i, s := range pr.stores {
		got[i], _ = list(func(fn func(*store.Found) bool) error { return s.Scan(context.Background(), r, fn) },
			pr.during(i))
	}
	pr.same(fmt.Sprintf("scan of %q at %d since %v", r.Patient, r.At, r.Since), strings.Join(got[0], "\n"),
		strings.Join(got[1], "\n"))
}

func (pr *pair) changes() {
	from := pr.at()
	var got [2][]string
	for i, s := range pr.stores {
		if err := s.Changes(context.Background(), from,
			func(c *store.Change) bool { got[i] = append(got[i], change(c)); return true }); err != nil {
			pr.rt.Fatal(err)
		}
	}
	pr.same(fmt.Sprintf("changes from %d", from), strings.Join(got[0], "\n"), strings.Join(got[1], "\n"))
}

// question returns a random search for values that Observations have.
func (pr *pair) question() string {
	params := search.Params("Observation")
	var vs *search.Values
	if r, _, err := pr.stores[0].Read(context.Background(), fhir.Ref{Type: "Observation", ID: pr.id()},
		0); err == nil &&
		!r.Deleted {
		if vs, err = search.Extract("Observation", r.JSON); err != nil {
			pr.rt.Fatalf("%v: %s", err, r.JSON)
		}
	}
	var q []string
	if pr.one(2, "of a patient") {
		q = append(q, pr.of("patient", "patient=p1", "patient=p2", "subject=Patient/p1", "patient=p1,p2",
			"performer=Patient/p1", "performer=Practitioner/x,Patient/p2", "encounter=Encounter/e"))
	}
	for range pr.n(4, "clauses") {
		p := params[pr.n(len(params), "parameter")]
		if pr.one(2, "usual") {
			p, _ = search.Lookup("Observation",
				pr.of("usual parameter", "code", "date", "value-quantity", "_lastUpdated", "_id", "identifier",
					"category", "device", "performer"))
		}
		var have []search.Value
		if vs != nil {
			have = vs.ByParam[p.Code]
		}
		if p.Type == search.TypeComposite || len(have) == 0 || pr.one(10, "missing") {
			q = append(q, p.Code+":missing="+pr.of("missing", "true", "false"))
			continue
		}
		name := p.Code
		if p.Type == search.TypeToken && pr.one(6, "not") {
			name += ":not"
		}
		var list []string
		for len(list) == 0 || pr.one(4, "or") {
			list = append(list, pr.value(p.Type, &have[pr.n(len(have), "value")]))
		}
		q = append(q, name+"="+strings.Join(list, ","))
	}
	var keys []string
	for range pr.n(3, "sort keys") {
		k := pr.of("sort", "date", "date", "_lastUpdated", "_id", "value-quantity",
			params[pr.n(len(params), "sort parameter")].Code)
		keys = append(keys, pr.of("direction", "", "-")+k)
	}
	if len(keys) > 0 {
		q = append(q, "_sort="+strings.Join(keys, ","))
	}
	return strings.Join(q, "&")
}

// value writes v, or a value near it, as a client would.
func (pr *pair) value(k search.ParamType, v *search.Value) string {
	prefix := ""
	if k == search.TypeDate || k == search.TypeQuantity {
		prefix = pr.of("prefix", "", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
	}
	switch k {
	case search.TypeToken:
		return pr.of("token", v.System+"%7C"+v.Code, v.Code, v.System+"%7C")
	case search.TypeDate:
		ms := pr.of("date", strconv.FormatInt(v.Lo, 10), strconv.FormatInt(v.Hi, 10))
		n, err := strconv.ParseInt(ms, 10, 64)
		if err != nil || n > series.MaxStart/1000 {
			n = series.MaxStart / 1000
		}
		at := time.UnixMilli(max(n, series.MinStart/1000) + int64(pr.n(3, "beside")-1)*1000).UTC()
		return prefix + at.Format(pr.of("precision", "2006", "2006-01", "2006-01-02", "2006-01-02T15:04Z",
			"2006-01-02T15:04:05Z", "2006-01-02T15:04:05.000Z"))
	case search.TypeQuantity:
		n := strconv.FormatFloat(v.Num, 'f', -1, 64)
		return prefix + pr.of("quantity", n, n+"%7C%7C"+v.Code, n+"%7C"+v.System+"%7C"+v.Code, "62", "62.0", "0")
	case search.TypeReference:
		if v.RefID == "" {
			return v.Code
		}
		return v.RefType + "/" + v.RefID
	}
	return v.Code
}
