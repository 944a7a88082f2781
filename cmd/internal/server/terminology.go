package server

import (
	"bytes"
	"context"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/mapping/terminology"
)

// publishTerminology stores the CodeSystems and ConceptMaps of the metric table. One
// that has not changed gets no new version. One that is no longer part of the table,
// because its pack is gone, is retired.
func (s *services) publishTerminology(ctx context.Context) error {
	list, err := terminology.Resources(s.pipeline.Mapper.Table())
	if err != nil {
		return err
	}
	published := map[fhir.Ref]bool{}
	for _, r := range list {
		ref := fhir.Ref{Type: r.Type, ID: r.ID}
		published[ref] = true
		if err := s.publish(ctx, ref, r.JSON); err != nil {
			return err
		}
	}
	for _, typ := range []string{"CodeSystem", "ConceptMap"} {
		if err := s.retire(ctx, typ, published); err != nil {
			return err
		}
	}
	return nil
}

// publish stores body as ref, unless the current version has the same content. If
// several servers start at once, one of them stores it.
func (s *services) publish(ctx context.Context, ref fhir.Ref, body []byte) error {
	ops := operations{s}
	return store.Retry(16, "server.publish", "another server is publishing other resources", func() error {
		version, same, err := s.compare(ctx, ref, body)
		if err != nil || same {
			return err
		}
		tag, pre := `W/"`+strconv.FormatUint(version, 10)+`"`, interaction.Preconditions{}
		if version == 0 {
			pre.IfNoneMatch, err = interaction.ParseTags("*")
		} else {
			pre.IfMatch, err = interaction.ParseTags(tag)
		}
		if err != nil {
			return err
		}
		_, err = ops.fhir.Update(ctx, ops.request(admin.Operator{Name: "server"}), ref,
			(&fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: body}).Sendable(), pre)
		return err
	})
}

// compare returns the version of ref, 0 if it does not exist, and reports whether it has
// the content of body.
func (s *services) compare(ctx context.Context, ref fhir.Ref, body []byte) (version uint64, same bool, err error) {
	r, _, err := s.store.Read(ctx, ref, 0)
	if err != nil && fhir.KindOf(err) == fhir.NotFound || err == nil && r.Deleted {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	var have, want map[string]any
	for raw, into := range map[*[]byte]*map[string]any{&r.JSON: &have, &body: &want} {
		if err := json.Unmarshal(*raw, into); err != nil {
			return 0, false, fhir.Wrap("server.compare", err)
		}
		delete(*into, "meta")
	}
	return r.Version, reflect.DeepEqual(have, want), nil
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
		if err := s.publish(ctx, gone[i].Ref(), raw); err != nil {
			return err
		}
	}
	return nil
}
