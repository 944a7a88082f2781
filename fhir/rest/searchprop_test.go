package rest

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// thing is a resource of a small world of Organizations, Patients and Observations.
type thing struct {
	typ, id string
	text    string // name, family or code
	refs    map[string]int
	hidden  bool
}

// things is a world. The reference parameters are those of links.
type things []thing

// links lists the reference parameters by type, with the type to which they refer.
var links = map[string][]struct{ param, target string }{
	"Organization": {{"partof", "Organization"}},
	"Patient":      {{"organization", "Organization"}},
	"Observation":  {{"patient", "Patient"}, {"has-member", "Observation"}},
}

var texts = map[string]string{"Organization": "name", "Patient": "family", "Observation": "code"}

func (w things) of(typ string) []int {
	var out []int
	for i := range w {
		if w[i].typ == typ {
			out = append(out, i)
		}
	}
	return out
}

// sees reports whether the caller may see a thing. An Observation without a patient is
// under no patient's consent.
func (w things) sees(i int) bool {
	_, named := w[i].refs["patient"]
	return !w[i].hidden && (w[i].typ != "Observation" || named)
}

// drawThings draws a world. Things with hidden set are drawn with an id of their own, so
// that two worlds can differ in them alone.
func drawThings(t *rapid.T, label string, base things, hidden bool) things {
	w := slices.Clone(base)
	for _, typ := range []string{"Organization", "Patient", "Observation"} {
		for range rapid.IntRange(0, 4).Draw(t, label+typ) {
			x := thing{typ: typ, id: fmt.Sprintf("%s%d", label, len(w)), hidden: hidden, refs: map[string]int{},
				text: rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "text")}
			for _, l := range links[typ] {
				if of := w.of(l.target); len(of) > 0 && (l.param == "patient" || rapid.Bool().Draw(t, "linked")) {
					x.refs[l.param] = rapid.SampledFrom(of).Draw(t, l.param)
				}
			}
			w = append(w, x)
		}
	}
	return w
}

// json returns the resource in canonical form.
func (x *thing) json(w things) string {
	ref := func(param string) string {
		if i, ok := x.refs[param]; ok {
			return fmt.Sprintf(`{"reference":"%s/%s"}`, w[i].typ, w[i].id)
		}
		return ""
	}
	body := fhir.Prefix(x.typ, x.id) + `}`
	switch x.typ {
	case "Organization":
		body += fmt.Sprintf(`,"active":%t,"name":"%s"`, !x.hidden, x.text)
		if r := ref("partof"); r != "" {
			body += `,"partOf":` + r
		}
	case "Patient":
		body += fmt.Sprintf(`,"active":%t,"name":[{"family":"%s"}]`, !x.hidden, x.text)
		if r := ref("organization"); r != "" {
			body += `,"managingOrganization":` + r
		}
	case "Observation":
		category := "vital-signs"
		if x.hidden {
			category = "laboratory"
		}
		body += fmt.Sprintf(`,"status":"final","category":[{"coding":[{"code":"%s"}]}],"code":{"coding":[{"code":"%s"}]}`,
			category, x.text)
		if r := ref("patient"); r != "" {
			body += `,"subject":` + r
		}
		if r := ref("has-member"); r != "" {
			body += `,"hasMember":[` + r + `]`
		}
	}
	return body + "}"
}

// predicate is a random condition: how a client writes it, and what it means.
type predicate struct {
	name, value string
	holds       func(i int) bool
}

// drawPredicate draws a condition on a type. It is the definition of a chain and of _has,
// evaluated over everything that the caller may see.
func (w things) drawPredicate(t *rapid.T, typ string, depth int) predicate {
	kind := 0
	if depth > 0 {
		kind = rapid.IntRange(0, 2).Draw(t, "kind")
	}
	switch kind {
	case 1:
		l := rapid.SampledFrom(links[typ]).Draw(t, "link")
		in := w.drawPredicate(t, l.target, depth-1)
		name := l.param + "."
		if rapid.Bool().Draw(t, "typed") || l.param == "has-member" {
			name = l.param + ":" + l.target + "."
		}
		return predicate{name + in.name, in.value, func(i int) bool {
			j, ok := w[i].refs[l.param]
			return ok && w.sees(j) && in.holds(j)
		}}
	case 2:
		var back [][2]string
		for _, from := range []string{"Organization", "Patient", "Observation"} {
			for _, l := range links[from] {
				if l.target == typ {
					back = append(back, [2]string{from, l.param})
				}
			}
		}
		b := rapid.SampledFrom(back).Draw(t, "back")
		in := w.drawPredicate(t, b[0], depth-1)
		return predicate{"_has:" + b[0] + ":" + b[1] + ":" + in.name, in.value, func(i int) bool {
			return slices.ContainsFunc(w.of(b[0]), func(j int) bool {
				k, ok := w[j].refs[b[1]]
				return ok && k == i && w.sees(j) && in.holds(j)
			})
		}}
	}
	text := rapid.SampledFrom([]string{"alpha", "beta"}).Draw(t, "value")
	return predicate{texts[typ], text, func(i int) bool { return w[i].text == text }}
}

// service stores a world and returns a service over it. The clock and the random ids are
// the same in every world.
func (w things) service(t testing.TB, st store.Store, joined int) *interaction.Service {
	clock := func() time.Time { return time.Date(2026, 10, 3, 0, 0, 0, 0, time.UTC) }
	for i := range w {
		r := fhir.Resource{Type: w[i].typ, ID: w[i].id, JSON: []byte(w[i].json(w))}
		if _, err := st.Commit(context.Background(), &store.Batch{Writes: []store.Write{{Resource: r}}}); err != nil {
			t.Fatal(err)
		}
	}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: clock, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	return &interaction.Service{Store: st, Audit: rec, Clock: clock, Rand: zeros{}, Base: "https://pg.example/fhir",
		Limits: interaction.Limits{Joined: joined, Includes: 100}}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// narrow returns a request whose caller may see what is not hidden.
func narrow() *interaction.Request {
	limited := func(typ, param, code string) access.Rule {
		return access.Rule{Type: typ, May: access.Read | access.Search,
			Params: []access.Param{{Name: param, Any: []access.Token{{Code: code}}}}}
	}
	g := &access.Grant{Recipient: "any", Consents: &consents{denied: map[string]bool{}}, Rules: []access.Rule{
		limited("Organization", "active", "true"), limited("Patient", "active", "true"),
		limited("Observation", "category", "vital-signs")}}
	return &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "narrow", Grant: g}},
		Line: "GET x"}
}

// entries returns the ids of a page by mode.
func entries(t testing.TB, p *interaction.Page) (matches, included []string) {
	var b struct {
		Entry []struct {
			FullURL string `json:"fullUrl"`
			Search  struct{ Mode string }
		}
	}
	if err := json.Unmarshal(p.Bytes(), &b); err != nil {
		t.Fatal(err)
	}
	for _, e := range b.Entry {
		id := strings.TrimPrefix(e.FullURL, "https://pg.example/fhir/")
		if e.Search.Mode == "match" {
			matches = append(matches, id)
		} else {
			included = append(included, id)
		}
	}
	slices.Sort(matches)
	slices.Sort(included)
	return matches, included
}

// TestJoinsNaively compares random chained searches and _has, and what they include, with
// their definition.
func TestJoinsNaively(t *testing.T) {
	for name, open := range drivers {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w := drawThings(rt, "v", nil, false)
				w = drawThings(rt, "h", w, true)
				w.point(rt)
				joined := rapid.SampledFrom([]int{1, 3, 100}).Draw(rt, "joined")
				s := w.service(t, open(t), joined)
				typ := rapid.SampledFrom([]string{"Organization", "Patient", "Observation"}).Draw(rt, "typ")
				p := w.drawPredicate(rt, typ, 3)
				raw := url.QueryEscape(p.name) + "=" + p.value
				forward, iterate := w.drawIncludes(rt, typ)
				page, err := s.Search(context.Background(), narrow(), typ, raw+forward.raw()+iterate.raw())
				if fhir.KindOf(err) == fhir.TooCostly && err != nil && joined < 100 {
					return // never a wrong answer
				}
				if err != nil {
					rt.Fatalf("%s: %v", raw, err)
				}
				matches, included := entries(t, page)
				var want []int
				for _, i := range w.of(typ) {
					if w.sees(i) && p.holds(i) {
						want = append(want, i)
					}
				}
				if ids := w.ids(want); !slices.Equal(matches, ids) {
					rt.Fatalf("%s?%s: %v, want %v in %+v", typ, raw, matches, ids, w)
				}
				if ids := w.ids(w.closure(want, forward, iterate)); !slices.Equal(included, ids) {
					rt.Fatalf("%s?%s%s%s: included %v, want %v in %+v", typ, raw, forward.raw(), iterate.raw(),
						included, ids, w)
				}
			})
		})
	}
}

func (w things) ids(of []int) []string {
	var out []string
	for _, i := range of {
		out = append(out, w[i].typ+"/"+w[i].id)
	}
	slices.Sort(out)
	return out
}

// point points some visible things to hidden ones.
func (w things) point(t *rapid.T) {
	for i := range w {
		for _, l := range links[w[i].typ] {
			if of := w.of(l.target); !w[i].hidden && len(of) > 0 && rapid.IntRange(0, 3).Draw(t, "point") == 0 {
				w[i].refs[l.param] = rapid.SampledFrom(of).Draw(t, "to")
			}
		}
	}
}

// included is a set of parameters _include and _revinclude.
type included struct {
	of      [][3]string // source, parameter, and "rev" for _revinclude
	iterate bool
}

func (in included) raw() string {
	out := ""
	for _, x := range in.of {
		name := "_" + x[2] + "include"
		if in.iterate {
			name += ":iterate"
		}
		out += "&" + url.QueryEscape(name) + "=" + x[0] + ":" + x[1]
	}
	return out
}

// drawIncludes draws parameters for matches of a type and iterated ones.
func (w things) drawIncludes(t *rapid.T, typ string) (forward, iterate included) {
	iterate.iterate = true
	for _, from := range []string{"Organization", "Patient", "Observation"} {
		for _, l := range links[from] {
			for _, rev := range []string{"", "rev"} {
				x := [3]string{from, l.param, rev}
				direct := rev == "" && from == typ || rev == "rev" && l.target == typ
				switch rapid.IntRange(0, 3).Draw(t, "include") {
				case 0:
					if direct {
						forward.of = append(forward.of, x)
					}
				case 1:
					iterate.of = append(iterate.of, x)
				}
			}
		}
	}
	return forward, iterate
}

// closure returns what is included, by the definition: the parameters apply to the
// matches, and the iterated ones to everything.
func (w things) closure(matches []int, forward, iterate included) []int {
	seen := map[int]bool{}
	for _, i := range matches {
		seen[i] = true
	}
	var out []int
	step := func(from []int, in included) (next []int) {
		for j := range w {
			if seen[j] || !w.sees(j) {
				continue
			}
			if slices.ContainsFunc(from, func(i int) bool { return w.reaches(i, j, in) }) {
				next = append(next, j)
			}
		}
		return next
	}
	round := append(step(matches, forward), step(matches, iterate)...)
	for len(round) > 0 {
		var added []int
		for _, j := range round {
			if !seen[j] {
				seen[j] = true
				added = append(added, j)
			}
		}
		out = append(out, added...)
		round = step(added, iterate)
	}
	return out
}

// reaches reports whether a parameter leads from i to j.
func (w things) reaches(i, j int, in included) bool {
	return slices.ContainsFunc(in.of, func(x [3]string) bool {
		from, to := i, j
		if x[2] == "rev" {
			from, to = j, i
		}
		k, ok := w[from].refs[x[1]]
		return w[from].typ == x[0] && ok && k == to
	})
}

// TestHiddenDecidesNothing compares the answers over two worlds that differ only in
// resources that the caller may not see: they are equal to the byte, errors too.
func TestHiddenDecidesNothing(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		visible := drawThings(rt, "v", nil, false)
		a := drawThings(rt, "h", visible, true)
		b := slices.Clone(a)
		for i := range b { // the hidden ones have other contents and references
			if !b[i].hidden {
				continue
			}
			b[i].text = rapid.SampledFrom([]string{"alpha", "beta"}).Draw(rt, "other")
			b[i].refs = map[string]int{}
			for _, l := range links[b[i].typ] {
				if of := b.of(l.target); len(of) > 0 && rapid.Bool().Draw(rt, "relinked") {
					b[i].refs[l.param] = rapid.SampledFrom(of).Draw(rt, "to")
				}
			}
		}
		for i := range visible { // both worlds refer to the hidden ones in the same way
			for _, l := range links[a[i].typ] {
				if of := a.of(l.target); len(of) > 0 && rapid.IntRange(0, 3).Draw(rt, "point") == 0 {
					a[i].refs[l.param] = rapid.SampledFrom(of).Draw(rt, "to")
				}
			}
		}
		joined := rapid.SampledFrom([]int{1, 3, 100}).Draw(rt, "joined")
		typ := rapid.SampledFrom([]string{"Organization", "Patient", "Observation"}).Draw(rt, "typ")
		p := a.drawPredicate(rt, typ, 3)
		forward, iterate := a.drawIncludes(rt, typ)
		raw := url.QueryEscape(p.name) + "=" + p.value + forward.raw() + iterate.raw() +
			rapid.SampledFrom([]string{"", "&_summary=count", "&_total=accurate&_count=1"}).Draw(rt, "total")
		answers := [2]string{}
		for k, w := range []things{a, b} {
			st := newModelStore(func() time.Time { return time.Date(2026, 10, 3, 0, 0, 0, 0, time.UTC) })
			st.state["page/key"] = make([]byte, 32)
			s := w.service(t, st, joined)
			page, err := s.Search(context.Background(), narrow(), typ, raw)
			if err != nil {
				answers[k] = err.Error()
				continue
			}
			answers[k] = string(page.Bytes())
		}
		if answers[0] != answers[1] {
			rt.Fatalf("%s?%s:\n%s\n%s", typ, raw, answers[0], answers[1])
		}
		rt.Logf("%s?%s", typ, raw)
	})
}

// TestHiddenWouldDecide is the control of TestHiddenDecidesNothing: without the Filter,
// what is hidden changes answers.
func TestHiddenWouldDecide(t *testing.T) {
	world := func(family string) things {
		return things{{typ: "Patient", id: "h", text: family, hidden: true, refs: map[string]int{}},
			{typ: "Observation", id: "o", text: "alpha", refs: map[string]int{"patient": 0}}}
	}
	for _, unfiltered := range []bool{false, true} {
		var totals []int
		for _, family := range []string{"alpha", "beta"} {
			st := newModelStore(time.Now)
			w := world(family)
			s := w.service(t, st, 100)
			rq := narrow()
			if unfiltered {
				rq.Principal.Grant.Rules[1].Params = nil
			}
			page, err := s.Search(t.Context(), rq, "Observation", "patient.family=alpha")
			if err != nil {
				t.Fatal(err)
			}
			matches, _ := entries(t, page)
			totals = append(totals, len(matches))
		}
		if differ := totals[0] != totals[1]; differ != unfiltered {
			t.Errorf("unfiltered %t: %v", unfiltered, totals)
		}
	}
}

// FuzzSearch feeds queries to the parser and what it accepts to the matcher.
func FuzzSearch(f *testing.F) {
	for _, q := range []string{"subject:Patient.name=x", "_has:Observation:patient:code=1",
		"_filter=family eq x and (a or b)",
		"code-value-quantity=1$gt2|s|u", "value-quantity=lt5.4|http://unitsofmeasure.org|mg", "_include:iterate=*",
		"identifier:of-type=a|b|c", "date=ap2020-01-01T00:00:00+01:00", "_list=1", "_revinclude=Provenance:target"} {
		f.Add("Observation", q)
		f.Add("Patient", q)
	}
	v, err := search.Extract("Observation",
		[]byte(`{"resourceType":"Observation","id":"1","status":"final","code":{"coding":[{"code":"x"}]}}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, typ, raw string) {
		pairs, err := search.Pairs(raw)
		if err != nil {
			return
		}
		q, err := search.Parse(typ, pairs, search.ParseOptions{Joins: true, Base: "https://pg.example/fhir"})
		if err == nil {
			search.Match(q, v)
		}
	})
}
