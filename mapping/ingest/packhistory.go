package ingest

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping/table"
)

// prefixPacks is the prefix of the state ingest/packs/VENDOR, which holds the packEpochs
// of a vendor as JSON, oldest first.
const prefixPacks = "ingest/packs/"

// packEpoch says which packs were in force for the commits after a Seq.
type packEpoch struct {
	After store.Seq `json:"after"`
	Packs []string  `json:"packs"` // as Pipeline.packs returns them
}

// maxEpochs limits the epochs of a vendor that are stored.
const maxEpochs = 1000

// RecordPacks records which packs are in force from now on. It must be called with each
// new Mapper before the first delivery. The rows of one series may come from packs that
// convert numbers differently, and only the order of commits tells by which pack a row
// was mapped.
func (p *Pipeline) RecordPacks(ctx context.Context) error {
	return store.Retry(maxTries, "ingest.RecordPacks", "the packs in force are being recorded; try again",
		func() error { return p.recordPacks(ctx) })
}

func (p *Pipeline) recordPacks(ctx context.Context) error {
	batch := &store.Batch{}
	for _, a := range p.Adapters {
		epochs, old, err := p.packEpochs(ctx, a.Vendor())
		if err != nil {
			return err
		}
		now := packEpoch{After: p.Store.LastSeq(), Packs: p.packs(a.Vendor())}
		if n := len(epochs); n > 0 && slices.Equal(epochs[n-1].Packs, now.Packs) {
			continue
		}
		epochs = append(epochs, now)
		raw, err := json.Marshal(epochs[max(0, len(epochs)-maxEpochs):])
		if err != nil {
			return fhir.Wrap("ingest.RecordPacks", err)
		}
		w := store.StateWrite{Key: prefixPacks + a.Vendor(), Value: raw, Expect: store.StateAbsent}
		if old != nil {
			w.Expect, w.Old = store.StateEquals, old
		}
		batch.State = append(batch.State, w)
	}
	if len(batch.State) == 0 {
		return nil
	}
	_, err := p.Store.Commit(ctx, batch)
	return fhir.Wrap("ingest.RecordPacks", err)
}

// packEpochs returns the epochs of a vendor and their stored bytes.
func (p *Pipeline) packEpochs(ctx context.Context, vendor string) (epochs []packEpoch, raw []byte, err error) {
	raw, err = p.Store.Get(ctx, prefixPacks+vendor)
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &epochs)
	}
	return epochs, raw, fhir.Wrap("ingest.RecordPacks", err)
}

// packs returns the packs that map a vendor's metrics, each as "NAME|VERSION".
func (p *Pipeline) packs(vendor string) (out []string) {
	for _, pack := range p.Mapper.Table().Packs {
		if pack.Vendor == vendor {
			out = append(out, pack.Name+"|"+pack.Version)
		}
	}
	return out
}

// maps reports whether one of the packs of e has a row with the given name.
func (e *packEpoch) maps(row string) bool {
	return slices.ContainsFunc(e.Packs, func(pack string) bool {
		name, version, _ := strings.Cut(pack, "|")
		return strings.HasPrefix(row, (&table.Pack{Name: name, Version: version}).RowURI(""))
	})
}

// inForce returns the candidates for a row of a series that a pack mapped which was in
// force when the row was written. If there is none, it returns all.
func (r *keptReader) inForce(ctx context.Context, row *fhir.Resource, list []Kept) ([]Kept, error) {
	if len(list) < 2 || row.Version != 1 {
		return list, nil
	}
	if r.epochs == nil {
		epochs, _, err := r.pipeline.packEpochs(ctx, r.vendor)
		if err != nil {
			return nil, err
		}
		r.epochs = append([]packEpoch{}, epochs...)
	}
	heads, err := r.pipeline.Store.Heads(ctx, []fhir.Ref{row.Ref()})
	if err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	for i := len(r.epochs) - 1; i >= 0 && heads[0].Version == 1; i-- {
		if e := &r.epochs[i]; e.After < heads[0].Seq {
			var out []Kept
			for _, k := range list {
				if e.maps(k.Row) {
					out = append(out, k)
				}
			}
			if len(out) > 0 {
				return out, nil
			}
			break
		}
	}
	return list, nil
}
