package server

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/terminology"
)

// publishTerminology stores the CodeSystems and ConceptMaps of the metric table. One
// that has not changed gets no new version. One that is no longer part of the table,
// because its pack is gone, is retired.
func (s *services) publishTerminology(ctx context.Context) error {
	ops, by := operations{s}, admin.Operator{Name: "server"}
	list, err := terminology.Resources(s.pipeline.Mapper.Table())
	if err != nil {
		return err
	}
	published := map[fhir.Ref]bool{}
	for _, r := range list {
		ref := fhir.Ref{Type: r.Type, ID: r.ID}
		published[ref] = true
		same, err := s.holds(ctx, ref, r.JSON)
		if err != nil {
			return err
		}
		if !same {
			if _, err := ops.put(ctx, ops.request(by), r.Type, r.ID, r.JSON); err != nil {
				return err
			}
		}
	}
	for _, typ := range []string{"CodeSystem", "ConceptMap"} {
		if err := s.retire(ctx, typ, published); err != nil {
			return err
		}
	}
	return nil
}

// holds reports whether the current version of ref has the content of body.
func (s *services) holds(ctx context.Context, ref fhir.Ref, body []byte) (bool, error) {
	found, err := exists(ctx, s.store, ref)
	if err != nil || !found {
		return false, err
	}
	r, _, err := s.store.Read(ctx, ref, 0)
	if err != nil {
		return false, err
	}
	var have, want map[string]any
	for raw, into := range map[*[]byte]*map[string]any{&r.JSON: &have, &body: &want} {
		if err := json.Unmarshal(*raw, into); err != nil {
			return false, fhir.Wrap("server.publishTerminology", err)
		}
		delete(*into, "meta")
	}
	return reflect.DeepEqual(have, want), nil
}

// retire sets the status of the resources of a type that are not published any more.
func (s *services) retire(ctx context.Context, typ string, published map[fhir.Ref]bool) error {
	q, err := search.Parse(typ, nil, search.ParseOptions{Base: s.fhirBase()})
	if err != nil {
		return err
	}
	var gone []fhir.Resource
	err = s.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if r := f.Resource; !published[r.Ref()] && !bytes.Contains(r.JSON, []byte(`"status":"retired"`)) {
				gone = append(gone, fhir.Resource{Type: typ, ID: strings.Clone(r.ID), JSON: bytes.Clone(r.JSON)})
			}
			return true
		})
	if err != nil {
		return err
	}
	ops := operations{s}
	for i := range gone {
		var body map[string]any
		if err := json.Unmarshal(gone[i].JSON, &body); err != nil {
			return fhir.Wrap("server.publishTerminology", err)
		}
		delete(body, "meta")
		body["status"] = "retired"
		raw, err := json.Marshal(body)
		if err != nil {
			return fhir.Wrap("server.publishTerminology", err)
		}
		if _, err := ops.put(ctx, ops.request(admin.Operator{Name: "server"}), typ, gone[i].ID, raw); err != nil {
			return err
		}
	}
	return nil
}
