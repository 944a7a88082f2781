package subscription

import (
	"bytes"
	"context"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription/topic"
)

// disclose sets the visible parts of an event if grant permits them now. The focus of a
// deletion is visible if the version before it would be.
func (e *Engine) disclose(ctx context.Context, it *item, grant *access.Grant, t *topic.Topic, content Content) error {
	ref := it.ref()
	if !grant.May(access.Read, ref.Type) {
		return nil
	}
	version := it.Version
	if it.Deleted {
		version--
	}
	res, facts, err := e.opts.Store.ReadVersion(ctx, ref, version)
	if err != nil {
		return ignoreMissing(err)
	}
	heads, err := e.opts.Store.Heads(ctx, []fhir.Ref{ref})
	if err != nil {
		return err
	}
	if res.Deleted || len(heads) != 1 || heads[0].Deleted && !it.Deleted || facts == nil ||
		!grant.Filter(access.Read).Allow(facts) {
		return nil
	}
	it.visible, it.patients = true, facts.Patients()
	if it.Deleted {
		return nil
	}
	it.json = res.JSON
	if t == nil || content == empty {
		return nil
	}
	if shape := t.ShapeOf(ref.Type); shape != nil {
		return e.relate(ctx, it, grant, shape)
	}
	return nil
}

// maxRelated bounds the resources that accompany one event.
const maxRelated = 32

// relate adds the resources that accompany an event and that grant permits now.
func (e *Engine) relate(ctx context.Context, it *item, grant *access.Grant, shape *topic.Shape) error {
	values, err := search.Extractor{Base: e.opts.Base}.Extract(it.ref().Type, it.json)
	if err != nil {
		return nil // stored resources can be read
	}
	for _, include := range shape.Include {
		_, param, _ := strings.Cut(include, ":")
		for _, v := range values.ByParam[param] {
			if v.RefID == "" || len(it.context) >= maxRelated {
				continue
			}
			if err := e.relateOne(ctx, it, grant, fhir.Ref{Type: v.RefType, ID: v.RefID}); err != nil {
				return err
			}
		}
	}
	for _, include := range shape.RevInclude {
		typ, param, _ := strings.Cut(include, ":")
		if err := e.relateBack(ctx, it, grant, typ, param); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) relateOne(ctx context.Context, it *item, grant *access.Grant, ref fhir.Ref) error {
	if !fhir.KnownType(ref.Type) || !grant.May(access.Read, ref.Type) ||
		slices.ContainsFunc(it.context, func(r related) bool { return r.ref == ref }) {
		return nil
	}
	res, facts, err := e.opts.Store.Read(ctx, ref, 0)
	if err != nil {
		return ignoreMissing(err)
	}
	if !res.Deleted && facts != nil && grant.Filter(access.Read).Allow(facts) {
		it.context = append(it.context, related{ref: ref, version: res.Version, patients: facts.Patients(),
			json: res.JSON})
	}
	return nil
}

// relateBack adds the resources of a type that refer to the focus.
func (e *Engine) relateBack(ctx context.Context, it *item, grant *access.Grant, typ, param string) error {
	if !grant.May(access.Read, typ) {
		return nil
	}
	q, err := search.Parse(typ, [][2]string{{param, it.ref().String()}}, search.ParseOptions{Base: e.opts.Base})
	if err != nil {
		return fhir.Wrap("subscription.relate", err)
	}
	left := maxRelated - len(it.context)
	if left <= 0 {
		return nil
	}
	return e.opts.Store.Find(ctx, store.Find{Query: q, Filter: grant.Filter(access.Read), Limit: left},
		func(f *store.Found) bool {
			ref := fhir.Ref{Type: typ, ID: strings.Clone(f.Resource.ID)}
			if !slices.ContainsFunc(it.context, func(r related) bool { return r.ref == ref }) {
				it.context = append(it.context, related{ref: ref, version: f.Resource.Version,
					patients: f.Facts.Patients(), json: bytes.Clone(f.Resource.JSON)})
			}
			return len(it.context) < maxRelated
		})
}
