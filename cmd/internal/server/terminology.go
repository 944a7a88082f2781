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
	"pulsegate/fhir/guide"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/terminology"
)

// guideResources returns the resources that this server publishes: those of the guide,
// the CodeSystems and ConceptMaps of its metric table, and the ImplementationGuide.
func (s *services) guideResources() ([]guide.Resource, error) {
	table, err := terminology.Resources(s.pipeline.Mapper.Table())
	if err != nil {
		return nil, err
	}
	out := guide.Resources()
	for _, r := range table {
		out = append(out, guide.Resource(r))
	}
	ig, err := guide.ImplementationGuide(out)
	return append(out, ig), err
}

// publishGuide stores the resources of the guide and of the metric table. One that has
// not changed gets no new version. One that is no longer part of them, because its pack
// is gone, is retired.
func (s *services) publishGuide(ctx context.Context) error {
	ops, by := operations{s}, admin.Operator{Name: "server"}
	list, err := s.guideResources()
	if err != nil {
		return err
	}
	published := map[fhir.Ref]bool{}
	for _, r := range list {
		ref := fhir.Ref{Type: r.Type, ID: r.ID}
		published[ref] = true
		err := ops.publish(ctx, by, ref, func(current []byte) ([]byte, error) {
			if same, err := sameContent(current, r.JSON); err != nil || same {
				return nil, err
			}
			return r.JSON, nil
		})
		if err != nil {
			return err
		}
	}
	for _, typ := range []string{"CodeSystem", "ConceptMap", "ImplementationGuide", "OperationDefinition",
		"StructureDefinition", "ValueSet"} {
		if err := s.retire(ctx, typ, published); err != nil {
			return err
		}
	}
	return nil
}

// sameContent reports whether two resources have the same content. The first one may be
// nil.
func sameContent(current, body []byte) (bool, error) {
	if current == nil {
		return false, nil
	}
	var have, want map[string]any
	for raw, into := range map[*[]byte]*map[string]any{&current: &have, &body: &want} {
		if err := json.Unmarshal(*raw, into); err != nil {
			return false, fhir.Wrap("server.publishGuide", err)
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
	var gone []fhir.Ref
	err = s.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			// Clients may have written others, which are theirs.
			own := f.Facts.Author == "" && bytes.Contains(f.Resource.JSON, []byte(`"url":"`+fhir.Canonical+"/"+typ+"/"))
			if r := f.Resource; own && !published[r.Ref()] && !isRetired(r.JSON) {
				gone = append(gone, fhir.Ref{Type: typ, ID: strings.Clone(r.ID)})
			}
			return true
		})
	if err != nil {
		return err
	}
	for _, ref := range gone {
		err := operations{s}.publish(ctx, admin.Operator{Name: "server"}, ref, func(current []byte) ([]byte, error) {
			if current == nil || isRetired(current) {
				return nil, nil
			}
			var body map[string]any
			if err := json.Unmarshal(current, &body); err != nil {
				return nil, fhir.Wrap("server.publishGuide", err)
			}
			delete(body, "meta")
			body["status"] = "retired"
			raw, err := json.Marshal(body)
			return raw, fhir.Wrap("server.publishGuide", err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func isRetired(body []byte) bool { return bytes.Contains(body, []byte(`"status":"retired"`)) }
