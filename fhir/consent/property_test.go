package consent_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
)

type obj = map[string]any

const hl7Category = "http://terminology.hl7.org/CodeSystem/observation-category"

func cc(system, code string) obj { return obj{"coding": []any{obj{"system": system, "code": code}}} }

func drawProvision(t *rapid.T, depth int) obj {
	p := obj{"type": rapid.SampledFrom([]string{"permit", "deny"}).Draw(t, "type")}
	if depth == 0 && rapid.IntRange(0, 3).Draw(t, "root") > 0 {
		p["type"] = "permit"
	}
	if n := rapid.SampledFrom([]string{"", "ehr", "lab", "any", "a1"}).Draw(t, "actor"); n != "" || depth == 0 &&
		rapid.Bool().Draw(t, "named") {
		if n == "" {
			n = "any"
		}
		system := consent.ClientSystem
		if n == "a1" {
			system = consent.AuthorizationSystem
		}
		p["actor"] = []any{obj{"role": cc("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "IRCP"),
			"reference": obj{"identifier": obj{"system": system, "value": n}}}}
	}
	if a := rapid.SampledFrom([]string{"", "", "", "disclose", "collect", "use"}).Draw(t, "action"); a != "" {
		p["action"] = []any{cc("http://terminology.hl7.org/CodeSystem/consentaction", a)}
	}
	if c := rapid.SampledFrom([]string{"", "", "", "Observation", "Device"}).Draw(t, "class"); c != "" {
		p["class"] = []any{obj{"system": "http://hl7.org/fhir/resource-types", "code": c}}
	}
	var codes []any
	for _, v := range []string{"apple", "oura"} {
		if rapid.IntRange(0, 3).Draw(t, "vendor") == 0 {
			codes = append(codes, cc(consent.VendorSystem, v))
		}
	}
	for _, c := range []string{"sleep", "activity", "location"} {
		if rapid.IntRange(0, 3).Draw(t, "category") == 0 {
			codes = append(codes, cc(hl7Category, c))
		}
	}
	if codes != nil {
		p["code"] = codes
	}
	switch rapid.IntRange(0, 7).Draw(t, "period") {
	case 0:
		p["period"] = obj{"end": "2025"}
	case 1:
		p["period"] = obj{"start": "2026-11-24"}
	}
	if rapid.IntRange(0, 11).Draw(t, "odd") == 0 {
		p["purpose"] = []any{obj{"code": "TREAT"}}
	}
	if depth < 2 {
		for range rapid.IntRange(0, 2).Draw(t, "nested") {
			list, _ := p["provision"].([]any)
			p["provision"] = append(list, drawProvision(t, depth+1))
		}
	}
	return p
}

// interpret evaluates a provision for one request literally by the rules in the
// package comment. It returns "permit", "deny" or "".
func interpret(p obj, who, app string, f *access.Facts, named bool) string {
	typ := p["type"]
	action := ""
	if list, ok := p["action"].([]any); ok {
		action = list[0].(obj)["coding"].([]any)[0].(obj)["code"].(string)
	}
	odd := p["purpose"] != nil || action == "use"
	if odd && typ == "deny" {
		typ, p = "deny", obj{"provision": p["provision"]}
	} else if odd {
		p = obj{"provision": p["provision"]}
	}
	if pr, ok := p["period"].(obj); ok && pr["end"] == "2025" {
		return ""
	}
	if action == "collect" && !odd {
		return ""
	}
	if actors, ok := p["actor"].([]any); ok {
		hit := false
		for _, a := range actors {
			id := a.(obj)["reference"].(obj)["identifier"].(obj)
			if v := id["value"]; id["system"] == consent.AuthorizationSystem {
				hit = hit || v == app
			} else {
				hit = hit || v == "any" || v == who
			}
		}
		if !hit {
			return ""
		}
		named = true
	}
	vendors, cats := map[string]bool{}, map[string]bool{}
	if codes, ok := p["code"].([]any); ok {
		for _, c := range codes {
			x := c.(obj)["coding"].([]any)[0].(obj)
			if x["system"] == consent.VendorSystem {
				vendors[x["code"].(string)] = true
			} else {
				cats[x["code"].(string)] = true
			}
		}
	}
	if len(vendors) > 0 && (f.Vendor == "" && typ == "deny" || f.Vendor != "" && !vendors[f.Vendor]) {
		return ""
	}
	if list, ok := p["class"].([]any); ok && list[0].(obj)["code"] != f.Type {
		return ""
	}
	asked := f.Categories
	location := slices.Contains(asked, "location") && typ == "permit" && !cats["location"]
	// which refine activity
	if typ == "permit" && (slices.Contains(asked, "sleep") || slices.Contains(asked, "location")) {
		asked = slices.DeleteFunc(slices.Clone(asked), func(c string) bool { return c == "activity" })
	}
	complete := true // a permit covers all of the resource's categories
	if len(cats) > 0 {
		hits := 0
		for _, c := range asked {
			if cats[c] || c == "sleep" && cats["activity"] {
				hits++
			}
		}
		switch {
		case f.Type == "Device":
			if typ == "deny" || len(cats) == 1 && cats["location"] {
				return ""
			}
		case len(f.Categories) == 0:
			if typ == "permit" {
				return ""
			}
			complete = false
		case hits == 0:
			return ""
		default:
			complete = typ == "deny" || hits == len(asked)
		}
	}
	exceptions := map[string]bool{}
	if list, ok := p["provision"].([]any); ok {
		for _, n := range list {
			exceptions[interpret(n.(obj), who, app, f, named)] = true
		}
	}
	understood := complete && !odd
	switch {
	case exceptions["deny"]:
		return "deny"
	case exceptions["permit"] && understood:
		return "permit"
	case typ == "deny":
		return "deny"
	case understood && named && !location: // which must be named
		return "permit"
	}
	return ""
}

// onlyApps reports whether all recipients of a Consent are authorizations.
func onlyApps(d obj) bool {
	p := d["provision"].(obj)
	a, ok := p["actor"].([]any)
	odd := p["purpose"] != nil
	if list, ok := p["action"].([]any); ok {
		odd = odd || list[0].(obj)["coding"].([]any)[0].(obj)["code"] == "use"
	}
	return ok && !odd && a[0].(obj)["reference"].(obj)["identifier"].(obj)["system"] == consent.AuthorizationSystem
}

// interpretAll evaluates all Consents of a patient.
func interpretAll(docs []obj, who, app string, f *access.Facts) bool {
	permit, withdrawn := false, false
	for _, d := range docs {
		withdrawn = withdrawn || d["status"] == "inactive" && !onlyApps(d)
		if d["status"] != "active" {
			continue
		}
		switch interpret(d["provision"].(obj), who, app, f, false) {
		case "deny":
			return false
		case "permit":
			later := false
			for _, w := range docs {
				later = later || w["status"] == "inactive" && !onlyApps(w) &&
					w["meta"].(obj)["lastUpdated"].(string) >= d["dateTime"].(string) &&
					interpret(w["provision"].(obj), who, app, f, false) == "permit"
			}
			permit = permit || !onlyApps(d) || !later
		}
	}
	return permit || f.Vendor == "" && f.Author == who && !withdrawn
}

// TestPermitsEqualsInterpreter compares Permits with the literal interpreter.
func TestPermitsEqualsInterpreter(t *testing.T) {
	permitted, denied := 0, 0
	property := func(t *rapid.T) {
		s := newMemStore()
		e, err := consent.New(consent.Options{Store: s, Clock: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		var docs []obj
		for i := range rapid.IntRange(0, 3).Draw(t, "consents") {
			d := obj{"resourceType": "Consent", "id": fmt.Sprint("c", i),
				"meta": obj{"lastUpdated": fmt.Sprintf("2026-11-0%dT00:00:00Z",
					rapid.IntRange(1, 4).Draw(t, "updated"))},
				"dateTime": fmt.Sprintf("2026-11-0%dT00:00:00Z", rapid.IntRange(1, 4).Draw(t, "agreed")),
				"status": rapid.SampledFrom([]string{"active", "active", "active", "inactive", "draft"}).Draw(t,
					"status"),
				"scope":     cc("http://terminology.hl7.org/CodeSystem/consentscope", "patient-privacy"),
				"patient":   obj{"reference": "Patient/p1"},
				"provision": drawProvision(t, 0)}
			b, err := json.Marshal(d)
			if err != nil {
				t.Fatal(err)
			}
			// The interpreter needs the types of decoded JSON.
			var back obj
			if err := json.Unmarshal(b, &back); err != nil {
				t.Fatal(err)
			}
			docs = append(docs, back)
			s.put("p1", fhir.Resource{Type: "Consent", ID: fmt.Sprint("c", i), JSON: b})
		}
		for range 8 {
			f := &access.Facts{Patient: "p1",
				Type:   rapid.SampledFrom([]string{"Observation", "Observation", "Device"}).Draw(t, "facts"),
				Vendor: rapid.SampledFrom([]string{"apple", "oura", ""}).Draw(t, "of"),
				Author: rapid.SampledFrom([]string{"", "lab"}).Draw(t, "author"),
				Categories: rapid.SampledFrom([][]string{nil, {"sleep"}, {"activity"}, {"sleep", "activity"},
					{"vital-signs"}, {"vital-signs", "sleep"}, {"activity", "vital-signs"},
					{"activity", "location"}, {"location"}}).Draw(t, "categories")}
			if f.Type == "Device" {
				f.Categories = nil
			}
			who := rapid.SampledFrom([]string{"ehr", "lab", "other"}).Draw(t, "who")
			app := rapid.SampledFrom([]string{"", "a1", "a1", "a2"}).Draw(t, "app")
			want := interpretAll(docs, who, app, f)
			if got := e.ForAuthorization(app).Permits(who, f); got != want {
				t.Fatalf("Permits(%s, %s, %+v) = %v, want %v\n%v", who, app, f, got, want, docs)
			}
			if want {
				permitted++
			} else {
				denied++
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; permitted < 50 || denied < 50; round++ { // a run may by chance not cover both cases
		if round == 20 {
			t.Fatalf("the draws do not cover both cases: %d permitted, %d denied", permitted, denied)
		}
		rapid.Check(t, property)
	}
}
