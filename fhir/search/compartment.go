package search

// compartments is a stand-in until the table of all types is here.
var compartments = map[string]map[string][]string{ // read only
	"Device": {},
	"Encounter": {
		"Observation": {"encounter"},
	},
	"Patient": {
		"AuditEvent":  {"patient"},
		"Consent":     {"patient"},
		"Group":       {"member"},
		"Observation": {"subject", "performer"},
		"Patient":     {"link"},
		"Provenance":  {"patient"},
	},
	"Practitioner": {
		"AuditEvent":   {"agent"},
		"Group":        {"member"},
		"Observation":  {"performer"},
		"Patient":      {"general-practitioner"},
		"Practitioner": {"{def}"},
		"Provenance":   {"agent"},
	},
	"RelatedPerson": {
		"Observation": {"performer"},
		"Patient":     {"link"},
		"Provenance":  {"agent"},
	},
}

// Compartment returns the parameters by type that put resources into a compartment.
func Compartment(typ string) map[string][]string { return compartments[typ] }
