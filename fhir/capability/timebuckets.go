package capability

import (
	"encoding/json"

	"pulsegate/fhir"
)

// TimeBucketsID is the id of the OperationDefinition of $time-buckets, and TimeBucketsPath
// its path below the base URL.
const (
	TimeBucketsID   = "time-buckets"
	TimeBucketsPath = "/OperationDefinition/" + TimeBucketsID
)

// definition is an OperationDefinition.
type definition struct {
	ResourceType string               `json:"resourceType"`
	ID           string               `json:"id"`
	URL          string               `json:"url"`
	Name         string               `json:"name"`
	Title        string               `json:"title"`
	Status       string               `json:"status"`
	Kind         string               `json:"kind"`
	Date         string               `json:"date"`
	Publisher    string               `json:"publisher"`
	Description  string               `json:"description"`
	AffectsState bool                 `json:"affectsState"`
	Code         string               `json:"code"`
	Resource     []string             `json:"resource"`
	System       bool                 `json:"system"`
	Type         bool                 `json:"type"`
	Instance     bool                 `json:"instance"`
	Parameter    []operationParameter `json:"parameter"`
}

// TimeBuckets returns the OperationDefinition of Observation/$time-buckets as JSON.
func TimeBuckets(s Settings) ([]byte, error) {
	in := func(name string, least int, most, typ, documentation string) operationParameter {
		return operationParameter{name, "in", least, most, documentation, typ}
	}
	b, err := json.Marshal(definition{
		ResourceType: "OperationDefinition", ID: TimeBucketsID, URL: s.Base + TimeBucketsPath, Name: "TimeBuckets",
		Title: "Measurements of a patient by buckets of time", Status: "active", Kind: "operation",
		Date: s.Released.UTC().Format("2006-01-02"), Publisher: "Pulsegate",
		Description: "Returns a collection with one Observation for each code, unit and bucket of time that has measurements, in order of time. Its effectivePeriod is the bucket, and its components are the statistics, with codes of http://terminology.hl7.org/CodeSystem/observation-statistics. A measurement belongs to the bucket in which it begins; one of a date without a time belongs to the bucket of that date and to no shorter one. Only numbers in a UCUM unit count. Observations that are entered in error do not.",
		Code:        TimeBucketsID, Resource: []string{"Observation"}, Type: true,
		Parameter: []operationParameter{
			in("subject", 1, "1", "uri", "The patient, Patient/[id]."),
			in("code", 0, "*", "string", "Codes of Observations or components, together with system."),
			in("system", 0, "1", "uri", "The system of all values of code."),
			in("coding", 0, "*", "Coding", "Further codes. In a URL a Coding is system|code."),
			in("calendar", 0, "1", "code",
				"hour, day, week, month or year: buckets of the calendar of a time zone. Days have 23 or 25 hours when clocks change; weeks begin on Monday. Either calendar or minutes is required."),
			in("minutes", 0, "1", "positiveInt",
				"The length of buckets of a fixed length, in minutes, at most a week. They are in UTC and counted from 1970-01-01."),
			in("zone", 0, "1", "code",
				"The IANA time zone of calendar, for example Europe/Berlin. The default is the time zone of the Patient resource; if it has none, zone is required."),
			in("start", 0, "1", "dateTime", "The earliest time of a measurement. A date begins with the day of the zone."),
			in("end", 0, "1", "dateTime", "The latest time of a measurement. A date includes the day of the zone."),
			in("statistic", 0, "*", "code", "Some of count, minimum, maximum, average and sum. The default is all."),
			in("device", 0, "1", "string", "Only measurements of this Device, Device/[id]."),
			in("preferred", 0, "1", "boolean",
				"Whether only measurements of each day's preferred source count, and for the code of a preferred value, the preferred values of days and nights. The default is false: every measurement counts, and preferred values do not."),
			{"return", "out", 1, "1", "The Bundle, a collection.", "Bundle"},
		},
	})
	if err != nil {
		return nil, fhir.Wrap("capability.TimeBuckets", err)
	}
	return b, nil
}
