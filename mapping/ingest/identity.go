package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

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

// isJoined reports whether two ids of the vendor's have become the one that is
// stored.
func (d *delivery) isJoined(ctx context.Context, id string) (bool, error) {
	raw, err := d.pipeline.Store.Get(ctx, prefixSame+id)
	return raw != nil, fhir.Wrap("ingest.once", err)
}

// confirms reports whether o, of a coarse channel, says what known says, of a
// channel that knows more: the later word is not the better one then.
func (o *observation) confirms(known *observation) bool {
	var mine, there measurement
	return o.coarse && !known.coarse && !o.retracted && !known.retracted &&
		json.Unmarshal(o.JSON, &mine) == nil && json.Unmarshal(known.JSON, &there) == nil && mine.equals(&there)
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
