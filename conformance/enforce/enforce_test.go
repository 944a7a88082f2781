package enforce

import (
	"fmt"
	"maps"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/rapidtest"
	"pulsegate/fhir/search"
)

// shared lists the types that the test uses.
var shared = []string{"Patient", "Practitioner", "Organization", "CodeSystem", "ConceptMap", "Group", "Device",
	"Observation", "Provenance", "List",
	"Consent", "AuditEvent", "Subscription"}

// TestMain sets the default to 20 cases, which flags override, and collects garbage less
// often: the tests allocate much and keep little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	rapidtest.Main(m, 20, 10)
}

// TestEverySurfaceMatchesModel compares random cases with the model.
func TestEverySurfaceMatchesModel(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		tc := cases.Draw(t, "case")
		if err := check(&tc, noFault, oneStore, seen); err != nil {
			t.Fatal(err)
		}
	})
	// Search for cases of the surfaces that did not occur by chance, because a surface
	// without a case is not tested.
	for _, what := range []string{"read 200", "read 403", "read 404", "search", "search 403", "include", "lastn",
		"stats", "time-buckets", "time-buckets of another patient", "_list", "_list 403",
		"compartment", "compartment 403", "compartment of all types", "system search", "system search 403",
		"resent", "resent without a hidden event", "socket", "socket without a hidden event",
		"socket with a hidden Device", "topic refused", "everything 200", "everything 403", "everything 404", "everything with an include",
		"ehr-bundle", "ehr-bundle with a Device", "export", "export 403", "export joined 202",
		"export joined 403", "page after a change", "event",
		"trail", "another's subscription",
		"matched", "matched in a transaction", "conditional reference", "preferred source", "hidden source",
		"derived value", "event of a derived value", "pushed", "not pushed", "phone 201", "phone 403", "phone 422",
		"phone without an answer", "phone amended", "phone kept", "history of many", "history 403", "patch 200",
		"patch 412", "patch 422", "conditional update 200", "conditional update 201", "conditional update 412",
		"conditional delete 204", "create 201", "create 403", "create 422", "create by a patient", "scoped PUT 200",
		"scoped PUT 403", "scoped PUT 404", "scoped PATCH 200", "scoped PATCH 403",
		"scoped DELETE 204", "scoped DELETE 403"} {
		for seed := 0; seen[what] == 0; seed++ {
			if seed == 200 {
				t.Fatalf("no case of: %s", what)
			}
			t.Logf("%s: case %d, for want of a random one", what, seed)
			tc := cases.Example(seed)
			if err := check(&tc, noFault, oneStore, seen); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log(counts(seen))
}

// counts returns the number of checks by surface and answer, a line each.
func counts(seen map[string]int) string {
	var b strings.Builder
	b.WriteString("checks by surface and answer:\n")
	for _, what := range slices.Sorted(maps.Keys(seen)) {
		fmt.Fprintf(&b, "%7d %s\n", seen[what], what)
	}
	return b.String()
}

// TestControls checks that each server with a fault is detected.
func TestControls(t *testing.T) { testControls(t, oneStore) }

func testControls(t *testing.T, which servers) {
	for f := noFault + 1; f < faults; f++ {
		t.Run(f.String(), func(t *testing.T) { testControl(t, f, which) })
	}
}

// detects holds the first case that detects a fault, if others come before it. It only
// saves time: a fault that this case no longer detects is detected by one after it.
var detects = map[fault]int{anyDevice: 1, createsUnrecorded: 1, derivesFreely: 16, exportJoinsAll: 2, losesOne: 1,
	oldVersions: 1, omitsMatches: 1, patchesUnrecorded: 1, prefersHidden: 2, pushesUnrecorded: 1, resendsAll: 9,
	socketDevices: 9, socketsAll: 4, staleConsents: 2, systemAll: 2, trailAll: 5, untagged: 22} // read only

func testControl(t *testing.T, f fault, which servers) {
	first := detects[f]
	for n := range 400 {
		seed := first + n
		tc := cases.Example(seed)
		if f == derivesFreely &&
			!slices.ContainsFunc(tc.provisions, func(g provision) bool { return g.vendor != "" }) {
			continue // the vendor of a value does not matter
		}
		if err := check(&tc, f, which, map[string]int{}); err != nil {
			t.Logf("detected with case %d: %.200v", seed, err)
			return
		}
	}
	t.Error("not detected in 400 cases")
}

// run is one case against one server.
type run struct {
	w          *world
	d          *data
	tc         *testCase
	provisions []provision
	seen       map[string]int
}

// check runs a case against a server with the fault f and counts the surfaces in seen.
func check(tc *testCase, f fault, which servers, seen map[string]int) (err error) {
	w := open(f, which)
	defer func() {
		if cerr := w.close(); err == nil {
			err = cerr
		}
	}()
	r := &run{w: w, tc: tc, d: load(w, tc), provisions: tc.provisions, seen: seen}
	a, b := &tc.a, &tc.b
	for _, tok := range []*token{a, b} {
		w.register(tok, tc.scopes)
	}
	if _, err := r.derive(); err != nil {
		return err
	}
	ta, tb := w.issue(a), w.issue(b)
	steps := []func() error{
		func() error { return r.trail(a, ta) }, func() error { return r.trail(b, tb) },
		func() error { return r.reads(a, ta) }, func() error { return r.histories(a, ta) },
		func() error { return r.searches(a, ta) },
		func() error { return r.includes(a, ta) },
		func() error { return r.joins(a, ta) },
		func() error { return r.lists(a, ta) }, func() error { return r.compartments(a, ta) },
		func() error { return r.systemSearches(a, ta) },
		func() error { return r.operations(a, ta) }, func() error { return r.exports(a, ta) },
		func() error { return r.exportJoins(a, ta) },
		func() error { return r.pushes(a) },
		func() error { return r.pages(a, ta, b, tb) },
		func() error { return r.notifications(a, ta) }, // changes the consents, unless pages does
		func() error { return r.reads(a, ta) }, func() error { return r.reads(b, tb) },
		func() error { return r.histories(a, ta) }, func() error { return r.histories(b, tb) },
		func() error { return r.searches(b, tb) },
		func() error { return r.phone(a) }, func() error { return r.phone(b) },
		func() error { return r.scopedWrites(a) }, func() error { return r.scopedWrites(b) },
		r.topics,
		func() error { return r.writes(a, ta) },
	}
	for i, step := range steps {
		if w.cluster != nil {
			w.moveRoles()
		}
		err := step()
		if err == nil {
			err = w.trailErrors()
		}
		if err != nil {
			return fmt.Errorf("step %d: token %+v, other %+v, consents %+v: %w", i, *a, *b, r.provisions, err)
		}
	}
	return nil
}

// count counts a check.
func (r *run) count(what string) { r.seen[what]++ }

// reads checks read, vread, history, $validate and $meta of every resource and of absent ones.
func (r *run) reads(tok *token, bearer string) error {
	for _, typ := range shared {
		absent := r.w.get(bearer, "/"+typ+"/absent")
		want := 404
		if !tok.may("r", typ) {
			want = 403
		}
		if absent.status != want {
			return fmt.Errorf("absent %s: %d, want %d", typ, absent.status, want)
		}
	}
	for _, ref := range r.d.order {
		vs := r.d.all[ref]
		typ, _, _ := strings.Cut(ref, "/")
		expect := func(v *version) int {
			switch {
			case !tok.may("r", typ):
				return 403
			case !tok.sees(r.provisions, "r", v):
				return 404
			case v.deleted:
				return 410
			}
			return 200
		}
		ask := func(path string, v *version) error {
			a := r.w.get(bearer, "/"+path)
			want := expect(v)
			r.count(fmt.Sprint("read ", want))
			if a.status != want {
				return fmt.Errorf("%s (%+v): %d, want %d", path, *v, a.status, want)
			}
			if want == 404 {
				if none := r.w.get(bearer, "/"+typ+"/absent"); string(none.body) != string(a.body) {
					return fmt.Errorf("%s differs from the answer for an absent resource: %s, %s", path, a.body,
						none.body)
				}
			}
			if want == 200 && strings.Contains(path, "$") {
				return nil // an OperationOutcome, or a Meta
			}
			if want == 200 && (a.json["id"] != v.id || a.header.Get("ETag") != fmt.Sprintf(`W/"%d"`, v.number)) {
				return fmt.Errorf("%s: id %v, ETag %s, want version %d", path, a.json["id"], a.header.Get("ETag"),
					v.number)
			}
			return nil
		}
		if err := ask(ref, vs[len(vs)-1]); err != nil {
			return err
		}
		for _, operation := range []string{"/$validate", "/$meta"} {
			if err := ask(ref+operation, vs[len(vs)-1]); err != nil {
				return err
			}
		}
		var shown []int
		for _, v := range vs {
			if err := ask(fmt.Sprint(ref, "/_history/", v.number), v); err != nil {
				return err
			}
			if tok.sees(r.provisions, "r", v) {
				shown = append(shown, v.number)
			}
		}
		if err := r.history(tok, bearer, ref, shown); err != nil {
			return err
		}
	}
	return nil
}

// history checks that the history of ref shows the versions in shown.
func (r *run) history(tok *token, bearer, ref string, shown []int) error {
	a := r.w.get(bearer, "/"+ref+"/_history")
	typ, _, _ := strings.Cut(ref, "/")
	want := 200
	if !tok.may("r", typ) {
		want = 403
	} else if len(shown) == 0 {
		want = 404
	}
	if a.status != want {
		return fmt.Errorf("%s/_history: %d, want %d", ref, a.status, want)
	}
	if want != 200 {
		return nil
	}
	var got []int
	list, _ := a.json["entry"].([]any)
	for _, e := range list {
		tag := e.(map[string]any)["response"].(map[string]any)["etag"]
		n := 0
		if _, err := fmt.Sscanf(fmt.Sprint(tag), `W/"%d"`, &n); err != nil {
			return err
		}
		got = append(got, n)
	}
	slices.Reverse(got)
	if !slices.Equal(got, shown) || a.json["total"] != float64(len(shown)) {
		return fmt.Errorf("%s/_history shows %v of %v, want %v", ref, got, a.json["total"], shown)
	}
	return nil
}

// histories checks the histories of each type and of the system: of the resources of the
// case, they show the versions that the token may see.
func (r *run) histories(tok *token, bearer string) error {
	readable := slices.DeleteFunc(slices.Clone(shared),
		func(t string) bool { return t == "AuditEvent" || !tok.may("r", t) })
	for _, typ := range append([]string{""}, shared...) {
		path := "/" + strings.TrimPrefix(typ+"/_history", "/")
		a := r.w.get(bearer, path+"?_count="+fmt.Sprint(20*r.tc.pageCount))
		if typ == "" && len(readable) == 0 || typ != "" && !tok.may("r", typ) {
			if r.count("history 403"); a.status != 403 {
				return fmt.Errorf("%s: %d, want 403", path, a.status)
			}
			continue
		}
		if typ == "AuditEvent" { // every request makes one
			continue
		}
		want := map[string]bool{}
		for _, ref := range r.d.order {
			for _, v := range r.d.all[ref] {
				if t, _, _ := strings.Cut(ref, "/"); (typ == "" && t != "AuditEvent" || t == typ) &&
					tok.sees(r.provisions, "r", v) {
					want[fmt.Sprint(ref, " ", v.number)] = true
				}
			}
		}
		for {
			if a.status != 200 {
				return fmt.Errorf("%s: %d %s", path, a.status, a.body)
			}
			list, _ := a.json["entry"].([]any)
			for _, e := range list {
				m := e.(map[string]any)
				ref := fmt.Sprint(m["request"].(map[string]any)["url"])
				n := strings.Trim(fmt.Sprint(m["response"].(map[string]any)["etag"]), `W/"`)
				if r.d.all[ref] == nil {
					continue // of another step
				}
				if !want[ref+" "+n] {
					return fmt.Errorf("%s shows version %s of %s", path, n, ref)
				}
				delete(want, ref+" "+n)
				r.count("history of many")
			}
			next := a.link("next")
			if next == "" {
				break
			}
			a = r.w.get(bearer, next)
		}
		if len(want) > 0 {
			return fmt.Errorf("%s lacks %v", path, want)
		}
	}
	return nil
}

// visible returns the references that the token may see.
func (r *run) visible(tok *token, do string, refs []string) (out []string) {
	for _, ref := range refs {
		if v := r.d.current(ref); v != nil && tok.sees(r.provisions, do, v) {
			out = append(out, ref)
		}
	}
	return out
}

// queries returns a query for each search parameter with a value in the data, and some
// others.
func (r *run) queries(typ string) []string {
	qs := []string{"", "_sort=_id", "_sort=-_lastUpdated", "_id=p1,o0,o1,v0,c0,g1,d1,r0,h1,y1"}
	for _, p := range search.Params(typ) {
		if !p.Supported() {
			continue
		}
		qs = append(qs, p.Code+":missing=true", p.Code+":missing=false")
		for _, ref := range r.d.order {
			t, id, _ := strings.Cut(ref, "/")
			if t != typ || r.d.current(ref) == nil {
				continue
			}
			res, _, err := r.w.db.Read(r.ctx(), fhir.Ref{Type: t, ID: id}, 0)
			if err != nil {
				continue
			}
			v := must(search.Extract(typ, res.JSON)).ByParam[p.Code]
			if len(v) == 0 {
				continue
			}
			if q := rendered(p, &v[0]); q != "" {
				qs = append(qs, q)
				if p.Type == search.TypeToken {
					qs = append(qs, strings.Replace(q, "=", ":not=", 1))
				}
				break
			}
		}
	}
	if typ == "Observation" {
		qs = append(qs, "patient=Patient/p1&_sort=-date", "patient=p2&code="+loinc+"|8867-4&_sort=date",
			"subject=Patient/p1&category=vital-signs&date=ge2026-03-01T10:02:00Z",
			"date=lt2026-03-01T10:03:00Z&_sort=code,-date", "value-quantity=gt54&_sort=-value-quantity",
			"device=Device/v1", "status=final,amended&_sort=status")
	}
	return qs
}

// rendered returns a query that matches the value v.
func rendered(p *search.Param, v *search.Value) string {
	e := url.QueryEscape
	switch p.Type {
	case search.TypeToken:
		if v.Code == "" {
			return ""
		}
		if v.System != "" {
			return p.Code + "=" + e(v.System+"|"+v.Code)
		}
		return p.Code + "=" + e(v.Code)
	case search.TypeReference:
		if v.RefID != "" {
			return p.Code + "=" + e(v.RefType+"/"+v.RefID)
		}
	case search.TypeDate:
		if v.Lo < 0 {
			return p.Code + "=le2020-01-01" // no lower bound
		}
		return p.Code + "=ge" + e(time.UnixMilli(v.Lo).UTC().Format("2006-01-02"))
	case search.TypeQuantity, search.TypeNumber:
		return p.Code + "=" + fmt.Sprint("ge", v.Num)
	case search.TypeString, search.TypeURI:
		return p.Code + "=" + e(v.Code)
	}
	return ""
}

// exclusion excludes resources from a search that the server writes during the test: the
// AuditEvents of the requests (see trail) and active Subscriptions (see notifications).
var exclusion = map[string]string{"AuditEvent": "&_id=a0,a1,a2,a3", "Subscription": "&status=off"} // read only

// searches checks searches by all parameters with totals, counts and pages, by GET, by
// form and in a batch.
func (r *run) searches(tok *token, bearer string) error {
	for _, typ := range shared {
		for i, q := range r.queries(typ) {
			if i > 2 && !tok.may("s", typ) {
				break // every query is refused
			}
			if i > 2 && i%3 != len(r.tc.docs)%3 {
				continue // each case runs a third of the queries
			}
			q += exclusion[typ]
			all, err := r.w.operator(typ, q+"&_count=1000")
			if err != nil {
				return fmt.Errorf("%s?%s: %w", typ, q, err)
			}
			want := r.visible(tok, "s", all)
			if err := r.search(tok, bearer, typ, q, want, i%7 == 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// search checks that a query of a type returns the matches in want. more also checks pages,
// the form and the batch.
func (r *run) search(tok *token, bearer, typ, q string, want []string, more bool) error {
	return r.searchAt(bearer, typ, q, tok.may("s", typ), want, more)
}

// searchAt is like search for a path below the base, which may be that of a compartment or
// empty. may says that the token covers the search. Without _sort, which a search of
// several types does not have, the order does not matter.
func (r *run) searchAt(bearer, typ, q string, may bool, want []string, more bool) error {
	a := r.w.get(bearer, "/"+typ+"?"+q+"&_count=1000")
	if !may {
		if r.count("search 403"); a.status != 403 {
			return fmt.Errorf("%s?%s: %d, want 403", typ, q, a.status)
		}
		return nil
	}
	r.count("search")
	order := func(refs []string) []string { return refs }
	if strings.Contains(q, "_type=") {
		order = sorted
	}
	want = order(want)
	if got := a.entries("match"); a.status != 200 || !slices.Equal(order(got), want) ||
		a.json["total"] != float64(len(want)) || len(a.entries("")) != len(want) {
		return fmt.Errorf("%s?%s: %d, %v, total %v, want %v", typ, q, a.status, got, a.json["total"], want)
	}
	for _, c := range []string{"_summary=count", "_count=0"} {
		if a := r.w.get(bearer, "/"+typ+"?"+q+"&"+c); a.status != 200 || a.json["total"] != float64(len(want)) ||
			len(a.entries("")) != 0 {
			return fmt.Errorf("%s?%s&%s: %d, total %v, want %d", typ, q, c, a.status, a.json["total"], len(want))
		}
	}
	if !more {
		return nil
	}
	var got []string
	for next := "/" + typ + "?" + q + "&_total=accurate&_count=" + fmt.Sprint(r.tc.pageCount); next != ""; {
		a := r.w.get(bearer, next)
		if a.status != 200 || a.json["total"] != nil && a.json["total"] != float64(len(want)) {
			return fmt.Errorf("page %s: %d, total %v, want %d", next, a.status, a.json["total"], len(want))
		}
		got, next = append(got, a.entries("match")...), a.link("next")
	}
	if !slices.Equal(order(got), want) {
		return fmt.Errorf("pages of %s?%s: %v, want %v", typ, q, got, want)
	}
	form := r.w.do(bearer, "POST", strings.TrimSuffix("/"+typ, "/")+"/_search", q+"&_count=1000", "Content-Type",
		"application/x-www-form-urlencoded")
	if got := form.entries("match"); form.status != 200 || !slices.Equal(order(got), want) {
		return fmt.Errorf("form %s?%s: %d, %v, want %v", typ, q, form.status, got, want)
	}
	if typ == "" || strings.Contains(typ, "/") {
		return nil // an entry searches one type
	}
	batch := r.w.do(bearer, "POST", "", `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"`+typ+"?"+q+`&_count=1000"}}]}`)
	list, _ := batch.json["entry"].([]any)
	if batch.status != 200 || len(list) != 1 {
		return fmt.Errorf("batch %s?%s: %d %s", typ, q, batch.status, batch.body)
	}
	inner, _ := list[0].(map[string]any)["resource"].(map[string]any)
	if got := (answer{json: inner}).entries("match"); !slices.Equal(order(got), want) {
		return fmt.Errorf("batch %s?%s: %v, want %v", typ, q, got, want)
	}
	return nil
}

// includes checks that _include adds the visible resources to which matches refer.
func (r *run) includes(tok *token, bearer string) error {
	for _, q := range []struct {
		typ, query string
		params     []string
		iterate    map[string]string
	}{
		{"Observation", "_include=Observation:device", []string{"device"}, nil},
		{"Observation", "_include=Observation:device&_include=Observation:subject", []string{"device", "subject"}, nil},
		{"Observation", "_include=Observation:device&_include:iterate=Device:patient", []string{"device"},
			map[string]string{"Device": "patient"}},
		{"Provenance", "_include=Provenance:target", []string{"target"}, nil},
		{"Provenance", "_include=Provenance:target&_include:iterate=Observation:device", []string{"target"},
			map[string]string{"Observation": "device"}},
		{"Group", "_include=Group:member", []string{"member"}, nil},
		{"List", "_include=List:item", []string{"item"}, nil},
		{"Consent", "_include=Consent:patient", []string{"patient"}, nil},
		{"AuditEvent", "_include=AuditEvent:patient" + exclusion["AuditEvent"], []string{"patient"}, nil},
	} {
		a := r.w.get(bearer, "/"+q.typ+"?"+q.query+"&_count=1000")
		if !tok.may("s", q.typ) {
			if a.status != 403 {
				return fmt.Errorf("%s?%s: %d, want 403", q.typ, q.query, a.status)
			}
			continue
		}
		match := r.visible(tok, "s", r.of(q.typ))
		have, want := map[string]bool{}, []string{}
		for _, m := range match {
			have[m] = true
		}
		var refs []string
		for _, m := range match {
			for _, p := range q.params {
				refs = append(refs, r.d.current(m).refs[p]...)
			}
		}
		for len(refs) > 0 {
			ref := refs[0]
			refs = refs[1:]
			v := r.d.current(ref)
			if have[ref] || v == nil || !tok.sees(r.provisions, "s", v) && !tok.sees(r.provisions, "r", v) {
				continue
			}
			have[ref] = true
			want = append(want, ref)
			r.count("include")
			if p := q.iterate[v.typ]; p != "" {
				refs = append(refs, v.refs[p]...)
			}
		}
		if got := a.entries("include"); a.status != 200 || !slices.Equal(sorted(got), sorted(want)) ||
			!slices.Equal(sorted(a.entries("match")), sorted(match)) {
			return fmt.Errorf("%s?%s: %d, %v and %v, want %v and %v", q.typ, q.query, a.status, a.entries("match"),
				got, match, want)
		}
	}
	return nil
}

// of returns the references of the current resources of a type.
func (r *run) of(typ string) (out []string) {
	for _, ref := range r.d.order {
		if strings.HasPrefix(ref, typ+"/") && r.d.current(ref) != nil {
			out = append(out, ref)
		}
	}
	return out
}
