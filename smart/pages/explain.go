package pages

import (
	"context"
	"net/http"
	"time"

	"pulsegate/fhir/audit"
)

// Explanations show patients their newest data, and how each measurement was made of
// what the vendor sent. Implementations let patients see only their own data and record
// what they have seen.
type Explanations interface {
	// Latest returns the newest measurement of each kind of a patient, by vendor.
	Latest(ctx context.Context, by audit.Caller, patient string) ([]LatestData, error)
	// Explain explains an Observation of the patient. The error is NotFound for that
	// of another one.
	Explain(ctx context.Context, by audit.Caller, patient, id string) (Explanation, error)
}

// LatestData holds the newest measurements of a vendor.
type LatestData struct {
	Vendor, Name string // Vendor is the code
	Measurements []Measurement
}

// Measurement describes an Observation for display.
type Measurement struct {
	ID, Name, Value string
	At              time.Time
	Day             bool // At is a day without a time
}

// Explanation describes for display how an Observation was made.
type Explanation struct {
	ID, Name    string
	Text        string // where it comes from
	Samples     []ExplainedSample
	Known       bool // whether the present rules can be compared
	Same        bool // whether the present rules give the same
	Problem     string
	Changes     []ExplainedChange
	DerivedFrom []string
	Method      string
	Versions    []ExplainedVersion
	More        bool   // there are older versions
	Resource    string // indented JSON
}

// ExplainedSample compares what was sent with what is stored.
type ExplainedSample struct {
	Text  string
	Lines []ExplainedLine
}

// ExplainedLine shows one part side by side.
type ExplainedLine struct{ Part, Sent, Rule, Written string }

// ExplainedChange is an element that the present rules write differently.
type ExplainedChange struct{ Path, Stored, Now string }

// ExplainedVersion describes a version of an Observation.
type ExplainedVersion struct {
	Number             uint64
	At                 time.Time
	Why, From, Channel string
}

// explainPage shows how an Observation of the person was made.
func explainPage(req *request) error {
	if err := req.patientOnly(); err != nil {
		return err
	}
	x, err := req.pages.Explanations.Explain(req.http.Context(), req.by(), req.user.Patient,
		req.http.PathValue("id"))
	if err != nil {
		return err
	}
	return req.render(http.StatusOK, "explain", view{Title: "How " + x.Name + " was made", Data: x})
}
