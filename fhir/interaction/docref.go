package interaction

import (
	"context"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// DocRef implements DocumentReference/$docref of US Core
// (https://hl7.org/fhir/us/core/OperationDefinition-docref.html). It returns the current
// DocumentReferences of one patient that the caller may see, the newest first: those of any
// of the types, if there are some, whose period of care overlaps start and end. The server
// makes no documents, so that the answer to on-demand=true is empty. An answer is a search,
// and its links are those of the search.
func (s *Service) DocRef(ctx context.Context, rq *Request, ps []Parameter) (*Page, error) {
	const op = "interaction.DocRef"
	raw, demand, err := docRefQuery(ps)
	if may := rq.may(op, access.Search, "DocumentReference"); may != nil {
		err = may
	}
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "DocumentReference"}, err)
	}
	if !demand {
		return s.Search(ctx, rq, "DocumentReference", raw)
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	ev := rq.event("search-type", "DocumentReference")
	ev.Query = rq.Line
	if err := s.disclose(ctx, rq, ev); err != nil {
		return nil, err
	}
	page := &Page{}
	page.open(id, "searchset", s.Clock(), 0, []link{{"self", s.Base + "/DocumentReference/$docref?on-demand=true&" + raw}})
	return page, nil
}

// docRefQuery returns the search for the stored documents, and whether only documents
// that are made on demand are asked for.
func docRefQuery(ps []Parameter) (raw string, demand bool, err error) {
	const op = "interaction.DocRef"
	invalid := func(code, text string) error {
		return &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: code, Diagnostics: text}}}
	}
	single := map[string]string{}
	var types, count []string
	for i := range ps {
		p := &ps[i]
		v := p.text()
		switch {
		case p.Period != nil || p.Coding != nil && p.Name != "type":
			return "", false, invalid("value", "$docref takes Codings in type only, and no Periods")
		case p.Name == "type":
			types = append(types, v)
		case p.Name == "_count":
			count = append(count, v)
		case p.Name == "_format" || p.Name == "_pretty":
		case p.Name == "profile":
			return "", false, invalid("not-supported", "$docref does not select documents by profile; use type")
		case !slices.Contains([]string{"patient", "start", "end", "on-demand"}, p.Name):
			return "", false, invalid("not-supported", "$docref takes patient, start, end, type, on-demand and _count")
		case single[p.Name] != "":
			return "", false, invalid("value", p.Name+" may be given once")
		default:
			single[p.Name] = v
		}
	}
	patient := strings.TrimPrefix(single["patient"], "Patient/")
	switch d := single["on-demand"]; {
	case patient == "":
		return "", false, invalid("required", "$docref needs patient")
	case !fhir.ValidID(patient):
		return "", false, invalid("value", "patient must be the id of a Patient")
	case d != "" && d != "true" && d != "false":
		return "", false, invalid("value", "on-demand must be true or false")
	default:
		demand = d == "true"
	}
	out := []Parameter{{Name: "patient", Value: patient}, {Name: "status", Value: "current"}}
	if types != nil {
		out = append(out, Parameter{Name: "type", Value: strings.Join(types, ",")})
	}
	for _, bound := range [][2]string{{"start", "ge"}, {"end", "le"}} {
		v := single[bound[0]]
		if v == "" {
			continue
		}
		if c := v[0]; c < '0' || c > '9' || strings.Contains(v, ",") {
			return "", false, invalid("value", bound[0]+" must be a dateTime")
		}
		out = append(out, Parameter{Name: "period", Value: bound[1] + v})
	}
	for _, c := range count {
		out = append(out, Parameter{Name: "_count", Value: c})
	}
	return FormatParameters(append(out, Parameter{Name: "_sort", Value: "-date"})), demand, nil
}
