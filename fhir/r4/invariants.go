package r4

import (
	"strconv"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// reporter collects the invariants that an object breaks. The member is an
// element of the object, or empty for the object itself.
type reporter interface {
	broken(member, rule string)
}

// invariants holds the invariants of single objects by data type, element type
// or resource type. The issues name the key of the invariant in HL7's
// definition. Rules that need more than the object are in rules.go.
var invariants = map[string]func(v *fastjson.Value, r reporter){ // read only
	"Quantity":                   quantityRules,
	"SimpleQuantity":             quantityRules,
	"MoneyQuantity":              quantityRules,
	"Age":                        ageRules,
	"Count":                      countRules,
	"Distance":                   distanceRules,
	"Duration":                   durationRules,
	"Range":                      rangeRules,
	"Ratio":                      ratioRules,
	"Period":                     periodRules,
	"Attachment":                 attachmentRules,
	"ContactPoint":               contactPointRules,
	"Timing.Repeat":              repeatRules,
	"Expression":                 expressionRules,
	"TriggerDefinition":          triggerRules,
	"DataRequirement.CodeFilter": codeFilterRules,
	"DataRequirement.DateFilter": dateFilterRules,
	"AuditEvent.Entity":          entityRules,
	"Consent":                    consentRules,
	"Group":                      groupRules,
	"Observation":                observationRules,
	"Observation.ReferenceRange": referenceRangeRules,
	"Organization":               organizationRules,
	"Patient.Contact":            contactRules,
}

// has reports whether v has an element with a value or with extensions.
func has(v *fastjson.Value, name string) bool {
	return v.Exists(name) || v.Exists("_"+name)
}

func is(v *fastjson.Value, name, want string) bool {
	return string(v.GetStringBytes(name)) == want
}

// decimalOf returns the number in an element of v. It returns false if there is
// none.
func decimalOf(v *fastjson.Value, name string) (float64, bool) {
	n := v.Get(name)
	if n == nil || n.Type() != fastjson.TypeNumber {
		return 0, false
	}
	var slots [64]byte
	f, err := strconv.ParseFloat(string(n.MarshalTo(slots[:0])), 64)
	return f, err == nil
}

func quantityRules(v *fastjson.Value, r reporter) {
	if v.Exists("code") && !has(v, "system") {
		r.broken("", "a quantity with a code needs a system (qty-3)")
	}
}

// unitRules checks the invariants that Age, Count and Distance share.
func unitRules(v *fastjson.Value, r reporter, key string) {
	quantityRules(v, r)
	if v.Exists("value") && !has(v, "code") {
		r.broken("", "a value needs a code ("+key+")")
	}
	if v.Exists("system") && !is(v, "system", element.UCUM) {
		r.broken("system", "must be UCUM ("+key+")")
	}
}

// timeUnits holds UCUM's units of time.
var timeUnits = set("as fs ps ns us ms s min h d wk mo mo_j mo_s mo_g a a_j a_t a_g") // read only

func ageRules(v *fastjson.Value, r reporter) {
	unitRules(v, r, "age-1")
	if n, ok := decimalOf(v, "value"); ok && n <= 0 {
		r.broken("value", "an age must be greater than zero (age-1)")
	}
	if c := v.GetStringBytes("code"); len(c) > 0 && !timeUnits[string(c)] {
		r.broken("code", "must be a unit of time (age-1)")
	}
}

func countRules(v *fastjson.Value, r reporter) {
	unitRules(v, r, "cnt-3")
	if v.Exists("code") && !is(v, "code", "1") {
		r.broken("code", `must be "1" (cnt-3)`)
	}
	if n := v.Get("value"); n != nil && strings.Contains(string(n.MarshalTo(nil)), ".") {
		r.broken("value", "must be a whole number (cnt-3)")
	}
}

func distanceRules(v *fastjson.Value, r reporter) { unitRules(v, r, "dis-1") }

func durationRules(v *fastjson.Value, r reporter) {
	if v.Exists("code") && (!is(v, "system", element.UCUM) || !has(v, "value")) {
		r.broken("", "a duration with a code needs a value and the system UCUM (drt-1)")
	}
	if c := v.GetStringBytes("code"); len(c) > 0 && !timeUnits[string(c)] {
		r.broken("code", "must be a unit of time (drt-1)")
	}
}

// rangeRules compares quantities only if they have the same unit, as FHIRPath
// does.
func rangeRules(v *fastjson.Value, r reporter) {
	low, high := v.Get("low"), v.Get("high")
	if low == nil || high == nil {
		return
	}
	a, ok1 := decimalOf(low, "value")
	b, ok2 := decimalOf(high, "value")
	if ok1 && ok2 && a > b && sameUnit(low, high) {
		r.broken("", "low must not be greater than high (rng-2)")
	}
}

func sameUnit(a, b *fastjson.Value) bool {
	unit := "code"
	if !a.Exists("code") && !b.Exists("code") {
		unit = "unit"
	}
	return string(a.GetStringBytes(unit)) == string(b.GetStringBytes(unit)) &&
		string(a.GetStringBytes("system")) == string(b.GetStringBytes("system"))
}

func ratioRules(v *fastjson.Value, r reporter) {
	numerator, denominator := v.Exists("numerator"), v.Exists("denominator")
	if numerator != denominator || !numerator && !v.Exists("extension") {
		r.broken("", "needs both numerator and denominator, or an extension instead (rat-1)")
	}
}

func periodRules(v *fastjson.Value, r reporter) {
	start, end := v.GetStringBytes("start"), v.GetStringBytes("end")
	if len(start) == 0 || len(end) == 0 {
		return
	}
	lo, _, ok1 := search.DateInterval(string(start))
	_, hi, ok2 := search.DateInterval(string(end))
	if ok1 && ok2 && lo >= hi {
		r.broken("", "a period must not end before it starts (per-1)")
	}
}

func attachmentRules(v *fastjson.Value, r reporter) {
	if has(v, "data") && !has(v, "contentType") {
		r.broken("", "an attachment with data needs a contentType (att-1)")
	}
}

func contactPointRules(v *fastjson.Value, r reporter) {
	if has(v, "value") && !has(v, "system") {
		r.broken("", "a contact point with a value needs a system (cpt-2)")
	}
}

func repeatRules(v *fastjson.Value, r reporter) {
	needs := func(element, other, key string) {
		if has(v, element) && !has(v, other) {
			r.broken("", element+" needs "+other+" ("+key+")")
		}
	}
	needs("duration", "durationUnit", "tim-1")
	needs("period", "periodUnit", "tim-2")
	for _, x := range [][2]string{{"duration", "tim-4"}, {"period", "tim-5"}} {
		if n, ok := decimalOf(v, x[0]); ok && n < 0 {
			r.broken(x[0], "must not be negative ("+x[1]+")")
		}
	}
	needs("periodMax", "period", "tim-6")
	needs("durationMax", "duration", "tim-7")
	needs("countMax", "count", "tim-8")
	if has(v, "offset") {
		meal := !has(v, "when")
		for _, w := range v.GetArray("when") {
			switch string(w.GetStringBytes()) {
			case "C", "CM", "CD", "CV":
				meal = true
			}
		}
		if meal {
			r.broken("offset", "needs a when other than C, CM, CD and CV (tim-9)")
		}
	}
	if has(v, "timeOfDay") && has(v, "when") {
		r.broken("", "must not have both a timeOfDay and a when (tim-10)")
	}
}

func expressionRules(v *fastjson.Value, r reporter) {
	if !has(v, "expression") && !has(v, "reference") {
		r.broken("", "needs an expression or a reference (exp-1)")
	}
}

func triggerRules(v *fastjson.Value, r reporter) {
	timing, data := choice(v, "timing"), v.Exists("data")
	if timing && data {
		r.broken("", "must not have both a timing and a data requirement (trd-1)")
	}
	if v.Exists("condition") && !data {
		r.broken("condition", "is allowed only with a data requirement (trd-2)")
	}
	typ := string(v.GetStringBytes("type"))
	if typ == "named-event" && !has(v, "name") || typ == "periodic" && !timing || strings.HasPrefix(typ, "data-") &&
		!data {
		r.broken("", "a named event needs a name, a periodic event a timing, a data event data (trd-3)")
	}
}

func codeFilterRules(v *fastjson.Value, r reporter) {
	if has(v, "path") == has(v, "searchParam") {
		r.broken("", "must have either a path or a searchParam (drq-1)")
	}
}

func dateFilterRules(v *fastjson.Value, r reporter) {
	if has(v, "path") == has(v, "searchParam") {
		r.broken("", "must have either a path or a searchParam (drq-2)")
	}
}

func entityRules(v *fastjson.Value, r reporter) {
	if has(v, "name") && has(v, "query") {
		r.broken("", "must not have both a name and a query (sev-1)")
	}
}

// consentRules checks ppc-2 to ppc-5 as their descriptions say, because their
// FHIRPath has a placeholder for the code system.
func consentRules(v *fastjson.Value, r reporter) {
	if !v.Exists("policy") && !v.Exists("policyRule") {
		r.broken("", "needs policy or policyRule (ppc-1)")
	}
	if v.Exists("patient") {
		return
	}
	for _, c := range v.GetArray("scope", "coding") {
		if !is(c, "system", element.ConsentScope) {
			continue
		}
		key := map[string]string{"patient-privacy": "ppc-2", "research": "ppc-3", "adr": "ppc-4",
			"treatment": "ppc-5"}[string(c.GetStringBytes("code"))]
		if key != "" {
			r.broken("patient", "is required for this scope ("+key+")")
			return
		}
	}
}

func groupRules(v *fastjson.Value, r reporter) {
	if v.Exists("member") && !v.GetBool("actual") {
		r.broken("member", "only an actual group has members (grp-1)")
	}
}

func organizationRules(v *fastjson.Value, r reporter) {
	if !v.Exists("identifier") && !has(v, "name") {
		r.broken("", "needs an identifier or a name (org-1)")
	}
	for _, x := range [][2]string{{"address", "org-2"}, {"telecom", "org-3"}} {
		for i, e := range v.GetArray(x[0]) {
			if is(e, "use", "home") {
				r.broken(x[0]+"["+itoa(i)+"]", "must not have the use home in an organization ("+x[1]+")")
			}
		}
	}
}

func contactRules(v *fastjson.Value, r reporter) {
	if !v.Exists("name") && !v.Exists("telecom") && !v.Exists("address") && !v.Exists("organization") {
		r.broken("", "needs a name, telecom, address or organization (pat-1)")
	}
}

func referenceRangeRules(v *fastjson.Value, r reporter) {
	if !v.Exists("low") && !v.Exists("high") && !has(v, "text") {
		r.broken("", "a reference range needs low, high or text (obs-3)")
	}
}

// choice reports whether v has a choice element of any type.
func choice(v *fastjson.Value, base string) bool {
	found := false
	v.GetObject().Visit(func(key []byte, _ *fastjson.Value) {
		if len(key) > 0 && key[0] == '_' {
			key = key[1:]
		}
		if len(key) > len(base) && string(key[:len(base)]) == base && key[len(base)] >= 'A' && key[len(base)] <= 'Z' {
			found = true
		}
	})
	return found
}
