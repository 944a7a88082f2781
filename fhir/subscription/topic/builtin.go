package topic

import (
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
)

// Base is the base of the canonical URLs of this server's own topics.
const Base = fhir.Canonical + "/SubscriptionTopic/"

// FeedURL is the canonical URL of US Core's Patient Data Feed.
const FeedURL = element.HL7 + "us/core/SubscriptionTopic/patient-data-feed"

// TriggerParameter is the filter parameter of the Patient Data Feed that selects
// events by their codes.
const TriggerParameter = "trigger"

// Code systems of trigger codes. The guide shows the first one in its example and names
// the code feed-event; the codes of this server say what happened to the resource.
const (
	FeedSystem    = element.HL7 + "us/core/CodeSystem/trigger"
	FeedEvent     = "feed-event"
	TriggerSystem = fhir.Canonical + "/CodeSystem/subscription-trigger"
)

// Codes returns the trigger codes of an event of the Patient Data Feed. It is
// data-driven: every creation, update and deletion is a feed-event.
func Codes(by Interaction) []element.Coding {
	out := []element.Coding{{System: FeedSystem, Code: FeedEvent}}
	for i, code := range interactions {
		if by&(1<<i) != 0 {
			out = append(out, element.Coding{System: TriggerSystem, Code: code})
		}
	}
	return out
}

// feedFilters holds the types of the Patient Data Feed that are tied to a patient, and
// the filters that the guide requires or recommends for them besides trigger: Table 1
// and the page Additional Resources of US Core 9.
var feedFilters = []struct { // read only
	typ    string
	params []string
}{
	{"AllergyIntolerance", []string{"patient"}}, {"CarePlan", []string{"patient", "category"}},
	{"CareTeam", []string{"patient"}}, {"Condition", []string{"patient", "category", "code"}},
	{"Coverage", []string{"patient"}}, {"DiagnosticReport", []string{"patient", "category", "code"}},
	{"DocumentReference", []string{"patient", "category", "type"}}, {"Encounter", []string{"patient", "type"}},
	{"Goal", []string{"patient"}}, {"Immunization", []string{"patient"}},
	{"MedicationDispense", []string{"patient", "type"}}, {"MedicationRequest", []string{"patient"}},
	{"Observation", []string{"patient", "category", "code"}}, {"Patient", []string{"_id"}},
	{"Procedure", []string{"patient", "code"}}, {"QuestionnaireResponse", []string{"patient"}},
	{"RelatedPerson", []string{"patient"}}, {"ServiceRequest", []string{"patient", "category", "code"}},
	{"Specimen", []string{"patient"}},
}

// Builtin returns the topics that every server has, ordered by URL. base is the FHIR
// base URL.
func Builtin(base string) ([]*Topic, error) {
	observation := []string{"patient", "category", "code"}
	list := []*Topic{
		own("observation-recorded", "Observation recorded",
			"An Observation was created or updated.", observation,
			Trigger{Resource: "Observation", Interactions: Create | Update}),
		own("observation-amended", "Observation amended",
			"An Observation that had been final was corrected: its status became amended or corrected, or its content changed under one of these.",
			observation,
			Trigger{Resource: "Observation", Interactions: Create | Update, Current: "status=amended,corrected"}),
		own("observation-retracted", "Observation retracted",
			"An Observation was entered in error or deleted.", observation,
			Trigger{Resource: "Observation", Interactions: Create | Update, Previous: "status:not=entered-in-error",
				CreatePasses: true, Current: "status=entered-in-error", RequireBoth: true},
			Trigger{Resource: "Observation", Interactions: Delete, Previous: "status:not=entered-in-error"}),
		own("consent-changed", "Consent changed", "A Consent was created, changed, withdrawn or deleted.",
			[]string{"patient", "status"}, Trigger{Resource: "Consent"}),
		own("device-changed", "Device changed", "A Device was created, changed or deleted.",
			[]string{"patient", "type", "status"}, Trigger{Resource: "Device"}),
		alert(),
		feed(),
	}
	for _, t := range list {
		if err := t.compile(base); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(list, func(a, b *Topic) int {
		if a.URL < b.URL {
			return -1
		}
		return 1
	})
	return list, nil
}

// own returns a topic of this server on one type.
func own(id, title, description string, params []string, triggers ...Trigger) *Topic {
	t := &Topic{ID: "topic-" + id, URL: Base + id, Name: id, Title: title, Description: description, Status: "active",
		Triggers: triggers, Version: "1"}
	for _, r := range triggers {
		t.add(r.Resource, params)
	}
	return t
}

// add lets Subscriptions filter a type by those of the parameters that the server
// supports.
func (t *Topic) add(typ string, params []string) {
	for _, p := range params {
		if sp, ok := search.Lookup(typ, p); ok && sp.Supported() && !t.MayFilter(typ, p, "") {
			t.Filters = append(t.Filters, FilterBy{Resource: typ, Parameter: p})
		}
	}
}

// alert returns the topic for what a clinician may want to look at: measurements that
// their source calls abnormal or critical, what the devices of Apple and Fitbit notify
// the wearer of, and, if the server stores them, Flags and DetectedIssues.
func alert() *Topic {
	const abnormal = "interpretation.coding.where(code in ('A' | 'AA' | 'H' | 'HH' | 'HU' | 'L' | 'LL' | 'LU' | 'POS' | 'DET')).exists()"
	const event = "code.coding.where(code in ('HKCategoryTypeIdentifierHighHeartRateEvent' | " +
		"'HKCategoryTypeIdentifierLowHeartRateEvent' | 'HKCategoryTypeIdentifierIrregularHeartRhythmEvent' | " +
		"'HKCategoryTypeIdentifierLowCardioFitnessEvent' | 'heartRateNotification' | " +
		"'irregular-rhythm-notification')).exists()"
	const live = "%current.status.where($this = 'entered-in-error' or $this = 'cancelled').empty()"
	t := own("alert", "Alert",
		"A measurement that its source calls abnormal or critical, or a device's notice of an irregular rhythm, a high or low heart rate or low cardio fitness.",
		[]string{"patient", "category", "code"},
		Trigger{Resource: "Observation", Interactions: Create | Update,
			FHIRPath: live + " and %current.select(" + abnormal + " or " + event + ")"})
	for _, typ := range []string{"DetectedIssue", "Flag"} {
		if storable(typ) {
			t.Triggers = append(t.Triggers, Trigger{Resource: typ, Interactions: Create | Update})
			t.add(typ, []string{"patient", "code"})
		}
	}
	return t
}

// feed returns US Core's Patient Data Feed for the types that the server stores.
func feed() *Topic {
	t := &Topic{ID: "topic-patient-data-feed", URL: FeedURL, Name: "patient-data-feed", Title: "Patient Data Feed",
		Status:  "active",
		Version: "9.0.0", Feed: true,
		Description: "US Core Patient Data Feed, data-driven: every creation, update and deletion of a resource of these types is a feed-event, also of one that the server derives. Nothing is coalesced; notifications follow within a second, and one may hold up to backport-max-count events."}
	for _, f := range feedFilters {
		if !storable(f.typ) {
			continue
		}
		t.Triggers = append(t.Triggers, Trigger{Resource: f.typ})
		t.add(f.typ, f.params)
		t.Filters = append(t.Filters, FilterBy{Resource: f.typ, Parameter: TriggerParameter})
	}
	return t
}
