package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/stream"
)

// Kept is the Sample from which a stored Observation was made, so that the mapping can
// be explained and repeated with another version of the metric table.
type Kept struct {
	// Sample is the sample as it was delivered, with the components that could not be
	// written.
	Sample sample.Sample `json:"sample"`
	Format string        `json:"format,omitempty"` // of the payload
	// Row names the row that mapped the sample, as table.Pack.RowURI returns it.
	Row string `json:"row"`
	// Zone is the IANA name of the patient's zone when the sample was mapped, or "".
	// It is "" for a sample that states its offset.
	Zone string `json:"zone,omitempty"`
	// Derived is set if ingest made the sample of stored Observations: a night of its
	// segments.
	Derived bool `json:"derived,omitempty"`
	// Rebuilt is set if the sample was put together again of a row of a series; see
	// stream.Exemplar.
	Rebuilt bool `json:"rebuilt,omitempty"`
	// Joined is set if the Observation was made of several samples, of which this is
	// one: two records of one workout.
	Joined bool `json:"-"`
}

// maxJoined limits the samples of one Observation that are kept.
const maxJoined = 8

// encode returns the value of the state for k.
func (k *Kept) encode() ([]byte, error) {
	out := *k
	floating := k.Sample.Zone == sample.ZoneFloating
	out.Sample.Start, out.Sample.End = inMinutes(k.Sample.Start, floating), inMinutes(k.Sample.End, floating)
	b, err := json.Marshal(&out)
	return b, fhir.Wrap("ingest.Kept", err)
}

// inMinutes returns t with an offset of whole minutes, as JSON can write it. A floating
// time keeps its clock time, and any other its instant.
func inMinutes(t time.Time, floating bool) time.Time {
	_, offset := t.Zone()
	switch {
	case offset%60 == 0:
		return t
	case floating:
		return t.Add(time.Duration(offset) * time.Second).UTC()
	}
	return t.UTC()
}

// decodeKept reads what encode has written.
func decodeKept(b []byte) (*Kept, error) {
	k := &Kept{}
	if err := json.Unmarshal(b, k); err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	return k, nil
}

// joinEncoded returns the state of an Observation with the given samples, each encoded:
// one, or a list.
func joinEncoded(kept [][]byte) []byte {
	if len(kept) == 1 {
		return kept[0]
	}
	return append(append([]byte{'['}, bytes.Join(kept, []byte{','})...), ']')
}

// decodeAll reads what joinEncoded has written. Several samples are Joined, or, if all of
// them are Rebuilt, candidates.
func decodeAll(b []byte) ([]Kept, error) {
	if len(b) == 0 || b[0] != '[' {
		k, err := decodeKept(b)
		if err != nil {
			return nil, err
		}
		return []Kept{*k}, nil
	}
	var list []Kept
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fhir.Wrap("ingest.Kept", err)
	}
	delivered := false
	for i := range list {
		delivered = delivered || !list[i].Rebuilt
	}
	for i := range list {
		list[i].Joined = delivered && len(list) > 1
	}
	return list, nil
}

// keptExemplar is a stream.Exemplar with the facts of Kept, as it is stored.
type keptExemplar struct {
	stream.Exemplar
	Format string `json:"format,omitempty"`
	Row    string `json:"row"`
	Zone   string `json:"zone,omitempty"`

	location *time.Location // of Zone
}

// rebuild returns the sample of the row for which an Observation stands, or false if the
// row is not one of x.
func (x *keptExemplar) rebuild(observation []byte) (k Kept, ok bool) {
	row, shape, ok := stream.Row(observation)
	if !ok || shape != x.Shape {
		return k, false
	}
	s, ok := x.Rebuild(&row)
	if !ok || !x.isAt(&s, &row) {
		return k, false
	}
	return Kept{Sample: s, Format: x.Format, Row: x.Row, Zone: x.Zone, Rebuilt: true}, ok
}

// isAt reports whether the times of s are written as those of row: with the offsets of the
// patient's zone, unless the sample states its own.
func (x *keptExemplar) isAt(s *sample.Sample, row *series.Sample) bool {
	if x.Zone != "" && x.location == nil {
		var err error
		if x.location, err = time.LoadLocation(x.Zone); err != nil {
			return false
		}
	}
	e, err := mapping.ResolveEffective(s, x.location)
	is := func(t time.Time, us int64, off int16) bool { return t.UnixMicro() == us && mapping.Offset(t) == off }
	return err == nil && is(e.Start, row.Start, row.Off) &&
		(e.End.IsZero() && row.End == series.NoEnd || !e.End.IsZero() && is(e.End, row.End, row.EndOff))
}

func sampleKey(patient, vendor, id string) string {
	return prefixSample + patient + "/" + vendor + "/" + id
}

func exemplarPrefix(patient, vendor string) string {
	return prefixExemplar + patient + "/" + vendor + "/"
}

// keep returns the encoded Kept of a sample, or nil if it cannot be kept, because its
// end lies after the year 9999.
func (d *delivery) keep(s *sample.Sample, derived bool) [][]byte {
	k := Kept{Sample: *s, Format: d.format, Row: d.rowURI(s.Metric), Zone: d.zoneName(s.Zone), Derived: derived}
	if derived {
		k.Format = ""
	}
	raw, err := k.encode()
	if err != nil {
		return nil
	}
	return [][]byte{raw}
}

// rowURI names the row that maps a metric.
func (d *delivery) rowURI(metric string) string {
	if row := d.pipeline.Mapper.Row(d.request.Vendor, metric); row != nil {
		return row.Pack.RowURI(row.Metric)
	}
	return ""
}

// zoneName returns the name of the patient's zone if a sample depends on it.
func (d *delivery) zoneName(z sample.Zone) string {
	if z == sample.ZoneStated || d.zone == nil {
		return ""
	}
	return d.zone.String()
}

// keepSample adds the state with the samples of obs to a.
func (d *delivery) keepSample(obs *observation, a *commitAttempt) error {
	if obs.group != nil {
		if err := obs.keepRow(d); err != nil {
			return err
		}
	}
	if len(obs.kept) == 0 {
		return nil
	}
	a.batch.State = append(a.batch.State, store.StateWrite{
		Key:   sampleKey(d.request.Patient, d.request.Vendor, obs.ID),
		Value: withContent(obs.Hash, joinEncoded(obs.kept))})
	return nil
}

// withContent returns the state of an Observation with samples: the content that was
// made of them, as the hash of the write in hex, a line break, and the samples. An update
// by a client has another hash.
func withContent(hash [16]byte, samples []byte) []byte {
	b := append(hex.AppendEncode(nil, hash[:]), '\n')
	return append(b, samples...)
}

// cutContent reads what withContent has written.
func cutContent(b []byte) (hash [16]byte, samples []byte, err error) {
	text, samples, _ := bytes.Cut(b, []byte{'\n'})
	if n, err := hex.Decode(hash[:], text[:min(len(text), 2*len(hash))]); err != nil || n != len(hash) {
		return hash, nil, fhir.Errorf(fhir.Internal, "ingest.Kept", "the state of a kept sample is invalid")
	}
	return hash, samples, nil
}

// keepRow makes the samples of an Observation that was a row of a series.
func (obs *observation) keepRow(d *delivery) error {
	obs.kept = nil
	for _, x := range obs.group.exemplars {
		s, ok := x.Rebuild(&obs.row)
		if !ok {
			continue
		}
		k := Kept{Sample: s, Format: d.format, Row: d.rowURI(s.Metric), Zone: d.zoneName(s.Zone), Rebuilt: true}
		raw, err := k.encode()
		if err != nil {
			return err
		}
		obs.kept = append(obs.kept, raw)
	}
	return nil
}

// joinKept adds the samples of the stored version of obs to those of obs, which has its
// components. A sample that was restated is replaced.
func (d *delivery) joinKept(ctx context.Context, obs *observation, stored *fhir.Resource) error {
	if len(obs.kept) == 0 {
		return nil
	}
	own, err := decodeKept(obs.kept[len(obs.kept)-1])
	if err != nil {
		return err
	}
	reader := keptReader{pipeline: d.pipeline, patient: d.request.Patient, vendor: d.request.Vendor}
	list, err := reader.of(ctx, stored)
	if err != nil {
		return err
	}
	if len(list) > 1 && !list[0].Joined {
		list = list[:1] // candidates
	}
	var all [][]byte
	for i := range list {
		if s := &list[i].Sample; s.VendorID == own.Sample.VendorID && s.Channel == own.Sample.Channel {
			continue
		}
		raw, err := list[i].encode()
		if err != nil {
			return err
		}
		known := func(other []byte) bool { return bytes.Equal(other, raw) }
		if !slices.ContainsFunc(obs.kept, known) { // another attempt to commit has added it
			all = append(all, raw)
		}
	}
	all = append(all, obs.kept...)
	obs.kept = all[max(0, len(all)-maxJoined):]
	return nil
}

// keepExemplars adds the state with the exemplars of group to a, unless the store has it.
func (d *delivery) keepExemplars(ctx context.Context, group *seriesGroup, streamID string, a *commitAttempt) error {
	for _, x := range group.exemplars {
		value, err := json.Marshal(&keptExemplar{Exemplar: *x, Format: d.format, Row: d.rowURI(x.Sample.Metric),
			Zone: d.zoneName(x.Sample.Zone)})
		if err != nil {
			return fhir.Wrap("ingest.Kept", err)
		}
		sum := sha256.Sum256(value)
		key := exemplarPrefix(d.request.Patient, d.request.Vendor) + streamID + "/" + hex.EncodeToString(sum[:8])
		if d.exemplars[key] {
			continue
		}
		if len(d.exemplars) >= maxExemplars {
			clear(d.exemplars)
		}
		d.exemplars[key] = true
		raw, err := d.pipeline.Store.Get(ctx, key)
		if err != nil {
			return fhir.Wrap("ingest.Kept", err)
		}
		if raw == nil {
			a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: value})
		}
	}
	return nil
}

// maxExemplars limits the exemplars that a delivery remembers to be stored.
const maxExemplars = 4096
