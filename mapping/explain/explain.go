// Package explain tells how an Observation was made: what the vendor sent, which row of
// the metric table maps it, how its numbers are converted, which resource results, and
// which versions the resource has had.
//
// It does not map. Package mapping reports how it maps (mapping.Trace), and
// package ingest keeps the samples (ingest.Kept). It does not decide who may see an
// explanation: the caller reads the Observation with the permissions of the reader first,
// and records that the explanation was read.
package explain

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
)

// Origins of the current version of an Observation.
const (
	FromVendor  = "vendor"  // a payload states it
	FromDerived = "derived" // ingest has computed it from stored Observations
	FromClient  = "client"  // a client of the FHIR API has written it
	FromUnknown = "unknown" // from a vendor, but no sample is kept
)

// Explanation tells how the current version of an Observation was made.
type Explanation struct {
	ID      string `json:"id"`
	Patient string `json:"patient"`
	Vendor  string `json:"vendor,omitempty"`
	Origin  string `json:"origin"`
	// Text says in a sentence where the Observation comes from.
	Text   string `json:"text"`
	Client string `json:"client,omitempty"` // that wrote it
	// Samples holds the sample of which it was made; several if they were joined or
	// cannot be told apart.
	Samples []Sample `json:"samples,omitempty"`
	// Now says whether the table in force maps the samples to the stored content.
	Now Now `json:"now"`
	// DerivedFrom and Method are the elements of the Observation with these names.
	DerivedFrom []string        `json:"derivedFrom,omitempty"`
	Method      string          `json:"method,omitempty"`
	Versions    []Version       `json:"versions"` // newest first
	More        bool            `json:"moreVersions,omitempty"`
	Resource    json.RawMessage `json:"resource"`
}

// Sample explains how one sample is mapped.
type Sample struct {
	// Text says what the sample is, if there are several or if it was not delivered.
	Text    string             `json:"text,omitempty"`
	Sent    sample.Sample      `json:"sent"`
	Pack    string             `json:"pack"`    // name of the pack of the row
	Version string             `json:"version"` // of the pack
	Row     string             `json:"row"`     // metric of the row
	RowThen string             `json:"rowThen"` // URI of the row that mapped the stored version
	Trust   string             `json:"trust"`   // how well sources support the codes of the row
	Variant string             `json:"variant,omitempty"`
	Codes   []mapping.CodeFact `json:"codes"`
	Values  []Value            `json:"values"`
	// Lines compare, part by part, what was sent, the rule, and what is written.
	Lines []Line `json:"lines"`
}

// Value is a value of a sample with the conversions of its numbers.
type Value struct {
	Component string       `json:"component,omitempty"` // name, or "" for the main value
	Numbers   []Conversion `json:"numbers,omitempty"`
}

// Conversion is the conversion of a number.
type Conversion struct {
	Sent     string `json:"sent"`
	SentUnit string `json:"sentUnit,omitempty"`
	Written  string `json:"written"`
	Unit     string `json:"unit,omitempty"` // UCUM
	// Text is the conversion as an equation: "0.97 × 100 = 97 %".
	Text string `json:"text"`
}

// Line shows one part side by side.
type Line struct {
	Part    string `json:"part"`
	Sent    string `json:"sent,omitempty"`
	Rule    string `json:"rule,omitempty"`
	Written string `json:"written,omitempty"`
}

// Now compares the stored content with what the table in force makes of the samples.
type Now struct {
	Known   bool     `json:"known"` // whether there is anything to map
	Same    bool     `json:"same"`
	Problem string   `json:"problem,omitempty"` // why the samples are not mapped any more
	Changes []Change `json:"changes,omitempty"`
}

// Change is an element that differs. Stored or Now is "" if it is absent there.
type Change struct {
	Path   string `json:"path"`
	Stored string `json:"stored"`
	Now    string `json:"now"`
}

// Version is a version of the Observation.
type Version struct {
	Version uint64    `json:"version"`
	At      time.Time `json:"at"`
	Status  string    `json:"status,omitempty"`
	// Why names the event, such as "created" or "retracted".
	Why    string `json:"why"`
	Client string `json:"client,omitempty"` // that wrote it
	// The Provenance of the commit, the vendor that it names, the channel by which the
	// payload arrived, and the patient's link.
	Provenance string `json:"provenance,omitempty"`
	Vendor     string `json:"vendor,omitempty"`
	Channel    string `json:"channel,omitempty"`
	Link       string `json:"link,omitempty"`
}

// Explainer explains the Observations of a store.
type Explainer struct {
	Store    store.Store
	Pipeline *ingest.Pipeline
}

// Explain explains an Observation. The error is NotFound if there is none, and Gone if it
// is deleted.
func (e *Explainer) Explain(ctx context.Context, id string) (*Explanation, error) {
	const op = "explain.Explain"
	res, facts, err := e.Store.Read(ctx, fhir.Ref{Type: "Observation", ID: id}, 0)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	if res.Deleted {
		return nil, fhir.Errorf(fhir.Gone, op, "the Observation is deleted")
	}
	kept, err := e.Pipeline.KeptObservation(ctx, id)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	stored := parse(res.JSON)
	out := &Explanation{ID: id, Patient: facts.Patient, Vendor: facts.Vendor, Resource: res.JSON,
		Method: stored.Method.Text}
	for _, d := range stored.DerivedFrom {
		out.DerivedFrom = append(out.DerivedFrom, d.Reference)
	}
	out.setOrigin(facts, kept)
	if kept != nil {
		for i := range kept.Kept {
			out.Samples = append(out.Samples, e.sample(kept, &kept.Kept[i], i, stored))
		}
		out.Now = e.now(kept)
	}
	if out.Versions, out.More, err = e.versions(ctx, res.Ref()); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	return out, nil
}

func (x *Explanation) setOrigin(facts *access.Facts, kept *ingest.KeptObservation) {
	switch {
	case kept != nil && kept.Kept[0].Derived:
		x.Origin, x.Text = FromDerived, "This server has computed it from stored Observations of "+facts.Vendor+"."
	case kept != nil:
		x.Origin, x.Text = FromVendor, "A payload of "+facts.Vendor+" states it."
	case facts.Vendor != "":
		x.Origin, x.Text = FromUnknown, "It comes from "+facts.Vendor+", but no sample of it is kept."
	case facts.Author != "":
		x.Origin, x.Client, x.Text = FromClient, facts.Author, "The client "+facts.Author+
			" has written it. It is stored as it was sent; no mapping is involved."
	default:
		x.Origin, x.Text = FromClient, "It was written by this server or its operator; no mapping is involved."
	}
}

// now maps the samples again.
func (e *Explainer) now(o *ingest.KeptObservation) Now {
	body, err := e.Pipeline.MapAgain(o)
	var refused *mapping.RejectError
	switch {
	case errors.As(err, &refused):
		return Now{Known: true, Problem: refused.Error()}
	case err != nil:
		return Now{Known: true, Problem: err.Error()}
	case o.SameContent(body):
		return Now{Known: true, Same: true}
	}
	return Now{Known: true, Changes: compare(o.Resource.JSON, body)}
}
