package server

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/mapping/explain"
	"pulsegate/smart/pages"
)

// explain explains an Observation that the caller of rq may read. The AuditEvents name
// everything that the explanation tells: the Observation is read, and then its versions,
// their Provenances, and the Observations that it is derived from.
func (s *services) explain(ctx context.Context, rq *interaction.Request, id string) (*explain.Explanation, error) {
	ref := fhir.Ref{Type: "Observation", ID: id}
	if _, err := s.fhir.Read(ctx, rq, ref); err != nil {
		return nil, err
	}
	e := explain.Explainer{Store: s.store, Pipeline: s.pipeline}
	out, err := e.Explain(ctx, id)
	if err != nil {
		return nil, err
	}
	event := audit.Event{Type: audit.Rest, Interaction: "history-instance", Caller: rq.Caller, Patient: out.Patient}
	for _, v := range out.Versions {
		event.Data = append(event.Data, audit.DataRef{Ref: ref, Version: v.Version})
		if p, ok := fhir.ParseRef(v.Provenance); ok {
			event.Data = append(event.Data, audit.DataRef{Ref: p})
		}
	}
	for _, text := range out.DerivedFrom {
		if from, ok := fhir.ParseRef(text); ok {
			event.Data = append(event.Data, audit.DataRef{Ref: from})
		}
	}
	return out, s.audit.recorder.Record(ctx, event)
}

// Explain implements admin.Operations.
func (ops operations) Explain(ctx context.Context, op admin.Operator, id string) (*explain.Explanation, error) {
	return ops.explain(ctx, ops.request(op), id)
}

// explanations implements pages.Explanations.
type explanations struct{ *services }

var _ pages.Explanations = explanations{}

// own permits the data of one patient: people see their own data, whoever else the
// consents let see them.
type own string

// Permits implements access.Consents.
func (patient own) Permits(_ string, f *access.Facts) bool {
	return f.Patient != "" && f.Patient == string(patient)
}

// ownRequest returns the request of a patient about their own data.
func ownRequest(by audit.Caller, patient, line string) *interaction.Request {
	principal := *by.Principal
	principal.Grant = &access.Grant{Rules: slices.Clone(by.Principal.Grant.Rules), Consents: own(patient), Person: true}
	for i := range principal.Grant.Rules {
		principal.Grant.Rules[i].Patient = patient
	}
	return pageRequest(by.As(&principal), line)
}

// Explain implements pages.Explanations.
func (x explanations) Explain(ctx context.Context, by audit.Caller, patient, id string) (pages.Explanation, error) {
	in, err := x.explain(ctx, ownRequest(by, patient, "GET Observation/"+id), id)
	if err != nil {
		return pages.Explanation{}, err
	}
	var o shown
	if err := json.Unmarshal(in.Resource, &o); err != nil {
		return pages.Explanation{}, fhir.Wrap("server.Explain", err)
	}
	out := pages.Explanation{ID: id, Name: o.name(), Text: explainOrigin(in), Known: in.Now.Known, Same: in.Now.Same,
		Problem: in.Now.Problem, DerivedFrom: in.DerivedFrom, Method: in.Method, More: in.More}
	for i := range in.Samples {
		s := pages.ExplainedSample{Text: in.Samples[i].Text}
		for _, l := range in.Samples[i].Lines {
			s.Lines = append(s.Lines, pages.ExplainedLine(l))
		}
		out.Samples = append(out.Samples, s)
	}
	for _, c := range in.Now.Changes {
		out.Changes = append(out.Changes, pages.ExplainedChange(c))
	}
	for _, v := range in.Versions {
		from := v.Client
		if v.Vendor != "" {
			from = vendors.Name(v.Vendor)
		}
		out.Versions = append(out.Versions, pages.ExplainedVersion{Number: v.Version, At: v.At, Why: v.Why, From: from,
			Channel: v.Channel})
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, in.Resource, "", "  "); err != nil {
		return pages.Explanation{}, fhir.Wrap("server.Explain", err)
	}
	out.Resource = indented.String()
	return out, nil
}

// explainOrigin says to a patient where an Observation comes from.
func explainOrigin(x *explain.Explanation) string {
	name := vendors.Name(x.Vendor)
	switch x.Origin {
	case explain.FromVendor:
		return name + " has sent this measurement."
	case explain.FromDerived:
		return "This server has computed it from the measurements that " + name + " has sent."
	case explain.FromUnknown:
		return "It comes from " + name + ", but this server did not keep what exactly was sent."
	}
	return "An app or the staff has entered it. It is stored as it was entered."
}

// shown holds the elements of an Observation that a list shows.
type shown struct {
	ResourceType string `json:"resourceType"`
	ID           string `json:"id"`
	Identifier   []struct {
		System string `json:"system"`
	} `json:"identifier"`
	Code struct {
		Text   string `json:"text"`
		Coding []struct {
			Display, Code string
		} `json:"coding"`
	} `json:"code"`
	Effective string `json:"effectiveDateTime"`
	Period    struct {
		Start string `json:"start"`
	} `json:"effectivePeriod"`
	Quantity *struct {
		Value json.Number `json:"value"`
		Unit  string      `json:"unit"`
	} `json:"valueQuantity"`
	Concept *struct {
		Text string `json:"text"`
	} `json:"valueCodeableConcept"`
}

func (o *shown) name() string {
	switch {
	case o.Code.Text != "":
		return o.Code.Text
	case len(o.Code.Coding) > 0:
		return o.Code.Coding[0].Display
	}
	return "Measurement"
}

func (o *shown) value() string {
	switch {
	case o.Quantity != nil:
		return strings.TrimSpace(o.Quantity.Value.String() + " " + o.Quantity.Unit)
	case o.Concept != nil:
		return o.Concept.Text
	}
	return ""
}

// at returns the time, and whether it is only a day.
func (o *shown) at() (at time.Time, day bool) {
	text := o.Effective
	if text == "" {
		text = o.Period.Start
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t, false
	}
	t, err := time.Parse(time.DateOnly, text)
	return t, err == nil
}

// maxLatest limits the measurements of a vendor on the page of devices.
const maxLatest = 5

// categories are those of Observations, as the values of a search.
const categories = "activity,vital-signs,laboratory,exam,survey,procedure,therapy,social-history,imaging"

// Latest implements pages.Explanations.
func (x explanations) Latest(ctx context.Context, by audit.Caller, patient string) ([]pages.LatestData, error) {
	page, err := x.fhir.LastN(ctx, ownRequest(by, patient, "GET Observation/$lastn?patient="+patient),
		[]interaction.Parameter{{Name: "patient", Value: patient}, {Name: "category", Value: categories}})
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Entry []struct {
			Resource shown `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(page.Bytes(), &bundle); err != nil {
		return nil, fhir.Wrap("server.Latest", err)
	}
	byVendor := map[string][]pages.Measurement{}
	for i := range bundle.Entry {
		o := &bundle.Entry[i].Resource
		if o.ResourceType != "Observation" || len(o.Identifier) == 0 {
			continue
		}
		m := pages.Measurement{ID: o.ID, Name: o.name(), Value: o.value()}
		m.At, m.Day = o.at()
		vendor, ok := strings.CutPrefix(o.Identifier[0].System, fhir.Canonical+"/identifier/")
		if ok && !m.At.IsZero() {
			byVendor[vendor] = append(byVendor[vendor], m)
		}
	}
	var out []pages.LatestData
	for _, a := range vendors.All() {
		list := byVendor[a.Vendor()]
		slices.SortStableFunc(list, func(a, b pages.Measurement) int { return b.At.Compare(a.At) })
		if len(list) > 0 {
			out = append(out, pages.LatestData{Vendor: a.Vendor(), Name: vendors.Name(a.Vendor()),
				Measurements: list[:min(len(list), maxLatest)]})
		}
	}
	return out, nil
}
