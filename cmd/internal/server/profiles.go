package server

import (
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/definitions"
	"pulsegate/fhir/element"
	"pulsegate/fhir/guide"
	"pulsegate/fhir/interaction"
)

// usCoreVersions lists the versions of US Core that the server offers.
var usCoreVersions = []string{"9.0.0", "7.0.0", "6.1.0"} // read only

// instantiated lists the CapabilityStatements whose requirements the server meets.
func instantiated() []string {
	out := []string{element.HL7 + "uv/bulkdata/CapabilityStatement/bulk-data",
		element.SubscriptionsBackport + "CapabilityStatement/backport-subscription-server-r4"}
	for _, v := range usCoreVersions {
		out = append(out, element.HL7+"us/core/CapabilityStatement/us-core-server|"+v)
	}
	return out
}

// supportedProfiles lists by type the profiles that resources are validated against if
// they claim them: those of R4, of US Core and of the project's own guide.
func supportedProfiles() map[string][]string {
	out := map[string][]string{
		"Subscription": {element.SubscriptionsBackport + "StructureDefinition/backport-subscription"},
		"Observation": {guide.SleepSession, guide.SleepStage, guide.HeartRateVariability, guide.WellnessScore,
			interaction.PhoneMadeProfile},
	}
	for _, p := range definitions.KnownProfiles().All() {
		if slices.Contains(fhir.Types, p.Type) && !slices.Contains(out[p.Type], p.URL) {
			out[p.Type] = append(out[p.Type], p.URL)
		}
	}
	return out
}
