package storetest

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/definitions/sample"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// Search is a resource and a query by one of its values.
type Search struct {
	Type, ID, Param, Body string
	Query                 string // percent-encoded
}

// Searches returns, for every type and search parameter, a small resource with a value of
// the parameter and a query for the value. The value is taken from the resource by
// search.Extract. Composite parameters have none.
func Searches() (out []Search) {
	for _, typ := range fhir.Types {
		for _, p := range search.Params(typ) {
			if p.Code == "_id" || p.Code == "_lastUpdated" || p.Type.Composite() {
				continue
			}
			if s, ok := searchOf(typ, p); ok {
				out = append(out, s)
			}
		}
	}
	return out
}

// searchOf returns a Search by one parameter, or false if no path of it can be filled.
func searchOf(typ string, p *search.Param) (Search, bool) {
	s := Search{Type: typ, ID: "of-" + strings.Replace(p.Code, "_", "common-", 1), Param: p.Code}
	st := definitions.R4().Structure(typ)
	for i := range p.Paths {
		path := &p.Paths[i]
		m := sample.Member(st, path.Steps)
		if m == nil {
			continue
		}
		body, ok := sample.Resource(typ, s.ID, sample.Place{Path: path.Steps, Values: []string{valueFor(p, path, m)}})
		if !ok {
			continue
		}
		body = strings.ReplaceAll(body, `"Patient/1"`, `"Patient/p1"`)
		values, err := search.Extract(typ, []byte(body))
		if err != nil {
			continue
		}
		have := values.ByParam[p.Code]
		for j := range have {
			if text := textOf(p, &have[j]); text != "" {
				s.Body, s.Query = body, p.Code+"="+url.QueryEscape(text)
				return s, true
			}
		}
	}
	return s, false
}

// valueFor returns a value for the element at a path of a parameter.
func valueFor(p *search.Param, path *search.Path, m *definitions.Member) string {
	if m.Structure == nil {
		return sample.Value(m)
	}
	if path.WhereMember != "" {
		if where := m.Structure.LookupString(path.WhereMember); where != nil {
			other := ""
			if m.Structure.LookupString("value") != nil {
				other = `,"value":"+1 555"`
			}
			return `{"` + path.WhereMember + `":"` + path.WhereValue + `"` + other + `}`
		}
	}
	switch m.Structure.Name {
	case "Reference":
		target := path.Want
		for _, t := range p.Targets {
			if (target == "" || path.Want == "" && t == "Patient") && (m.Targets == nil || m.Targets.Has(t)) {
				target = t
			}
		}
		if target == "" {
			return sample.Value(m)
		}
		if target == "Patient" {
			return `{"reference":"Patient/p1"}`
		}
		return `{"reference":"` + target + `/x1"}`
	case "CodeableConcept", "Coding":
		if m.Codes == nil {
			coding := `{"system":"urn:codes","code":"a b,c"}`
			if m.Structure.Name == "Coding" {
				return coding
			}
			return `{"coding":[` + coding + `]}`
		}
	case "Identifier":
		return `{"system":"urn:ids","value":"1|$2"}`
	case "Quantity", "SimpleQuantity", "Age", "Duration":
		return `{"value":1.5,"system":"http://unitsofmeasure.org","code":"min"}`
	case "Period":
		return `{"start":"2026-03-01T08:00:00Z","end":"2026-03-02"}`
	case "Range":
		return `{"low":{"value":1},"high":{"value":2}}`
	case "HumanName":
		return `{"family":"Zoë O'Neil"}`
	case "Address":
		return `{"city":"Sankt Gallen","use":"home","country":"CH","state":"SG","postalCode":"9000"}`
	}
	return sample.Value(m)
}

var escaper = strings.NewReplacer(`\`, `\\`, "$", `\$`, ",", `\,`, "|", `\|`)

// textOf returns an index value as a client writes it, or "" if there is nothing to compare.
func textOf(p *search.Param, v *search.Value) string {
	if v.Unvalued {
		return ""
	}
	switch p.Type {
	case search.TypeToken:
		if v.System != "" && v.Code != "" {
			return escaper.Replace(v.System) + "|" + escaper.Replace(v.Code)
		}
		return escaper.Replace(v.Code)
	case search.TypeReference:
		if v.RefType != "" {
			return v.RefType + "/" + v.RefID
		}
		return escaper.Replace(v.Code)
	case search.TypeDate:
		return "ge" + time.UnixMilli(v.Lo).UTC().Format(fhir.InstantLayout)
	case search.TypeNumber:
		return strconv.FormatFloat(v.Num, 'f', -1, 64)
	case search.TypeQuantity:
		return strconv.FormatFloat(v.Num, 'f', -1, 64) + "|" + escaper.Replace(v.System) + "|" +
			escaper.Replace(v.Code)
	}
	return escaper.Replace(v.Code)
}

// unsearched bounds the number of parameters for which Searches has no resource: those
// whose expressions are not paths.
const unsearched = 70

// testEveryType creates, finds by each parameter, changes and removes a resource of every
// type.
func testEveryType(t *testing.T, s store.Store) {
	searches, none := Searches(), 0
	by := map[string][]Search{}
	for _, x := range searches {
		by[x.Type] = append(by[x.Type], x)
	}
	for _, typ := range fhir.Types {
		params := slices.DeleteFunc(slices.Clone(search.Params(typ)), func(p *search.Param) bool {
			return p.Type.Composite() || p.Code == "_id" || p.Code == "_lastUpdated"
		})
		none += len(params) - len(by[typ])
		testType(t, s, typ, by[typ])
	}
	if t.Logf("%d searches; %d parameters without one", len(searches), none); none > unsearched {
		t.Errorf("%d search parameters have no search, at most %d are expected", none, unsearched)
	}
}

func testType(t *testing.T, s store.Store, typ string, by []Search) {
	t.Helper()
	body, ok := sample.Resource(typ, "every")
	if !ok {
		t.Fatalf("%s: no sample", typ)
	}
	writes := []store.Write{{Resource: canonical(typ, "every", body), Expect: store.Absent}}
	for _, x := range by {
		writes = append(writes, store.Write{Resource: canonical(typ, x.ID, x.Body)})
	}
	if _, err := s.Commit(context.Background(), &store.Batch{Writes: writes}); err != nil {
		t.Fatalf("%s: %v", typ, err)
	}
	finds := func(raw, id string, want bool) {
		t.Helper()
		if got := found(t, s, store.Find{Query: parse(t, typ, raw), Filter: all}); slices.Contains(got, id) != want {
			t.Errorf("%s?%s: %v; %s is found: %v, want %v", typ, raw, got, id, !want, want)
		}
	}
	for _, x := range by {
		finds(x.Query, x.ID, true)
		finds(x.Query+"&_id="+x.ID, x.ID, true)
		finds(x.Param+":missing=true", x.ID, false)
	}
	finds("_id=every", "every", true)
	finds("_lastUpdated=ge2000-01-01", "every", true)
	commit(t, s, store.Write{Resource: canonical(typ, "every", strings.TrimSuffix(body, "}")+`,"language":"de"}`),
		Expect: store.Version, IfVersion: 1})
	r, _, err := s.Read(context.Background(), fhir.Ref{Type: typ, ID: "every"}, 0)
	if err != nil || r.Version != 2 || !strings.Contains(string(r.JSON), `"language":"de"`) {
		t.Errorf("%s after an update: %v %s", typ, err, fmt.Sprint(r))
	}
	commit(t, s, remove(typ, "every"))
	finds("_id=every", "every", false)
	finds("_lastUpdated=ge2000-01-01", "every", false)
}

// canonical returns a sample in the form in which a store takes it.
func canonical(typ, id, body string) fhir.Resource {
	rest := strings.TrimPrefix(body, `{"resourceType":"`+typ+`","id":"`+id+`"`)
	if meta, ok := strings.CutPrefix(rest, `,"meta":{`); ok {
		return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + meta)}
	}
	return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + rest)}
}
