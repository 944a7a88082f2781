package topic

import (
	"encoding/json"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// basic is the R4 form of a topic, after the prefix of a stored resource.
type basic struct {
	ModifierExtension []extension             `json:"modifierExtension"`
	Extension         []extension             `json:"extension"`
	Code              element.CodeableConcept `json:"code"`
}

// Basic returns the topic as the canonical JSON of a Basic with the id of the topic.
func (t *Topic) Basic() ([]byte, error) {
	b := basic{ModifierExtension: []extension{{URL: r5 + "status", ValueCode: t.Status}},
		Code: element.CodeableConcept{Coding: []element.Coding{{System: CodeSystem, Code: Code}}}}
	add := func(e extension) {
		if e.text() != "" {
			b.Extension = append(b.Extension, e)
		}
	}
	add(extension{URL: r5 + "url", ValueURI: t.URL})
	add(extension{URL: r5 + "version", ValueString: t.Version})
	add(extension{URL: r5 + "name", ValueString: t.Name})
	add(extension{URL: r5 + "title", ValueString: t.Title})
	add(extension{URL: r5 + "date", ValueDateTime: t.Date})
	add(extension{URL: r5 + "description", ValueMarkdown: t.Description})
	for i := range t.Triggers {
		b.Extension = append(b.Extension, t.Triggers[i].fold())
	}
	for _, f := range t.Filters {
		e := extension{URL: r4b + "canFilterBy"}
		e.member(extension{URL: "description", ValueMarkdown: f.Description})
		e.member(extension{URL: "resource", ValueURI: f.Resource})
		e.member(extension{URL: "filterParameter", ValueString: f.Parameter})
		for _, m := range f.Modifiers {
			e.member(extension{URL: "modifier", ValueCode: m})
		}
		b.Extension = append(b.Extension, e)
	}
	for _, s := range t.Shapes {
		e := extension{URL: r4b + "notificationShape"}
		e.member(extension{URL: "resource", ValueURI: s.Resource})
		for _, in := range s.Include {
			e.member(extension{URL: "include", ValueString: in})
		}
		for _, in := range s.RevInclude {
			e.member(extension{URL: "revInclude", ValueString: in})
		}
		b.Extension = append(b.Extension, e)
	}
	body, err := json.Marshal(b)
	if err != nil {
		return nil, fhir.Wrap("topic.Basic", err)
	}
	return append([]byte(fhir.Prefix("Basic", t.ID)+`},`), body[1:]...), nil
}

// member adds a part of an extension unless it is empty.
func (e *extension) member(x extension) {
	if x.text() != "" {
		e.Extension = append(e.Extension, x)
	}
}

func (r *Trigger) fold() extension {
	e := extension{URL: r4b + "resourceTrigger"}
	e.member(extension{URL: "description", ValueMarkdown: r.Description})
	e.member(extension{URL: "resource", ValueURI: types + r.Resource})
	for i, code := range interactions {
		if r.Interactions&(1<<i) != 0 {
			e.member(extension{URL: "supportedInteraction", ValueCode: code})
		}
	}
	if r.Previous != "" || r.Current != "" {
		result := func(passes bool) string {
			if passes {
				return "test-passes"
			}
			return "test-fails"
		}
		both := r.RequireBoth
		q := extension{URL: "queryCriteria"}
		q.member(extension{URL: "previous", ValueString: r.Previous})
		q.member(extension{URL: "resultForCreate", ValueCode: result(r.CreatePasses)})
		q.member(extension{URL: "current", ValueString: r.Current})
		q.member(extension{URL: "resultForDelete", ValueCode: result(r.DeletePasses)})
		q.Extension = append(q.Extension, extension{URL: "requireBoth", ValueBoolean: &both})
		e.Extension = append(e.Extension, q)
	}
	e.member(extension{URL: "fhirPathCriteria", ValueString: r.FHIRPath})
	return e
}
