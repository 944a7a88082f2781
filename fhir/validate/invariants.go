package validate

import (
	"bytes"
	"strconv"
	"strings"

	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// goInvariants maps the name of a structure to the function that checks it.
type goInvariants map[string]func(v Node, r reporter)

// byHand holds the invariants of single objects that are written in Go, by the
// name of the structure. The issues name the key of the invariant in HL7's
// definition; handled lists these keys. Rules that need more than the object are
// in resource.go.
var byHand = goInvariants{ // read only
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
	"Timing.repeat":              repeatRules,
	"Expression":                 expressionRules,
	"TriggerDefinition":          triggerRules,
	"DataRequirement.codeFilter": codeFilterRules,
	"DataRequirement.dateFilter": dateFilterRules,
	"AuditEvent.entity":          entityRules,
	"Consent":                    consentRules,
	"Group":                      groupRules,
	"Observation":                observationRules,
	"Observation.referenceRange": referenceRangeRules,
	"Organization":               organizationRules,
	"Patient.contact":            contactRules,
}

// handled lists the keys of the invariants that byHand checks.
var handled = words("" +
	"age-1 att-1 cnt-3 cpt-2 dis-1 drq-1 drq-2 drt-1 exp-1 grp-1 obs-3 obs-6 obs-7 org-1 org-2 org-3 " +
	"pat-1 per-1 ppc-1 ppc-2 ppc-3 ppc-4 ppc-5 qty-3 rat-1 rng-2 sev-1 tim-1 tim-2 tim-4 tim-5 tim-6 tim-7 tim-8 tim-9 " +
	"tim-10 trd-1 trd-2 trd-3")

// decimalOf returns the number in an element of v. It returns false if there is
// none.
func decimalOf(v Node, name string) (float64, bool) {
	n := v.get(name)
	if n.Kind() != Number {
		return 0, false
	}
	f, err := strconv.ParseFloat(string(n.JSON()), 64)
	return f, err == nil
}

func quantityRules(v Node, r reporter) {
	if v.exists("code") && !v.has("system") {
		r.broken("", "a quantity with a code needs a system (qty-3)")
	}
}

// unitRules checks the invariants that Age, Count and Distance share.
func unitRules(v Node, r reporter, key string) {
	quantityRules(v, r)
	if v.exists("value") && !v.has("code") {
		r.broken("", "a value needs a code ("+key+")")
	}
	if v.exists("system") && !v.is("system", element.UCUM) {
		r.broken("system", "must be UCUM ("+key+")")
	}
}

// timeUnits holds UCUM's units of time.
var timeUnits = words("as fs ps ns us ms s min h d wk mo mo_j mo_s mo_g a a_j a_t a_g") // read only

func ageRules(v Node, r reporter) {
	unitRules(v, r, "age-1")
	if n, ok := decimalOf(v, "value"); ok && n <= 0 {
		r.broken("value", "an age must be greater than zero (age-1)")
	}
	if c := v.text("code"); len(c) > 0 && !timeUnits[string(c)] {
		r.broken("code", "must be a unit of time (age-1)")
	}
}

func countRules(v Node, r reporter) {
	unitRules(v, r, "cnt-3")
	if v.exists("code") && !v.is("code", "1") {
		r.broken("code", `must be "1" (cnt-3)`)
	}
	if n := v.get("value"); bytes.IndexByte(n.JSON(), '.') >= 0 {
		r.broken("value", "must be a whole number (cnt-3)")
	}
}

func distanceRules(v Node, r reporter) { unitRules(v, r, "dis-1") }

func durationRules(v Node, r reporter) {
	quantityRules(v, r)
	if v.exists("code") && (v.exists("system") && !v.is("system", element.UCUM) || !v.has("value")) {
		r.broken("", "a duration with a code needs a value and the system UCUM (drt-1)")
	}
	if c := v.text("code"); len(c) > 0 && !timeUnits[string(c)] {
		r.broken("code", "must be a unit of time (drt-1)")
	}
}

// rangeRules compares quantities only if they have the same unit, as FHIRPath
// does.
func rangeRules(v Node, r reporter) {
	low, high := v.get("low"), v.get("high")
	if !low.Exists() || !high.Exists() {
		return
	}
	a, ok1 := decimalOf(low, "value")
	b, ok2 := decimalOf(high, "value")
	if ok1 && ok2 && a > b && sameUnit(low, high) {
		r.broken("", "low must not be greater than high (rng-2)")
	}
}

func sameUnit(a, b Node) bool {
	unit := "code"
	if !a.exists("code") && !b.exists("code") {
		unit = "unit"
	}
	return string(a.text(unit)) == string(b.text(unit)) &&
		string(a.text("system")) == string(b.text("system"))
}

func ratioRules(v Node, r reporter) {
	numerator, denominator := v.exists("numerator"), v.exists("denominator")
	if numerator != denominator || !numerator && !v.exists("extension") {
		r.broken("", "needs both numerator and denominator, or an extension instead (rat-1)")
	}
}

func periodRules(v Node, r reporter) {
	start, end := v.text("start"), v.text("end")
	if len(start) == 0 || len(end) == 0 {
		return
	}
	lo, _, ok1 := search.DateInterval(string(start))
	_, hi, ok2 := search.DateInterval(string(end))
	if ok1 && ok2 && lo >= hi {
		r.broken("", "a period must not end before it starts (per-1)")
	}
}

func attachmentRules(v Node, r reporter) {
	if v.has("data") && !v.has("contentType") {
		r.broken("", "an attachment with data needs a contentType (att-1)")
	}
}

func contactPointRules(v Node, r reporter) {
	if v.has("value") && !v.has("system") {
		r.broken("", "a contact point with a value needs a system (cpt-2)")
	}
}

func repeatRules(v Node, r reporter) {
	needs := func(element, other, key string) {
		if v.has(element) && !v.has(other) {
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
	if v.has("offset") {
		meal := !v.has("when")
		for w := v.items("when"); w.Exists(); w = w.next() {
			switch string(w.Text()) {
			case "C", "CM", "CD", "CV":
				meal = true
			}
		}
		if meal {
			r.broken("offset", "needs a when other than C, CM, CD and CV (tim-9)")
		}
	}
	if v.has("timeOfDay") && v.has("when") {
		r.broken("", "must not have both a timeOfDay and a when (tim-10)")
	}
}

func expressionRules(v Node, r reporter) {
	if !v.has("expression") && !v.has("reference") {
		r.broken("", "needs an expression or a reference (exp-1)")
	}
}

func triggerRules(v Node, r reporter) {
	timing, data := v.hasChoice("timing"), v.exists("data")
	if timing && data {
		r.broken("", "must not have both a timing and a data requirement (trd-1)")
	}
	if v.exists("condition") && !data {
		r.broken("condition", "is allowed only with a data requirement (trd-2)")
	}
	typ := string(v.text("type"))
	if typ == "named-event" && !v.has("name") || typ == "periodic" && !timing || strings.HasPrefix(typ, "data-") &&
		!data {
		r.broken("", "a named event needs a name, a periodic event a timing, a data event data (trd-3)")
	}
}

func codeFilterRules(v Node, r reporter) {
	if v.has("path") == v.has("searchParam") {
		r.broken("", "must have either a path or a searchParam (drq-1)")
	}
}

func dateFilterRules(v Node, r reporter) {
	if v.has("path") == v.has("searchParam") {
		r.broken("", "must have either a path or a searchParam (drq-2)")
	}
}

func entityRules(v Node, r reporter) {
	if v.has("name") && v.has("query") {
		r.broken("", "must not have both a name and a query (sev-1)")
	}
}

// consentRules checks ppc-2 to ppc-5 as their descriptions say, because their
// FHIRPath has a placeholder for the code system.
func consentRules(v Node, r reporter) {
	if !v.exists("policy") && !v.exists("policyRule") {
		r.broken("", "needs policy or policyRule (ppc-1)")
	}
	if v.exists("patient") {
		return
	}
	for c := v.get("scope").items("coding"); c.Exists(); c = c.next() {
		if !c.is("system", element.ConsentScope) {
			continue
		}
		key := map[string]string{"patient-privacy": "ppc-2", "research": "ppc-3", "adr": "ppc-4",
			"treatment": "ppc-5"}[string(c.text("code"))]
		if key != "" {
			r.broken("patient", "is required for this scope ("+key+")")
			return
		}
	}
}

func groupRules(v Node, r reporter) {
	if v.exists("member") && v.get("actual").Kind() != True {
		r.broken("member", "only an actual group has members (grp-1)")
	}
}

func organizationRules(v Node, r reporter) {
	if !v.exists("identifier") && !v.has("name") {
		r.broken("", "needs an identifier or a name (org-1)")
	}
	for _, x := range [][2]string{{"address", "org-2"}, {"telecom", "org-3"}} {
		for e := v.items(x[0]); e.Exists(); e = e.next() {
			if e.is("use", "home") {
				reporter{e}.broken("", "must not have the use home in an organization ("+x[1]+")")
			}
		}
	}
}

func contactRules(v Node, r reporter) {
	if !v.exists("name") && !v.exists("telecom") && !v.exists("address") && !v.exists("organization") {
		r.broken("", "needs a name, telecom, address or organization (pat-1)")
	}
}

func referenceRangeRules(v Node, r reporter) {
	if !v.exists("low") && !v.exists("high") && !v.has("text") {
		r.broken("", "a reference range needs low, high or text (obs-3)")
	}
}
