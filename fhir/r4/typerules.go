package r4

import (
	"strings"

	"github.com/valyala/fastjson"
)

// ofType checks the invariants of the resource type.
func (r *rules) ofType() {
	switch r.typ {
	case "Observation":
		r.observation()
	case "Consent":
		if !r.root.Exists("policy") && !r.root.Exists("policyRule") {
			r.add("Consent", "needs policy or policyRule (ppc-1)")
		}
	case "AuditEvent":
		for _, e := range r.root.GetArray("entity") {
			if e.Exists("name") && e.Exists("query") {
				r.add("AuditEvent.entity", "has a name or a query, not both (sev-1)")
			}
		}
	case "Group":
		if r.root.Exists("member") && !r.root.GetBool("actual") {
			r.add("Group.member", "only an actual group has members (grp-1)")
		}
	case "Organization":
		if !r.root.Exists("identifier") && !r.root.Exists("name") {
			r.add("Organization", "needs an identifier or a name (org-1)")
		}
	case "Patient":
		for _, c := range r.root.GetArray("contact") {
			if !c.Exists("name") && !c.Exists("telecom") && !c.Exists("address") && !c.Exists("organization") {
				r.add("Patient.contact", "needs a name, telecom, address or organization (pat-1)")
			}
		}
	}
}

func (r *rules) observation() {
	value := choice(r.root, "value")
	if value && r.root.Exists("dataAbsentReason") {
		r.add("Observation.dataAbsentReason", "is allowed only without a value (obs-6)")
	}
	for _, c := range r.root.GetArray("component") {
		if choice(c, "value") && c.Exists("dataAbsentReason") {
			r.add("Observation.component.dataAbsentReason", "is allowed only without a value (obs-6)")
		}
		if value && sameCoding(r.root.Get("code"), c.Get("code")) {
			r.add("Observation.value", "must not stand beside a component of the same code (obs-7)")
		}
	}
	if r.vitalSigns() {
		r.vitalRules(value)
	}
}

// vitalSigns reports whether the Observation declares the base vital-signs
// profile or one of R4's profiles on it.
func (r *rules) vitalSigns() bool {
	for _, p := range r.root.GetArray("meta", "profile") {
		name, ok := strings.CutPrefix(string(p.GetStringBytes()), "http://hl7.org/fhir/StructureDefinition/")
		name, _, _ = strings.Cut(name, "|")
		switch name {
		case "vitalsigns", "vitalspanel", "resprate", "heartrate", "oxygensat", "bodytemp", "bodyheight", "headcircum", "bodyweight", "bmi", "bp":
			if ok {
				return true
			}
		}
	}
	return false
}

func (r *rules) vitalRules(value bool) {
	found := false
	for _, c := range r.root.GetArray("category") {
		for _, k := range c.GetArray("coding") {
			found = found || string(k.GetStringBytes("code")) == "vital-signs" &&
				string(k.GetStringBytes("system")) == "http://terminology.hl7.org/CodeSystem/observation-category"
		}
	}
	if !found {
		r.add("Observation.category", "needs the category vital-signs (profile vitalsigns)")
	}
	if !r.root.Exists("subject") {
		r.add("Observation.subject", "is required (profile vitalsigns)")
	}
	at, period := r.root.GetStringBytes("effectiveDateTime"), r.root.Exists("effectivePeriod")
	if len(at) == 0 && !period {
		r.add("Observation.effective", "needs a dateTime or a Period (profile vitalsigns)")
	} else if len(at) > 0 && len(at) < 10 {
		r.add("Observation.effective", "must be precise to the day (vs-1)")
	}
	if !value && !r.root.Exists("dataAbsentReason") && !r.root.Exists("component") && !r.root.Exists("hasMember") {
		r.add("Observation", "needs a value, dataAbsentReason, component or hasMember (vs-2)")
	}
}

// choice reports whether v has a member of the choice element.
func choice(v *fastjson.Value, base string) bool {
	found := false
	v.GetObject().Visit(func(key []byte, _ *fastjson.Value) {
		k := strings.TrimPrefix(string(key), "_")
		if len(k) > len(base) && strings.HasPrefix(k, base) && k[len(base)] >= 'A' && k[len(base)] <= 'Z' {
			found = true
		}
	})
	return found
}

func sameCoding(a, b *fastjson.Value) bool {
	if a == nil || b == nil {
		return false
	}
	for _, x := range a.GetArray("coding") {
		for _, y := range b.GetArray("coding") {
			if c := string(x.GetStringBytes("code")); c != "" && c == string(y.GetStringBytes("code")) &&
				string(x.GetStringBytes("system")) == string(y.GetStringBytes("system")) {
				return true
			}
		}
	}
	return false
}
