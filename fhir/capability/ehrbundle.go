package capability

import (
	"encoding/json"
	"strings"

	"pulsegate/fhir"
)

// EHRBundleID is the id of the OperationDefinition of $ehr-bundle, and EHRBundlePath its
// path below the base URL.
const (
	EHRBundleID   = "ehr-bundle"
	EHRBundlePath = "/OperationDefinition/" + EHRBundleID
)

// operationParameter is OperationDefinition.parameter.
type operationParameter struct {
	Name          string `json:"name"`
	Use           string `json:"use"`
	Min           int    `json:"min"`
	Max           string `json:"max"`
	Documentation string `json:"documentation"`
	Type          string `json:"type"`
}

// EHRBundle returns the OperationDefinition of Patient/[id]/$ehr-bundle as JSON. Forms are
// the values of its parameter form.
func EHRBundle(s Settings, forms []string) ([]byte, error) {
	in := func(name, max, typ, documentation string) operationParameter {
		return operationParameter{name, "in", 0, max, documentation, typ}
	}
	b, err := json.Marshal(definition{
		ResourceType: "OperationDefinition", ID: EHRBundleID, URL: s.Base + EHRBundlePath, Name: "EHRBundle",
		Title: "Observations of a patient for an EHR", Status: "active", Kind: "operation",
		Date: s.Released.UTC().Format("2006-01-02"), Publisher: "Pulsegate",
		Description: "Returns a Bundle of conditional creates that an app can submit to an EHR as it is. It contains the Observations of the patient that the caller may search for and that the form allows, in order of time. Observations that are not final, values of several sources that were combined, and series in one Observation are left out.",
		Code:        EHRBundleID, Resource: []string{"Patient"}, Instance: true,
		Parameter: []operationParameter{
			in("start", "1", "dateTime", "The earliest time of an Observation, as in a search with date=ge."),
			in("end", "1", "dateTime", "The latest time of an Observation, as in a search with date=le."),
			in("code", "*", "Coding", "Codes of the Observations. In a URL a code is system|code or code, and a list is separated by commas."),
			in("form", "1", "code", "The form: "+strings.Join(forms, " or ")+
				". The default is us-core. us-core is a batch of vital signs in the form of US Core 9.0.0, Writing Vital Signs. physical-activity is a transaction of totals of days and of workouts in the form of the Physical Activity guide 1.0.1."),
			in("subject", "1", "string",
				"The reference to the patient in the EHR, for example Patient/123. The default is Patient/[id]."),
			in("every", "1", "unsignedInt",
				"Minutes. Of a dense stream (heart rate, respiratory rate, oxygen saturation or temperature of one source) only the first value of each interval of this length is returned. The default is 60; 0 returns all values."),
			in("preferred", "1", "boolean",
				"Whether to add values that were derived as the preferred ones of several sources. The default is false."),
			in("_count", "1", "positiveInt", "The number of entries on a page. The link next has the next page."),
			{"return", "out", 1, "1", "The Bundle, a batch or a transaction.", "Bundle"},
		},
	})
	if err != nil {
		return nil, fhir.Wrap("capability.EHRBundle", err)
	}
	return b, nil
}
