package storetest

import (
	"context"
	"sync"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// Columns is a store with columns.
type Columns interface {
	store.Store
	store.Columnar
}

// Guarded returns st with the guards of commits (store.Batch.Guards), for tests of
// several processes over one store whose driver ignores guards. All users of the store
// must share the result.
func Guarded(st Columns) Columns {
	return &guarded{Columns: st, touched: map[string]store.Seq{}, first: st.LastSeq()}
}

type guarded struct {
	Columns
	mu      sync.Mutex // held during a commit
	touched map[string]store.Seq
	first   store.Seq // guards touched by earlier commits are not known
}

// Commit implements store.Store.
func (g *guarded) Commit(ctx context.Context, b *store.Batch) (store.Result, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, name := range b.Guards {
		if b.Seen < g.first || b.Seen < g.touched[name] {
			return store.Result{}, fhir.Errorf(fhir.Conflict, "storetest.Commit", "a guard was touched")
		}
	}
	var patients []string // of Consents, before and after
	for i := range b.Writes {
		ref := b.Writes[i].Resource.Ref()
		if ref.Type == "Consent" {
			patients = append(patients, g.patient(ctx, ref))
		}
	}
	res, err := g.Columns.Commit(ctx, b)
	if err != nil || res.Seq == 0 {
		return res, err
	}
	for i := range b.Writes {
		if ref := b.Writes[i].Resource.Ref(); ref.Type == "Consent" {
			patients = append(patients, g.patient(ctx, ref))
		}
	}
	for _, p := range patients {
		g.touched[store.ConsentGuard(p)] = res.Seq
	}
	for _, name := range b.Touches {
		g.touched[name] = res.Seq
	}
	return res, nil
}

func (g *guarded) patient(ctx context.Context, ref fhir.Ref) string {
	_, facts, err := g.Columns.Read(ctx, ref, 0)
	if err != nil || facts == nil {
		return ""
	}
	return facts.Patient
}
