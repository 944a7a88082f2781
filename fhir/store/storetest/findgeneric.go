package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// generic describes a type whose searches an index may answer: members of its resources
// and clauses, each with choices, and parameters by which it can be sorted.
type generic struct {
	typ     string
	members [][]string
	clauses []string
	sorts   []string
}

var generics = []generic{ // read only
	{"Patient", [][]string{
		{`"name":[{"family":"van der Berg","given":["Ann"]}]`, `"name":[{"family":"Müller"},{"text":"Zoe O'Neil"}]`,
			`"name":[{"family":"Berg","given":["Ann","Zoë"]}]`, `"name":[{"family":"vanderbeek"}]`, ``,
			`"name":[{"family":"` + strings.Repeat("Longname ", 12) + `"}]`,
			`"name":[{"family":"` + strings.Repeat("Longname ", 12) + `B"}]`,
			`"name":[{"text":"` + strings.Repeat("w ", 40) + `Berg"}]`},
		{`"birthDate":"1980"`, `"birthDate":"1980-05"`, `"birthDate":"1980-05-17"`, `"birthDate":"1990-01-01"`, ``},
		{`"gender":"female"`, `"gender":"male"`, ``}, {`"active":true`, `"active":false`, ``},
		{`"deceasedDateTime":"2020-01-01T10:00:00Z"`, `"deceasedBoolean":true`, ``},
		{`"identifier":[{"system":"urn:a","value":"1"}]`,
			`"identifier":[{"system":"urn:a","value":"1"},{"system":"urn:b","value":"2"}]`,
			`"identifier":[{"value":"2"}]`, ``},
		{`"managingOrganization":{"reference":"Organization/o1"}`,
			`"managingOrganization":{"reference":"Organization/o2"}`,
			`"managingOrganization":{"identifier":{"system":"urn:x","value":"77"}}`, ``},
		{`"address":[{"city":"Sankt Gallen","country":"CH"}]`, `"address":[{"city":"St. Gallen"}]`,
			`"address":[{"city":"Zürich"}]`, ``},
	}, []string{"name=berg", "name=van", "name=ann,zoe", "family=vander", "family=M%C3%BCll", "name:exact=Berg",
		"name:contains=erg", "family:missing=true", "family:missing=false", "name=longname", "name=longname longname b",
		"family:exact=" + strings.Repeat("Longname ", 11) + "Longname", "birthdate=1980", "birthdate=ge1980-05",
		"birthdate=lt1985", "birthdate=ne1980-05", "birthdate=sa1980", "birthdate=eb1990", "birthdate=1980-05-17,1990",
		"birthdate=ap1980-05", "birthdate=ge1980&birthdate=lt1985", "birthdate=ge1980-05&birthdate=le1980-05-20",
		"birthdate:missing=true", "birthdate:missing=false", "gender:missing=false", "gender:missing=true",
		"active:missing=false", "deceased:missing=false", "identifier:missing=false", "name:missing=false",
		"gender=female", "gender:not=female",
		"gender=female,male", "active=true", "deceased=true", "death-date=gt2019", "identifier=1", "identifier=urn:b|2",
		"identifier=urn:a|", "identifier=|2", "organization=Organization/o1",
		"organization=Organization/o1,Organization/o2",
		"organization:identifier=urn:x|77", "organization:missing=true", "address-city=sankt", "address=z%C3%BCr",
		"_id=r1,r2,r3", "_lastUpdated=ge2020-01-01", "_id:not=r1",
	}, []string{"name", "family", "birthdate", "-birthdate", "gender", "-name", "_id", "-_id", "-_lastUpdated",
		"identifier", "organization", "-gender", "address-city", "death-date", "_lastUpdated"}},
	{"CodeSystem", [][]string{
		{`"url":"http://a.org/fhir"`, `"url":"http://a.org/fhir/x"`, `"url":"http://a.org/fhirbase"`, `"url":"urn:a"`,
			`"url":"http://a.org/` + strings.Repeat("l/", 120) + `"`, ``},
		{`"version":"1"`, `"version":"1.2"`, ``}, {`"status":"active"`, `"status":"draft"`},
		{`"date":"2026-01-01"`, `"date":"2026-01-01T10:00:00.123456Z"`, `"date":"2025"`, ``},
		{`"name":"Alpha"`, `"name":"Beta"`, `"name":"alpha beta"`, ``}, {`"title":"The Alpha"`, ``},
		{`"jurisdiction":[{"coding":[{"system":"urn:iso","code":"CH"}]}]`, ``},
	}, []string{"url=http://a.org/fhir", "url:below=http://a.org/fhir", "url:above=http://a.org/fhir/x/y",
		"url:below=http://a.org/", "url=http://a.org/" + strings.Repeat("l/", 120), "url:missing=true", "url:missing=false",
		"status:missing=false", "jurisdiction:missing=false", "version:missing=true", "version=1",
		"status=active", "date=2026", "date=ge2026-01-01T10:00:00Z", "date=lt2026-01-01T10:00:00.1235Z", "name=alpha",
		"name:exact=Alpha", "title=the", "title=alpha", "jurisdiction=urn:iso|CH", "jurisdiction:not=CH",
		"url:below=http://a.org/" + strings.Repeat("l/", 118),
	}, []string{"url", "-url", "date", "-date", "name", "-name", "version", "status", "title", "_id"}},
	{"Consent", [][]string{
		{`"patient":{"reference":"Patient/p1"}`, `"patient":{"reference":"Patient/p2"}`, ``},
		{`"dateTime":"2026-01-01T10:00:00Z"`, `"dateTime":"2026-01-02"`, ``},
		{`"status":"active"`, `"status":"inactive"`},
		{`"provision":{"period":{"start":"2026-01-01"}}`, `"provision":{"period":{"end":"2026-06-01"}}`,
			`"provision":{"period":{"start":"2026-01-01","end":"2027"}}`, ``},
		{`"category":[{"coding":[{"system":"urn:c","code":"x"}]}]`, ``},
	}, []string{"patient=Patient/p1", "patient=p1,p2", "status=active", "period=2026", "period=ge2026-05",
		"period=sa2025",
		"date=2026-01-01", "date=gt2026-01-01", "category=x", "category=urn:c|x,urn:d|x", "patient:missing=true",
	}, []string{"date", "-date", "period", "-period", "status", "patient", "_lastUpdated", "-_id"}},
	{"Device", [][]string{
		{`"patient":{"reference":"Patient/p1"}`, `"patient":{"reference":"Patient/p2"}`, ``},
		{`"manufacturer":"Acme"`, `"manufacturer":"Aktia"`, ``},
		{`"modelNumber":"M 1"`, `"modelNumber":"M-1"`, `"modelNumber":"m2"`, ``},
		{`"status":"active"`, ``}, {`"deviceName":[{"name":"Band","type":"model-name"}]`, ``},
	}, []string{"patient=p1", "patient=p1,p2", "manufacturer=ac", "model=m1", "model=m 1", "model:exact=M-1",
		"status=active",
		"device-name=band", "patient=p2"},
		[]string{"manufacturer", "model", "-model", "patient", "-_lastUpdated", "_id"}},
	{"Encounter", [][]string{
		{quantityOf("length", "30", "min"), quantityOf("length", "1", "h"), quantityOf("length", "60", "min"),
			quantityOf("length", "0.5", "h"), `"length":{"value":45,"unit":"minutes"}`, ``},
		{`"subject":{"reference":"Patient/p1"}`, `"subject":{"reference":"Patient/p2"}`, ``},
		{`"period":{"start":"2026-01-01T10:00:00Z","end":"2026-01-01T11:00:00Z"}`,
			`"period":{"start":"2026-01-02"}`, ``},
		{`"status":"finished"`, `"status":"planned"`}, {`"class":{"system":"urn:c","code":"AMB"}`, ``},
	}, []string{"length=60|" + ucum + "|min", "length=ge0.5|" + ucum + "|h", "length=lt1|" + ucum + "|h", "length=30",
		"length=gt30||min", "length=ge30&length=lt50", "length=gt0.4|" + ucum + "|h&length=lt50|" + ucum + "|min",
		"length=ge1|" + ucum + "|h&length=lt70", "length=ne60|" + ucum + "|min", "length=ap35|" + ucum + "|min",
		"length:missing=true",
		"length:missing=false", "length=45||minutes", "subject=Patient/p1", "patient=p1", "patient=p1,p2",
		"date=2026-01-01", "date=ge2026-01-02", "status=finished", "class=urn:c|AMB", "class:not=AMB",
		"status=planned,finished",
	}, []string{"length", "-length", "date", "-date", "status", "class", "-_lastUpdated", "_id"}},
	{"RiskAssessment", [][]string{
		{`"prediction":[{"probabilityDecimal":0.5}]`,
			`"prediction":[{"probabilityDecimal":0.25},{"probabilityDecimal":0.75}]`,
			`"prediction":[{"probabilityRange":{"low":{"value":0.2},"high":{"value":0.3}}}]`, ``},
		{`"subject":{"reference":"Patient/p1"}`, `"subject":{"reference":"Group/g1"}`},
		{`"occurrenceDateTime":"2026-01-01"`, ``}, {`"status":"final"`, ``},
	}, []string{"probability=0.5", "probability=gt0.2", "probability=le0.3", "probability=gt0.2&probability=lt0.3",
		"probability=ge0.7&probability=le0.4", "probability=ne0.5", "probability=sa0.2",
		"probability=ap0.25", "probability:missing=true", "probability:missing=false", "subject=Patient/p1", "subject=Group/g1", "date=2026-01-01",
		"patient=p1"}, []string{"probability", "-probability", "date", "subject", "_id"}},
	{"Observation", [][]string{
		{`"subject":{"reference":"Patient/p1"}`, `"subject":{"reference":"Patient/p2"}`,
			`"subject":{"reference":"Device/d1"}`, `"subject":{"reference":"http://other.org/Patient/p1"}`, ``},
		{`"performer":[{"reference":"Patient/p1"}]`,
			`"performer":[{"reference":"Practitioner/x"},{"reference":"Patient/p2"}]`,
			`"performer":[{"reference":"http://other.org/Practitioner/x"}]`, ``},
		{`"device":{"reference":"Device/d1"}`, ``}, {`"encounter":{"reference":"Encounter/e1"}`, ``},
		{`"effectiveDateTime":"2026-01-01"`, `"effectiveDateTime":"2026-01-01T10:00:00Z"`,
			`"effectivePeriod":{"start":"2026-01-02","end":"2026-01-04"}`, ``},
		{`"code":{"coding":[{"system":"urn:s","code":"1"},{"system":"urn:t","code":"2"}]}`,
			`"code":{"coding":[{"system":"urn:s","code":"2"}]}`},
		{`"identifier":[{"system":"urn:i","value":"1"}]`, ``},
	}, []string{"performer=Patient/p1", "performer=Patient/p2,Patient/p1", "performer=Practitioner/x",
		"performer=Practitioner/x,Patient/p1", "performer:Patient=p2", "performer=http://other.org/Practitioner/x",
		"subject=Patient/p1",
		"subject=Device/d1", "subject=Device/d1,Patient/p1", "patient=p2", "patient=p1,p2",
		"subject=http://other.org/Patient/p1", "device=Device/d1", "encounter=Encounter/e1",
		"encounter=Encounter/e1,Encounter/e2", "code=urn:s|2", "code=2", "date=2026-01-01", "date=ge2026-01-02",
		"identifier=1", "performer:missing=true", "_id=r1,r2", "_lastUpdated=ge2020-01-01",
	}, []string{"date", "-date", "date", "-date", "_lastUpdated", "-_lastUpdated", "_id", "code"}},
	{"Procedure", [][]string{
		{`"subject":{"reference":"Patient/p1"}`, `"subject":{"reference":"Patient/p2"}`},
		{`"performedString":"in spring"`, `"performedDateTime":"2026-01-02"`, quantityOf("performedAge", "40", "a"),
			`"performedPeriod":{"start":"2026-01-01"}`, `"performedPeriod":{}`, ``},
		{`"status":"completed"`, `"status":"unknown"`, ``},
		{`"code":{"coding":[{"system":"urn:s","code":"1"}]}`, `"code":{"coding":[{"system":"urn:s"}]}`,
			`"code":{"text":"Walk"}`, ``},
		{`"encounter":{"display":"a visit"}`, `"encounter":{"reference":"Encounter/e1"}`, ``},
	}, []string{"date:missing=false", "date:missing=true", "date=2026", "date=ge2026-01-02", "status:missing=false",
		"status=completed", "status=completed,unknown", "status:missing=true", "code:missing=false", "code:missing=true",
		"code=urn:s|", "code=1", "code=urn:s|1", "encounter:missing=false", "encounter:missing=true",
		"encounter=Encounter/e1", "patient=p1", "patient=p1,p2", "subject=Patient/p2",
	}, []string{"date", "-date", "status", "code", "_lastUpdated", "-_id"}},
	{"Condition", [][]string{
		{`"subject":{"reference":"Patient/p1"}`, `"subject":{"reference":"Patient/p2"}`},
		{`"asserter":{"reference":"Patient/p1"}`, `"asserter":{"reference":"Practitioner/x"}`, ``},
		{quantityOf("onsetAge", "40", "a"), `"onsetDateTime":"2020-05"`, `"onsetString":"in his youth"`, ``},
		{`"code":{"coding":[{"system":"urn:s","code":"1"},{"system":"urn:t","code":"2"}],"text":"Flu"}`,
			`"code":{"coding":[{"system":"urn:s","code":"2"}]}`, ``},
	}, []string{"patient=p1", "subject=Patient/p1", "asserter=Patient/p1", "asserter=Practitioner/x", "onset-age=40",
		"onset-age=gt30|" + ucum + "|a", "onset-date=2020", "onset-info=youth", "onset-info=in his", "code=urn:s|2",
		"code=2",
		"code=1,2", "code:text=flu", "patient=p1,p2", "code:missing=true",
	}, []string{"code", "-code", "onset-date", "-onset-age", "onset-info", "subject", "_lastUpdated"}},
}

const ucum = element.UCUM

func quantityOf(member, value, code string) string {
	return fmt.Sprintf(`"%s":{"value":%s,"system":"%s","code":"%s"}`, member, value, ucum, code)
}

// hiding is a filter that hides the resources of one vendor.
type hiding struct {
	vendors map[store.Seq]map[string]string // of the resources after each commit
}

const hiddenVendor = "hidden"

func (h *hiding) hides(at store.Seq, key string) bool {
	return h != nil && h.vendors[at][key] == hiddenVendor
}

func (h *hiding) filter() access.Filter {
	if h == nil {
		return all
	}
	g := access.Grant{AllPatients: true, Rules: []access.Rule{{Type: "*", May: access.Search | access.Read,
		Vendor: "seen"}}}
	return g.Filter(access.Search | access.Read)
}

// testFindGeneric compares random searches of types with an index of every parameter
// with an evaluation of all resources, at snapshots, after updates and deletions.
func testFindGeneric(t *testing.T, d Driver) {
	rapid.Check(t, func(rt *rapid.T) {
		s := d.Open(t, nil)
		defer func() { shut(t, s) }()
		g := &generics[rapid.IntRange(0, len(generics)-1).Draw(rt, "type")]
		w, h := writeGeneric(rt, s, g)
		s = d.Reopen(t, s)
		ts := slices.Sorted(maps.Keys(w))
		for range 40 {
			at := ts[len(ts)-1]
			if rapid.Bool().Draw(rt, "earlier") {
				at = rapid.SampledFrom(ts).Draw(rt, "at")
			}
			q, raw := anyQuery(rt, g)
			hidden := h
			if rapid.Bool().Draw(rt, "unfiltered") {
				hidden = nil
			}
			w.checkQuery(rt, s, q, raw, at, rapid.IntRange(1, 4).Draw(rt, "page"), hidden)
		}
		sound(rt, s)
	})
}

func writeGeneric(rt *rapid.T, s store.Store, g *generic) (world, *hiding) {
	w, h := world{}, &hiding{map[store.Seq]map[string]string{}}
	cur, vendors := map[string]*search.Values{}, map[string]string{}
	for range rapid.IntRange(3, 15).Draw(rt, "commits") {
		var b store.Batch
		for _, i := range rapid.SliceOfNDistinct(rapid.IntRange(0, 9), 1, 5, rapid.ID[int]).Draw(rt, "ids") {
			id := fmt.Sprint("r", i)
			if rapid.IntRange(0, 6).Draw(rt, "remove") == 0 {
				b.Writes = append(b.Writes, remove(g.typ, id))
				continue
			}
			x := put(g.typ, id, g.resource(rt))
			x.Vendor = rapid.SampledFrom([]string{"seen", hiddenVendor}).Draw(rt, "vendor")
			b.Writes = append(b.Writes, x)
		}
		r, err := s.Commit(context.Background(), &b)
		if err != nil {
			rt.Fatal(err)
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
			if cur[key], err = search.Extract(g.typ, o.JSON); err != nil {
				rt.Fatal(err)
			}
			vendors[key] = b.Writes[i].Vendor
		}
		if r.Seq != 0 {
			w[r.Seq], h.vendors[r.Seq] = maps.Clone(cur), maps.Clone(vendors)
		}
	}
	if len(w) == 0 {
		rt.Skip("nothing was written")
	}
	return w, h
}

func (g *generic) resource(rt *rapid.T) string {
	var parts []string
	for _, choices := range g.members {
		if m := rapid.SampledFrom(choices).Draw(rt, "member"); m != "" {
			parts = append(parts, m)
		}
	}
	return strings.Join(parts, ",")
}

// anyQuery returns a search of up to three clauses, of which one may be a union or
// negated, with up to two sort keys.
func anyQuery(rt *rapid.T, g *generic) (*search.Query, string) {
	pairs := rapid.SliceOfN(rapid.SampledFrom(g.clauses), 0, 3).Draw(rt, "clauses")
	raw := strings.Join(pairs, "&")
	if keys := rapid.SliceOfNDistinct(rapid.SampledFrom(g.sorts), 0, 2, rapid.ID[string]).Draw(rt,
		"sort"); len(keys) > 0 {
		raw = strings.TrimPrefix(raw+"&_sort="+strings.Join(keys, ","), "&")
	}
	q := parse(rt, g.typ, raw)
	if len(q.Clauses) > 1 && rapid.Bool().Draw(rt, "any") {
		q.Patient = "" // the parser took it from a clause of its own
		n := rapid.IntRange(1, len(q.Clauses)-1).Draw(rt, "list")
		u := search.Clause{Param: search.AnyOf,
			Any: [][]search.Clause{slices.Clone(q.Clauses[:n]), slices.Clone(q.Clauses[n:])},
			Not: rapid.IntRange(0, 3).Draw(rt, "not") == 0}
		q.Clauses = []search.Clause{u}
		raw += " as a union"
	} else if len(q.Clauses) > 0 && q.Patient == "" && rapid.IntRange(0, 5).Draw(rt, "negated") == 0 {
		q.Clauses[0].Not = true
		raw += " with the first negated"
	}
	return q, raw
}
