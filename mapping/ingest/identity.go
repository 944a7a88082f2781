package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

const (
	// roomChannels holds, by patient and vendor, which kinds of channels have
	// delivered: channels as JSON.
	prefixChannels = "ingest/channels/"
	// roomSame holds, for the id of an Observation that is stored under
	// another one, that other id.
	prefixSame = "ingest/same/"
	// roomSource holds, as PATIENT/VENDOR/ID, the sources of a stream and of a
	// Device: hashes, one after another.
	prefixSource = "ingest/source/"
	// roomHeard marks, as TARGET/STREAM, that a Provenance says of a stream
	// or an Observation that another stream confirmed it.
	prefixConfirmed = "ingest/heard/"
)

// channels records which kinds of channels have delivered for a patient.
type channels struct {
	Fine bool `json:"fine,omitempty"`
	// Anonymous: a coarse channel that names no source.
	Unnamed bool `json:"anonymous,omitempty"`
	// Named are the Devices that stand for the sources of a coarse channel.
	Named []string `json:"named,omitempty"`
	// Plain are the Devices that stand for sources of which the channel that
	// knows more knows no more than the name, either.
	NameOnly []string `json:"plain,omitempty"`
	// Streams names the streams of coarse channels.
	Streams []string `json:"streams,omitempty"`
}

func (c *channels) learn(coarse, plain bool, device, stream string) (news bool) {
	if coarse && stream != "" && !slices.Contains(c.Streams, stream) {
		news, c.Streams = true, append(c.Streams, stream)
	}
	switch {
	case !coarse:
		news, c.Fine = !c.Fine, true
		if plain && !slices.Contains(c.NameOnly, device) {
			news, c.NameOnly = true, append(c.NameOnly, device)
		}
	case device == "":
		news, c.Unnamed = news || !c.Unnamed, true
	case !slices.Contains(c.Named, device):
		news, c.Named = true, append(c.Named, device)
	}
	return news
}

func (c *channels) hasCoarse() bool { return c.Unnamed || len(c.Named) > 0 }

// isCoarse reports whether an Observation with that device came through a
// coarse channel.
func (c *channels) isCoarse(device string) bool {
	return device == "" || slices.Contains(c.Named, strings.TrimPrefix(device, "Device/"))
}

// isPlain reports whether an Observation with that device may have come through
// either channel.
func (c *channels) isNameOnly(device string) bool {
	return slices.Contains(c.NameOnly, strings.TrimPrefix(device, "Device/"))
}

// mayKnow reports whether an Observation with that device may have come through
// a channel that knows more.
func (c *channels) mayBeFine(device string) bool { return !c.isCoarse(device) || c.isNameOnly(device) }

// better reports whether the stored version, of a channel that knows more,
// says what body of a coarse channel says.
func (c *channels) confirmed(body, current []byte) bool {
	var a, b measurement
	return json.Unmarshal(body, &a) == nil && json.Unmarshal(current, &b) == nil && c.mayBeFine(b.Device.Reference) &&
		a.equals(&b)
}

// learnChannels notes the kinds of channels of b.
func (d *delivery) learnChannels(ctx context.Context, b *batch, a *commitAttempt) error {
	key := prefixChannels + d.request.Patient + "/" + d.request.Vendor
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return fhir.Wrap("ingest.channels", err)
	}
	if raw != nil {
		if err := json.Unmarshal(raw, &a.channels); err != nil {
			return fhir.Wrap("ingest.channels", err)
		}
	}
	news := false
	learn := func(coarse bool, device, source, stream string) {
		plain := !coarse && source != "" && !d.learned[device+source] &&
			device == d.pipeline.Mapper.SourceDevice(d.request.Vendor, d.request.Patient, source).ID
		news = a.channels.learn(coarse, plain, device, stream) || news
	}
	for _, g := range b.groups {
		learn(g.coarse, g.device.ID, g.source, mapping.StreamID(g.template.Identity))
	}
	for i := range b.obs {
		o := &b.obs[i]
		learn(o.coarse, o.Device.ID, o.source, o.Stream)
	}
	if err := d.learnSources(ctx, b, a); err != nil {
		return err
	}
	if !news {
		return nil
	}
	if raw, err = json.Marshal(&a.channels); err != nil {
		return fhir.Wrap("ingest.channels", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: raw})
	return nil
}

// learnSources notes which sources the streams and Devices of b stand for: a
// coarse channel names the source only.
func (d *delivery) learnSources(ctx context.Context, b *batch, a *commitAttempt) error {
	var err error
	learn := func(coarse bool, id, source string) {
		if err != nil || coarse || id == "" || source == "" || d.learned[id+source] {
			return
		}
		d.learned[id+source] = true
		key, hash := d.sourceKey(id), sourceHash(source)
		var raw []byte
		if raw, err = d.pipeline.Store.Get(ctx, key); err != nil || strings.Contains(string(raw), hash) {
			return
		}
		for i := range a.batch.State {
			if a.batch.State[i].Key == key { // another source of it in this batch
				a.batch.State[i].Value = append(a.batch.State[i].Value, hash...)
				return
			}
		}
		a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: append(bytes.Clone(raw), hash...)})
	}
	for _, g := range b.groups {
		learn(g.coarse, mapping.StreamID(g.template.Identity), g.source)
		learn(g.coarse, g.device.ID, g.source)
	}
	for i := range b.obs {
		o := &b.obs[i]
		learn(o.coarse, o.Stream, o.source)
		learn(o.coarse, o.Device.ID, o.source)
	}
	return fhir.Wrap("ingest.channels", err)
}

func (d *delivery) sourceKey(id string) string {
	return prefixSource + d.request.Patient + "/" + d.request.Vendor + "/" + id
}

// ofSource reports whether what is stored of a metric may be of the source that
// a coarse channel names; one that names none may mean any. A sample that a
// coarse channel brought first is in the stream of that channel still, which
// stands for the source that the channel named, or for any.
func (d *delivery) mayBeFrom(ctx context.Context, s *storedElements, metric, source string, a *commitAttempt) (bool, error) {
	if source == "" {
		return true, nil
	}
	id := s.identifier(mapping.StreamSystem)
	if slices.Contains(a.channels.Streams, id) {
		ids := d.pipeline.Mapper.CoarseStreams(d.request.Vendor, d.request.Patient, metric, source)
		if id != mapping.StreamID(ids[0]) {
			return id == mapping.StreamID(ids[1]), nil
		}
		id = ""
	}
	if id == "" {
		id = strings.TrimPrefix(s.Device.Reference, "Device/")
		if a.channels.isNameOnly(id) { // its name is all there is
			return d.mayStandFor(s.Device.Reference, source), nil
		}
	}
	raw, err := d.pipeline.Store.Get(ctx, d.sourceKey(id))
	return raw == nil || strings.Contains(string(raw), sourceHash(source)), fhir.Wrap("ingest.channels", err)
}

// Presences of samples that the store has under another id, besides those of
// package store.
const (
	duplicate = store.Other + 1 + iota // and knows more of it
	adopted                            // and knows less of it: what is new goes there
	inBatch                            // or rather the batch has it, better
)

// twinsOf finds the samples of g that another channel brought. It marks them in
// found and returns those that complete what is there.
func (d *delivery) findDuplicates(ctx context.Context, b *batch, g *seriesGroup, found []store.Presence,
	a *commitAttempt) ([]observation, error) {
	if !slices.Contains(found, store.Missing) {
		return nil, nil
	}
	switch {
	case g.coarse && a.channels.Fine:
		if err := b.markDuplicates(g, found); err != nil {
			return nil, err
		}
		return nil, d.findInStore(ctx, g, found, a)
	case !g.coarse && a.channels.hasCoarse():
		return d.adoptCoarse(ctx, g, found, a)
	}
	return nil, nil
}

// adopt finds what a coarse channel brought before: its ids are known. It may
// not have told the end of what took time.
func (d *delivery) adoptCoarse(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt) (out []observation, err error) {
	taken := map[string]bool{}
	for _, id := range d.pipeline.Mapper.CoarseStreams(d.request.Vendor, d.request.Patient, g.metric, g.source) {
		if !slices.Contains(a.channels.Streams, mapping.StreamID(id)) {
			continue
		}
		for _, endless := range []bool{false, true} {
			if id == g.template.Identity && !g.template.KeyValue && !endless {
				continue
			}
			more, err := d.adoptFromStream(ctx, g, found, a, id, endless, taken)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
	}
	return out, nil
}

// adoptFrom is adopt for one stream.
func (d *delivery) adoptFromStream(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt, id series.Identity,
	endless bool, taken map[string]bool) (out []observation, err error) {
	t := series.Template{Identity: id}
	var at []int
	var refs []fhir.Ref
	for i, p := range found {
		s := g.columns.At(i)
		if p != store.Missing || endless && s.End == series.NoEnd {
			continue
		}
		if endless {
			s.End = series.NoEnd
		}
		k := t.Key(&s)
		at, refs = append(at, i), append(refs, fhir.Ref{Type: "Observation", ID: k.ID()})
	}
	if len(refs) == 0 {
		return nil, nil
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap("ingest.adopt", err)
	}
	for j, h := range heads {
		if h.Version == 0 || h.Deleted || taken[refs[j].ID] {
			continue
		}
		v, _, err := d.pipeline.Store.Read(ctx, refs[j], 0)
		if err != nil {
			return nil, fhir.Wrap("ingest.adopt", err)
		}
		o := g.document(at[j])
		var mine, there measurement
		if json.Unmarshal(o.JSON, &mine) != nil || json.Unmarshal(v.JSON, &there) != nil ||
			there.Status == statusRetracted {
			continue
		}
		ours := mine.Device.Reference == there.Device.Reference
		restated := ours && !endless && !g.template.KeyValue
		if !restated && (!ours && !a.channels.isCoarse(there.Device.Reference) || !mine.equals(&there)) {
			continue // another measurement, or one that another source completed
		}
		o.JSON = bytes.ReplaceAll(o.JSON, []byte(`"`+o.Stream+`"`), []byte(`"`+mapping.StreamID(id)+`"`))
		o.Stream = mapping.StreamID(id)
		o.rename(refs[j].ID, "", "")
		found[at[j]], taken[refs[j].ID] = adopted, true
		out = append(out, o)
	}
	return out, nil
}

// beside finds the samples of g, of a coarse channel, that another one brought
// in the same batch.
func (b *batch) markDuplicates(g *seriesGroup, found []store.Presence) error {
	for _, f := range b.groups {
		if f.coarse || g.source != "" && f.source != g.source || f.metric != g.metric || f.columns.Len() == 0 {
			continue
		}
		for i, p := range found {
			start := g.columns.Start[i]
			j, _ := slices.BinarySearch(f.columns.Start, start)
			for ; p == store.Missing && j < f.columns.Len() && f.columns.Start[j] == start; j++ {
				var mine, there measurement
				if err := json.Unmarshal(g.document(i).JSON, &mine); err != nil {
					return fhir.Wrap("ingest.beside", err)
				}
				if err := json.Unmarshal(f.document(j).JSON, &there); err != nil {
					return fhir.Wrap("ingest.beside", err)
				}
				if mine.equals(&there) {
					p, found[i] = inBatch, inBatch
				}
			}
		}
	}
	return nil
}

// known finds what a channel that knows more brought before.
func (d *delivery) findInStore(ctx context.Context, g *seriesGroup, found []store.Presence, a *commitAttempt) error {
	starts := map[int64][]int{}
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for i, p := range found {
		if p == store.Missing {
			sec := g.columns.Start[i] / 1e6
			starts[sec] = append(starts[sec], i)
			from, to = min(from, sec), max(to, sec)
		}
	}
	if len(starts) == 0 {
		return nil
	}
	own := mapping.StreamID(g.template.Identity)
	var bad error
	err := d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), g.metric, time.Unix(from, 0).UTC(), time.Unix(to+1, 0).UTC(),
		nil, func(f *store.Found, s *storedElements) bool {
			start, _, ok := s.effective()
			if !ok || s.Status == statusRetracted || !a.channels.mayBeFine(s.Device.Reference) {
				return true
			}
			for _, i := range starts[start.Unix()] {
				if found[i] != store.Missing {
					continue
				}
				var mine, there measurement
				if bad = json.Unmarshal(f.Resource.JSON, &there); bad != nil {
					return false
				}
				o := g.document(i)
				if bad = json.Unmarshal(o.JSON, &mine); bad != nil {
					return false
				}
				if !mine.equals(&there) {
					continue
				}
				if ok, bad = d.mayBeFrom(ctx, s, g.metric, g.source, a); bad != nil || !ok {
					return bad == nil
				}
				found[i] = duplicate
				if bad = d.confirm(ctx, f.Resource.Ref(), s.identifier(mapping.StreamSystem), own, a); bad != nil {
					return false
				}
				break
			}
			return true
		})
	if err == nil {
		err = bad
	}
	return fhir.Wrap("ingest.known", err)
}

// confirm has the Provenance of this commit name what another stream has, once
// for each pair.
func (d *delivery) confirm(ctx context.Context, ref fhir.Ref, stream, own string, a *commitAttempt) error {
	target := stream
	if target == "" {
		target = ref.ID
	}
	key := prefixConfirmed + target + "/" + own
	if slices.ContainsFunc(a.batch.State, func(w store.StateWrite) bool { return w.Key == key }) {
		return nil
	}
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil || raw != nil {
		return fhir.Wrap("ingest.confirm", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: []byte(d.pipeline.Clock().UTC().Format(time.RFC3339))})
	if stream != "" {
		a.addStream(stream)
	} else {
		a.targets = append(a.targets, ref)
	}
	return nil
}

// once gives documents the identity under which the store has them: what
// another channel brought, or the same one under another id of the vendor's.
// once leaves out observations that the store has in more detail.
func (d *delivery) resolveIdentities(ctx context.Context, obs []observation, a *commitAttempt) ([]observation, error) {
	if !a.channels.hasCoarse() {
		return obs, nil
	}
	refs := make([]fhir.Ref, len(obs))
	for i := range obs {
		refs[i] = fhir.Ref{Type: "Observation", ID: obs[i].ID}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap("ingest.once", err)
	}
	out := make([]observation, 0, len(obs))
	at := map[string]int{}
	for _, i := range fineFirst(obs) {
		o := obs[i]
		switch {
		case d.isNight(o.Metric):
		case heads[i].Version == 0:
			if err := d.findIdentity(ctx, &o, out, a); err != nil {
				return nil, err
			}
		case o.coarse && o.vendorID != "":
			if o.joined, err = d.isJoined(ctx, o.ID); err != nil {
				return nil, err
			}
		}
		if j, twice := at[o.ID]; twice {
			a.count(o.Metric, Counts{Dropped: 1})
			if o.confirms(&out[j]) || o.seq < out[j].seq {
				continue
			}
			if o.joined {
				o.addComponents(out[j].JSON)
			}
			out[j] = o
			continue
		}
		at[o.ID] = len(out)
		out = append(out, o)
	}
	slices.SortFunc(out, func(x, y observation) int { return cmp.Compare(x.seq, y.seq) })
	return out, nil
}

// finerFirst are the places of obs, those of coarse channels last: what another
// channel says of their measurements in the same payload is known then.
func fineFirst(obs []observation) []int {
	var finer, coarse []int
	for i := range obs {
		if obs[i].coarse {
			coarse = append(coarse, i)
		} else {
			finer = append(finer, i)
		}
	}
	return append(finer, coarse...)
}

// segmented reports whether a row is made of segments: it has its own rule.
func (d *delivery) isNight(metric string) bool {
	return slices.ContainsFunc(d.pipeline.Mapper.Segments(d.request.Vendor), func(s mapping.Segments) bool { return s.Of == metric })
}

// identify finds the identity of o, which the store does not have under its own.
func (d *delivery) findIdentity(ctx context.Context, o *observation, before []observation, a *commitAttempt) error {
	key := prefixSame + o.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return fhir.Wrap("ingest.once", err)
	}
	if raw != nil {
		id, vendorID, _ := strings.Cut(string(raw), "/")
		o.adoptIdentity(id, vendorID)
		o.joined, err = d.isJoined(ctx, id)
		return err
	}
	var mine measurement
	if err := json.Unmarshal(o.JSON, &mine); err != nil {
		return fhir.Wrap("ingest.once", err)
	}
	from, _, ok := mine.effective()
	if !ok || o.retracted {
		return nil
	}
	source := fhir.Canonical + "/identifier/" + d.request.Vendor + "/source"
	fits := func(there *measurement, coarse bool) bool {
		if !o.coarse && !d.mayStandFor(there.Device.Reference, o.source) {
			return false // of another source
		}
		if o.coarse && coarse { // one channel: only under two ids of the vendor's
			return o.vendorID != "" && there.identifier(source) != "" &&
				there.Device.Reference == mine.Device.Reference && mine.equals(there)
		}
		return o.coarse != coarse && mine.equals(there)
	}
	id, vendorID := "", ""
	for i := range before {
		var there measurement
		if o.coarse && !before[i].coarse && o.source != "" && before[i].source != o.source {
			continue
		}
		if before[i].Metric == o.Metric && json.Unmarshal(before[i].JSON, &there) == nil &&
			fits(&there, before[i].coarse) {
			id, vendorID = before[i].ID, before[i].vendorID
		}
	}
	var bad error
	err = d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), o.Metric, from.UTC(), from.UTC().Add(time.Second), nil,
		func(f *store.Found, s *storedElements) bool {
			var there measurement
			if bad = json.Unmarshal(f.Resource.JSON, &there); bad != nil {
				return false
			}
			coarse := a.channels.isCoarse(s.Device.Reference)
			if o.coarse {
				coarse = !a.channels.mayBeFine(s.Device.Reference)
			}
			if id == "" && s.Status != statusRetracted && fits(&there, coarse) {
				if o.coarse && !coarse {
					if ok, bad = d.mayBeFrom(ctx, s, o.Metric, o.source, a); bad != nil || !ok {
						return bad == nil
					}
				}
				id, vendorID = strings.Clone(f.Resource.ID), strings.Clone(there.identifier(source))
				if o.coarse && !coarse {
					a.targets = append(a.targets, fhir.Ref{Type: "Observation", ID: id})
				}
			}
			return id == ""
		})
	if err == nil {
		err = bad
	}
	if err != nil || id == "" {
		return fhir.Wrap("ingest.once", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: []byte(id + "/" + vendorID)})
	if o.joined = o.coarse && o.vendorID != "" && vendorID != "" && o.vendorID != vendorID; o.joined {
		a.batch.State = append(a.batch.State, store.StateWrite{Key: prefixSame + id, Value: []byte(id + "/" + vendorID)})
	}
	o.adoptIdentity(id, vendorID)
	return nil
}

// confirms reports whether o, of a coarse channel, says what known says, of a
// channel that knows more: the later word is not the better one then.
func (o *observation) confirms(known *observation) bool {
	var mine, there measurement
	return o.coarse && !known.coarse && !o.retracted && !known.retracted &&
		json.Unmarshal(o.JSON, &mine) == nil && json.Unmarshal(known.JSON, &there) == nil && mine.equals(&there)
}

// isJoined reports whether two ids of the vendor's have become the one that is
// stored.
func (d *delivery) isJoined(ctx context.Context, id string) (bool, error) {
	raw, err := d.pipeline.Store.Get(ctx, prefixSame+id)
	return raw != nil, fhir.Wrap("ingest.once", err)
}

// complete gives o the components that known has besides its own, in the order
// of known: of two records of one thing neither takes back what the other
// alone says.
func (o *observation) addComponents(known []byte) {
	const open = `,"component":[`
	list := func(body []byte) (parts []json.RawMessage, codes []string) {
		var x struct {
			Component []json.RawMessage `json:"component"`
		}
		if json.Unmarshal(body, &x) != nil {
			return nil, nil
		}
		for _, p := range x.Component {
			var c struct {
				Code json.RawMessage `json:"code"`
			}
			if json.Unmarshal(p, &c) != nil {
				return nil, nil
			}
			codes = append(codes, string(c.Code))
		}
		return x.Component, codes
	}
	mine, names := list(o.JSON)
	theirs, others := list(known)
	if len(theirs) == 0 {
		return
	}
	var all []json.RawMessage
	for i, p := range theirs {
		if j := slices.Index(names, others[i]); j >= 0 {
			p = mine[j]
		}
		all = append(all, p)
	}
	for j, p := range mine {
		if !slices.Contains(others, names[j]) {
			all = append(all, p)
		}
	}
	head := o.JSON[:len(o.JSON)-1]
	if i := bytes.Index(head, []byte(open)); i >= 0 { // the last member
		head = head[:i]
	}
	out := append(bytes.Clone(head), open...)
	for i, p := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, p...)
	}
	o.JSON = append(out, "]}"...)
	o.Hash = store.ContentHash(o.JSON)
}

// become gives o the identity under which it is stored.
func (o *observation) adoptIdentity(id, vendorID string) {
	if vendorID == "" || o.vendorID == "" {
		vendorID = o.vendorID
	}
	o.rename(id, o.vendorID, vendorID)
	o.vendorID = vendorID
}

// measured holds the elements that identify the measurement of an Observation.
type measurement struct {
	storedElements
	Concept   concept       `json:"valueCodeableConcept"`
	Quantity  *quantity     `json:"valueQuantity"`
	Component []measurement `json:"component"`
	Code      concept       `json:"code"`
}

type concept struct {
	Coding []struct {
		System  string `json:"system"`
		Code    string `json:"code"`
		Display string `json:"display"`
	} `json:"coding"`
}

func (c *concept) label() (name string, displayed bool) {
	if len(c.Coding) == 0 {
		return "", false
	}
	if d := c.Coding[0].Display; d != "" {
		return d, true
	}
	return c.Coding[0].Code, false
}

type quantity struct {
	Value float64 `json:"value"`
	Code  string  `json:"code"`
}

// alike allows for what channels lose on the way: digits after a conversion.
func (q *quantity) near(other *quantity) bool {
	return q.Code == other.Code && math.Abs(q.Value-other.Value) <= 1e-3*max(math.Abs(q.Value), math.Abs(other.Value))
}

// same reports whether both state one measurement: of one type, at the same
// second or over the same time, with the same value. A channel may leave out
// the end and components, and name a code in its own words.
func (m *measurement) equals(other *measurement) bool {
	from, to, ok := m.effective()
	from2, to2, ok2 := other.effective()
	if !ok || !ok2 || from.Unix() != from2.Unix() {
		return false
	}
	if to.Unix() != to2.Unix() && m.EffectivePeriod.Start != "" && other.EffectivePeriod.Start != "" {
		return false
	}
	if m.Quantity != nil || other.Quantity != nil {
		return m.Quantity != nil && other.Quantity != nil && m.Quantity.near(other.Quantity)
	}
	if len(m.Concept.Coding) > 0 || len(other.Concept.Coding) > 0 {
		a, known := m.Concept.label()
		b, known2 := other.Concept.label()
		return a == b || (!known || !known2) && to.After(from)
	}
	shared := 0
	for i := range m.Component {
		for j := range other.Component {
			x, y := &m.Component[i], &other.Component[j]
			a, _ := x.Code.label()
			b, _ := y.Code.label()
			if a != b || x.Quantity == nil || y.Quantity == nil {
				continue
			}
			if !x.Quantity.near(y.Quantity) {
				return false
			}
			shared++
		}
	}
	return shared > 0
}
