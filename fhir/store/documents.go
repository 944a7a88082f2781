package store

import (
	"context"
	"crypto/sha256"

	"pulsegate/fhir"
)

// Documents is a store without the sample tier: it writes every sample as the
// document for which the sample stands. A driver without series wraps itself in
// Documents. Tests compare the sample tier with it.
type Documents struct{ Store }

// Commit implements Store.
func (d Documents) Commit(ctx context.Context, b *Batch) (Result, error) {
	if len(b.Series) == 0 {
		return d.Store.Commit(ctx, b)
	}
	plain := *b
	plain.Series, plain.Probed, plain.Writes = nil, 0, nil
	for i := range b.Series {
		plain.Writes = appendSamples(plain.Writes, &b.Series[i])
	}
	n := len(plain.Writes)
	plain.Writes = append(plain.Writes, b.Writes...)
	r, err := d.Store.Commit(ctx, &plain)
	if err != nil {
		return Result{}, err
	}
	r.Outcomes = r.Outcomes[n:]
	return r, nil
}

func appendSamples(ws []Write, w *SeriesWrite) []Write {
	for i := range w.Columns.Len() {
		s := w.Columns.At(i)
		k := w.Template.Key(&s)
		body := w.Template.Append(nil, &s)
		ws = append(ws, Write{Resource: fhir.Resource{Type: "Observation", ID: k.ID(), JSON: body},
			Vendor: w.Template.Vendor, Hash: ContentHash(body), Expect: Absent})
	}
	return ws
}

// ContentHash returns the Write.Hash of canonical bytes without version facts.
func ContentHash(body []byte) (h [16]byte) {
	sum := sha256.Sum256(body)
	copy(h[:], sum[:])
	return h
}

// Probe implements Store.
func (d Documents) Probe(ctx context.Context, ws []SeriesWrite) (Seq, [][]Presence, error) {
	at := d.LastSeq()
	found := make([][]Presence, len(ws))
	for i := range ws {
		w := &ws[i]
		refs := make([]fhir.Ref, w.Columns.Len())
		hashes := make([][16]byte, len(refs))
		for j := range refs {
			s := w.Columns.At(j)
			k := w.Template.Key(&s)
			refs[j] = fhir.Ref{Type: "Observation", ID: k.ID()}
			hashes[j] = ContentHash(w.Template.Append(nil, &s))
		}
		heads, err := d.Heads(ctx, refs)
		if err != nil {
			return 0, nil, err
		}
		found[i] = make([]Presence, len(refs))
		for j, h := range heads {
			switch {
			case h.Version == 0:
			case h.Version == 1 && h.Hash == hashes[j]:
				found[i][j] = Same
			default:
				found[i][j] = Other
			}
		}
	}
	return at, found, nil
}
