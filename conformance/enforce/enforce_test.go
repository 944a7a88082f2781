package enforce

import (
	"flag"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/search"
)

var shared = []string{"Patient", "Practitioner", "Organization", "Group", "Device", "Observation", "Provenance",
	"Consent", "AuditEvent", "Subscription"}

// TestMain makes 40 cases the default: some 40 s. Flags are read after it.
func TestMain(m *testing.M) {
	if f := flag.Lookup("rapid.checks"); f != nil {
		if err := f.Value.Set("40"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// TestNothingLeaksNothingIsLost is the property.
func TestNothingLeaksNothingIsLost(t *testing.T) {
	seen := map[string]int{}
	rapid.Check(t, func(t *rapid.T) {
		k := cases.Draw(t, "case")
		if err := check(&k, noFault, seen); err != nil {
			t.Fatal(err)
		}
	})
	// What chance left out is looked for: a property that never met a surface says nothing of it.
	for _, what := range []string{"read 200", "read 403", "read 404", "search", "search 403", "include", "lastn",
		"stats", "export", "export 403", "page after a change", "event", "trail", "another's subscription",
		"matched", "matched in a transaction", "conditional reference"} {
		for seed := 0; seen[what] == 0; seed++ {
			if seed == 200 {
				t.Fatalf("never seen: %s", what)
			}
			k := cases.Example(seed)
			if err := check(&k, noFault, seen); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Log("checks by surface and answer:", seen)
}

// TestControls: each server that is wrong in one place is found.
func TestControls(t *testing.T) {
	for f := noFault + 1; f < faults; f++ {
		t.Run(f.String(), func(t *testing.T) {
			for seed := range 400 {
				k := cases.Example(seed)
				if err := check(&k, f, map[string]int{}); err != nil {
					t.Logf("found with case %d: %.200v", seed, err)
					return
				}
			}
			t.Error("not found in 400 cases")
		})
	}
}

// run is one case against one server.
type run struct {
	w       *world
	d       *data
	k       *kase
	grounds []ground
	seen    map[string]int
}

func check(k *kase, f fault, seen map[string]int) (err error) {
	w := open(f)
	defer func() {
		if cerr := w.close(); err == nil {
			err = cerr
		}
	}()
	r := &run{w: w, k: k, d: load(w, k), grounds: k.grounds, seen: seen}
	a, b := &k.a, &k.b
	for _, x := range []*token{a, b} {
		w.register(x, k.scopes)
	}
	ta, tb := w.issue(a), w.issue(b)
	steps := []func() error{
		func() error { return r.trail(a, ta) }, func() error { return r.trail(b, tb) },
		func() error { return r.reads(a, ta) }, func() error { return r.searches(a, ta) },
		func() error { return r.includes(a, ta) },
		func() error { return r.operations(a, ta) }, func() error { return r.exports(a, ta) },
		func() error { return r.pages(a, ta, b, tb) },
		func() error { return r.notifications(a, ta) }, // the consents change here, or in pages
		func() error { return r.reads(a, ta) }, func() error { return r.reads(b, tb) },
		func() error { return r.searches(b, tb) },
		func() error { return r.writes(a, ta) },
	}
	for i, step := range steps {
		err := step()
		if err == nil {
			err = w.unrecorded()
		}
		if err != nil {
			return fmt.Errorf("step %d: token %+v, other %+v, consents %+v: %w", i, *a, *b, r.grounds, err)
		}
	}
	return nil
}

func (r *run) saw(what string) { r.seen[what]++ }

// reads: read, version read and history of every resource, and of none.
func (r *run) reads(k *token, bearer string) error {
	for _, typ := range shared {
		absent := r.w.get(bearer, "/"+typ+"/absent")
		want := 404
		if !k.may("r", typ) {
			want = 403
		}
		if absent.status != want {
			return fmt.Errorf("%s that is not there: %d, want %d", typ, absent.status, want)
		}
	}
	for _, ref := range r.d.order {
		vs := r.d.all[ref]
		typ, _, _ := strings.Cut(ref, "/")
		expect := func(v *version) int {
			switch {
			case !k.may("r", typ):
				return 403
			case !k.sees(r.grounds, "r", v):
				return 404
			case v.deleted:
				return 410
			}
			return 200
		}
		ask := func(path string, v *version) error {
			a := r.w.get(bearer, "/"+path)
			want := expect(v)
			r.saw(fmt.Sprint("read ", want))
			if a.status != want {
				return fmt.Errorf("%s (%+v): %d, want %d", path, *v, a.status, want)
			}
			if want == 404 {
				if none := r.w.get(bearer, "/"+typ+"/absent"); string(none.body) != string(a.body) {
					return fmt.Errorf("%s differs from what is not there: %s, %s", path, a.body, none.body)
				}
			}
			if want == 200 && (a.json["id"] != v.id || a.header.Get("ETag") != fmt.Sprintf(`W/"%d"`, v.n)) {
				return fmt.Errorf("%s: id %v, ETag %s, want version %d", path, a.json["id"], a.header.Get("ETag"), v.n)
			}
			return nil
		}
		if err := ask(ref, vs[len(vs)-1]); err != nil {
			return err
		}
		var shown []int
		for _, v := range vs {
			if err := ask(fmt.Sprint(ref, "/_history/", v.n), v); err != nil {
				return err
			}
			if k.sees(r.grounds, "r", v) {
				shown = append(shown, v.n)
			}
		}
		if err := r.history(k, bearer, ref, shown); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) history(k *token, bearer, ref string, shown []int) error {
	a := r.w.get(bearer, "/"+ref+"/_history")
	typ, _, _ := strings.Cut(ref, "/")
	want := 200
	if !k.may("r", typ) {
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

// visible filters the references that a search matches.
func (r *run) visible(k *token, do string, refs []string) (out []string) {
	for _, ref := range refs {
		if v := r.d.current(ref); v != nil && k.sees(r.grounds, do, v) {
			out = append(out, ref)
		}
	}
	return out
}

// queries are one for every parameter that something stored has a value for,
// and some more.
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
			return p.Code + "=le2020-01-01" // open at this end
		}
		return p.Code + "=ge" + e(time.UnixMilli(v.Lo).UTC().Format("2006-01-02"))
	case search.TypeQuantity, search.TypeNumber:
		return p.Code + "=" + fmt.Sprint("ge", v.Num)
	case search.TypeString, search.TypeURI:
		return p.Code + "=" + e(v.Code)
	}
	return ""
}

// apart keeps what the server itself writes meanwhile out of a search: the
// events of the requests (see trail), the Subscriptions in use (see
// notifications).
var apart = map[string]string{"AuditEvent": "&_id=a0,a1,a2,a3", "Subscription": "&status=off"} // read only

// searches: every parameter, totals, counts, pages; by GET, by form, in a batch.
func (r *run) searches(k *token, bearer string) error {
	for _, typ := range shared {
		for i, q := range r.queries(typ) {
			if i > 2 && !k.may("s", typ) {
				break // refused whatever is asked
			}
			if i > 2 && i%3 != len(r.k.docs)%3 {
				continue // every case asks a third
			}
			q += apart[typ]
			all, err := r.w.operator(typ, q+"&_count=1000")
			if err != nil {
				return fmt.Errorf("%s?%s: %w", typ, q, err)
			}
			want := r.visible(k, "s", all)
			if err := r.search(k, bearer, typ, q, want, i%7 == 0); err != nil {
				return err
			}
		}
		for _, q := range []string{"_has:Provenance:target:_id=r0", "_revinclude=Provenance:target",
			"subject.gender=female", "patient:Patient.gender=female"} {
			if a := r.w.get(bearer, "/"+typ+"?"+q); a.status != 400 && a.status != 403 {
				return fmt.Errorf("%s?%s is answered with %d: what is offered has to be held here", typ, q, a.status)
			}
		}
	}
	return nil
}

func (r *run) search(k *token, bearer, typ, q string, want []string, more bool) error {
	a := r.w.get(bearer, "/"+typ+"?"+q+"&_count=1000")
	if !k.may("s", typ) {
		if r.saw("search 403"); a.status != 403 {
			return fmt.Errorf("%s?%s: %d, want 403", typ, q, a.status)
		}
		return nil
	}
	r.saw("search")
	if got := a.entries("match"); a.status != 200 || !slices.Equal(got, want) ||
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
	for next := "/" + typ + "?" + q + "&_total=accurate&_count=" + fmt.Sprint(r.k.pageCount); next != ""; {
		a := r.w.get(bearer, next)
		if a.status != 200 || a.json["total"] != nil && a.json["total"] != float64(len(want)) {
			return fmt.Errorf("page %s: %d, total %v, want %d", next, a.status, a.json["total"], len(want))
		}
		got, next = append(got, a.entries("match")...), a.link("next")
	}
	if !slices.Equal(got, want) {
		return fmt.Errorf("pages of %s?%s: %v, want %v", typ, q, got, want)
	}
	form := r.w.do(bearer, "POST", "/"+typ+"/_search", q+"&_count=1000", "Content-Type",
		"application/x-www-form-urlencoded")
	if got := form.entries("match"); form.status != 200 || !slices.Equal(got, want) {
		return fmt.Errorf("form %s?%s: %d, %v, want %v", typ, q, form.status, got, want)
	}
	batch := r.w.do(bearer, "POST", "", `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"`+typ+"?"+q+`&_count=1000"}}]}`)
	list, _ := batch.json["entry"].([]any)
	if batch.status != 200 || len(list) != 1 {
		return fmt.Errorf("batch %s?%s: %d %s", typ, q, batch.status, batch.body)
	}
	inner, _ := list[0].(map[string]any)["resource"].(map[string]any)
	if got := (answer{json: inner}).entries("match"); !slices.Equal(got, want) {
		return fmt.Errorf("batch %s?%s: %v, want %v", typ, q, got, want)
	}
	return nil
}

// includes adds what the visible matches refer to, as far as it is visible.
func (r *run) includes(k *token, bearer string) error {
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
		{"Consent", "_include=Consent:patient", []string{"patient"}, nil},
		{"AuditEvent", "_include=AuditEvent:patient" + apart["AuditEvent"], []string{"patient"}, nil},
	} {
		a := r.w.get(bearer, "/"+q.typ+"?"+q.query+"&_count=1000")
		if !k.may("s", q.typ) {
			if a.status != 403 {
				return fmt.Errorf("%s?%s: %d, want 403", q.typ, q.query, a.status)
			}
			continue
		}
		match := r.visible(k, "s", r.of(q.typ))
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
			if have[ref] || v == nil || !k.sees(r.grounds, "s", v) && !k.sees(r.grounds, "r", v) {
				continue
			}
			have[ref] = true
			want = append(want, ref)
			r.saw("include")
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

// of are the live resources of a type.
func (r *run) of(typ string) (out []string) {
	for _, ref := range r.d.order {
		if strings.HasPrefix(ref, typ+"/") && r.d.current(ref) != nil {
			out = append(out, ref)
		}
	}
	return out
}
