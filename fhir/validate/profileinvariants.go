package validate

import "pulsegate/fhir/element"

// profileInvariants holds the invariants of profiles that are written in Go, by
// their expression. The keys of invariants do not identify them: US Core has used
// us-core-6 for two.
var profileInvariants = map[string]func(Node) bool{ // read only
	// vs-1: its expression takes a dateTime with a month for one that is precise to
	// the day; the text is clear.
	"($this as dateTime).toString().length() >= 8":              toTheDay,
	"$this is dateTime implies $this.toString().length() >= 10": toTheDay, // us-core-1
	// vs-2, us-core-2
	"(component.empty() and hasMember.empty()) implies " +
		"(dataAbsentReason.exists() or value.exists())": hasResult,
	// vs-3, us-core-26
	"value.exists() or dataAbsentReason.exists()": hasValueOrReason,
	// us-core-3
	"ofType(Quantity).system.empty() or " +
		"ofType(Quantity).system = 'http://unitsofmeasure.org'": inUCUM,
	// us-core-22
	"(low.system.empty() or low.system = 'http://unitsofmeasure.org') and " +
		"(high.system.empty() or high.system = 'http://unitsofmeasure.org')": rangeInUCUM,
	// us-core-6
	"(family.exists() or given.exists()) xor " +
		"extension.where(url='http://hl7.org/fhir/StructureDefinition/data-absent-reason').exists()": nameOrReason,
	"url.exists() or data.exists()": anyOf("url", "data"),
	// us-core-13
	"practitioner.exists() or organization.exists() or healthcareService.exists() or " +
		"location.exists()": anyOf("practitioner", "organization", "healthcareService", "location"),
	"name.exists() or relationship.exists()": anyOf("name", "relationship"), // us-core-14
	"telecom.exists() or endpoint.exists()":  anyOf("telecom", "endpoint"),  // pd-1
}

func toTheDay(n Node) bool { return n.Kind() != String || len(n.Text()) >= 10 }

func hasResult(n Node) bool {
	return n.exists("component") || n.exists("hasMember") || hasValueOrReason(n)
}

func hasValueOrReason(n Node) bool { return n.hasChoice("value") || n.exists("dataAbsentReason") }

func inUCUM(n Node) bool {
	st := n.Structure()
	return st == nil || st.Type != "Quantity" || !n.exists("system") || n.is("system", element.UCUM)
}

func rangeInUCUM(n Node) bool { return inUCUM(n.get("low")) && inUCUM(n.get("high")) }

func anyOf(names ...string) func(Node) bool {
	return func(n Node) bool {
		for _, name := range names {
			if n.has(name) {
				return true
			}
		}
		return false
	}
}

// nameOrReason reports whether a HumanName has either a part or an extension that
// says why there is none.
func nameOrReason(n Node) bool {
	reason := false
	for x := n.items("extension"); x.Exists(); x = x.next() {
		reason = reason || x.is("url", element.StructureDefinition+"data-absent-reason")
	}
	return (n.has("family") || n.has("given")) != reason
}
