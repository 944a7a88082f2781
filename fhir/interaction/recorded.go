package interaction

import (
	"cmp"
	"net/url"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// recorded is a query as it is recorded in the audit trail. Patients can read the
// events in their compartments, and a query may name several patients by id,
// identifier or name. So an event in a patient's compartment contains only that
// patient's part of the query. If the query has other parts, an event in no
// compartment contains all of it.
type recorded struct {
	typ   string
	line  string      // the complete request line
	pairs [][2]string // all parameters, as received
	// single is the only patient that the query can match, empty for any.
	single string
	// base is the server's base URL, for absolute references.
	base string
	// registry holds the parameters; nil stands for those of R4.
	registry *search.Registry
	// interaction is the code of the search; empty is search-type.
	interaction string
	// compartment is the patient whose compartment is searched, or empty, and path the path
	// that names it.
	compartment, path string
	// auditRead is set if the answer depends on AuditEvents without being a search of
	// them.
	auditRead bool
}

// part returns the part of the query that an event in the patient's compartment
// may contain, and whether that is all of it. matched is set if a resource of the
// patient matched.
func (a *recorded) part(patient string, matched bool) (line string, whole bool) {
	whole = a.compartment == "" || a.compartment == patient
	for i := range a.pairs {
		if kept, ok := a.keep(a.pairs[i][0], a.pairs[i][1], patient, matched); !ok || kept != a.pairs[i][1] {
			whole = false
			break
		}
	}
	if whole {
		return a.line, true
	}
	line, _, _ = strings.Cut(a.line, "?")
	if a.compartment != "" && a.compartment != patient {
		line = strings.Replace(line, a.path, "Patient/(another)", 1)
	}
	sep := byte('?')
	for _, p := range a.pairs {
		if kept, ok := a.keep(p[0], p[1], patient, matched); ok {
			line += string(sep) + url.QueryEscape(p[0]) + "=" + url.QueryEscape(kept)
			sep = '&'
		}
	}
	return line, false
}

// keep returns the patient's part of a parameter's value, if there is one.
func (a *recorded) keep(name, value, patient string, matched bool) (string, bool) {
	if name == "__page" { // sealed, and refused unless this server made it
		return value, true
	}
	code, mod, _ := strings.Cut(name, ":")
	if valid, ok := answerParams[code]; ok {
		return value, valid(value)
	}
	p, ok := a.registry.Lookup(a.typ, code)
	if !ok {
		return "", false
	}
	if strings.Contains(name, ".") || p.Type == search.TypeSpecial {
		return "", false // a chained parameter or _filter is about others, too
	}
	if mod == "missing" {
		return value, value == "true" || value == "false"
	}
	if p.Type == search.TypeReference || code == "_id" && a.typ == "Patient" {
		return a.ownReferences(value, mod, patient)
	}
	if mod != "not" && mod != "not-in" && matched && !strings.Contains(value, ",") {
		return value, true // a resource of the patient has this value
	}
	if mod != "" && mod != "not" && mod != "not-in" || a.typ == "Patient" || a.typ == "Practitioner" {
		return "", false
	}
	return value, impersonal(p, value)
}

// ownReferences returns the references to the patient in a list of values.
func (a *recorded) ownReferences(value, mod, patient string) (string, bool) {
	if mod != "" && mod != "Patient" {
		return "", false
	}
	var kept []string
	for _, v := range strings.Split(value, ",") {
		id := strings.TrimPrefix(strings.TrimPrefix(v, a.base+"/"), "Patient/")
		if id == patient {
			kept = append(kept, v)
		}
	}
	return strings.Join(kept, ","), len(kept) > 0
}

func consistsOf(of string) func(string) bool {
	return func(s string) bool { return len(s) <= 256 && strings.Trim(s, of) == "" }
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// answerParams has a check of the value for each parameter that concerns the
// answer or is an input of an operation.
var answerParams = map[string]func(string) bool{ // read only
	"_count":      consistsOf(digits),
	"_sort":       consistsOf(lower + upper + "_,-"),
	"_total":      consistsOf(lower),
	"_summary":    consistsOf(lower),
	"_elements":   consistsOf(lower + upper + ".,"),
	"_include":    consistsOf(lower + upper + "-:*"),
	"_pretty":     consistsOf(lower),
	"max":         consistsOf(digits),
	"limit":       consistsOf(digits),
	"duration":    consistsOf(digits + "."),
	"include":     consistsOf(lower),
	"statistic":   consistsOf(lower + digits + ",-"),
	"period":      consistsOf(digits + "TZ:+./-"),
	"system":      func(s string) bool { return inTerminology(s + "|") },
	"coding":      allCodes,
	"start":       consistsOf(digits + "TZ:+.-"),
	"end":         consistsOf(digits + "TZ:+.-"),
	"form":        consistsOf(lower + "-"),
	"every":       consistsOf(digits),
	"_since":      consistsOf(digits + "TZ:+.-"),
	"_type":       consistsOf(lower + upper + ","),
	"calendar":    consistsOf(lower),
	"minutes":     consistsOf(digits),
	"zone":        consistsOf(lower + upper + digits + "_+-/"),
	"preferred":   consistsOf(lower),
	"_revinclude": consistsOf(lower + upper + "-:*"),
	"_contained":  consistsOf(lower),
	"_format": func(s string) bool {
		known := strings.Contains(s, "json") || strings.Contains(s, "xml") || strings.Contains(s, "html")
		return known && consistsOf(lower+digits+" /+.;=-")(s)
	},
}

// codeParams lists the token parameters with codes, rather than identifiers, as
// values.
var codeParams = map[string]bool{ // read only
	"category": true, "code": true, "combo-code": true, "component-code": true, "value-concept": true,
	"combo-value-concept":     true,
	"component-value-concept": true, "status": true, "data-absent-reason": true, "combo-data-absent-reason": true,
	"component-data-absent-reason": true, "method": true, "type": true, "subtype": true, "action": true,
	"outcome":     true,
	"entity-type": true, "entity-role": true, "scope": true, "purpose": true, "security-label": true,
	"actual": true, "active": true,
	"_tag": true, "_security": true,
}

// impersonal reports whether a value cannot identify a person.
func impersonal(p *search.Param, value string) bool {
	switch p.Type {
	case search.TypeDate:
		return consistsOf(digits + lower + "TZ:+,.-")(value)
	case search.TypeToken:
		return codeParams[p.Code] && allCodes(value)
	case search.TypeURI:
		return strings.HasPrefix(value, element.HL7) || strings.HasPrefix(value, fhir.Canonical+"/")
	case search.TypeQuantity, search.TypeNumber:
		for _, v := range strings.Split(value, ",") {
			number, unit, _ := strings.Cut(v, "|")
			unit = strings.TrimPrefix(strings.TrimPrefix(unit, element.UCUM), "|")
			if !consistsOf(digits+lower+"E+.-")(number) || len(unit) > 12 || strings.ContainsAny(unit, "|:") {
				return false
			}
		}
		return true
	}
	return false
}

// allCodes reports whether every value in a list is a code: from a known code
// system, or without a system but with the form of such codes.
func allCodes(list string) bool {
	for _, v := range strings.Split(list, ",") {
		system, code, hasSystem := strings.Cut(v, "|")
		switch {
		case hasSystem && system != "":
			if !inTerminology(v) || !consistsOf(lower+upper+digits+".:_-")(code) {
				return false
			}
		case len(code) == 0 && !hasSystem:
			if !looksLikeCode(v) {
				return false
			}
		case !looksLikeCode(code):
			return false
		}
	}
	return true
}

// looksLikeCode reports whether s has the form of a LOINC code, a lower-case FHIR
// code, or the one or two characters of an action or outcome.
func looksLikeCode(s string) bool {
	if len(s) <= 2 || consistsOf(lower+"-")(s) {
		return true
	}
	number, check, ok := strings.Cut(s, "-")
	return ok && len(number) <= 7 && len(check) == 1 && consistsOf(digits)(number+check)
}

// inTerminology reports whether the system of a token is a terminology rather than
// an identifier system.
func inTerminology(token string) bool {
	for _, s := range []string{element.LOINC + "|", element.SNOMED + "|", element.UCUM + "|",
		"urn:iso:std:iso:11073:10101|",
		element.Terminology, element.HL7,
		element.DICOM + "|", fhir.Canonical + "/CodeSystem/"} {
		if strings.HasPrefix(token, s) {
			return true
		}
	}
	return false
}

// events returns one search event per patient with that patient's part of the
// query, and one in no compartment unless some part is the whole query. The map
// tells for each patient whether a resource matched.
func (a *recorded) events(rq *Request, patients map[string]bool) []audit.Event {
	ev := rq.event(cmp.Or(a.interaction, "search-type"), a.typ)
	evs := make([]audit.Event, 0, len(patients)+1)
	told := false
	for _, p := range sortedKeys(patients) {
		line, whole := a.part(p, patients[p])
		one := ev
		one.Patient, one.Query = p, line
		if !whole {
			one.Extra = partial
		}
		told = told || whole
		evs = append(evs, one)
	}
	if !told {
		ev.Query = a.line
		evs = append(evs, ev)
	}
	if a.auditRead && a.typ != "AuditEvent" {
		used := rq.event("search-type", "AuditEvent")
		used.Query = a.line
		evs = append(evs, used)
	}
	return evs
}

// partial marks events with only a part of the query.
var partial = [][2]string{{"query", "the part that is about this patient"}} // read only
