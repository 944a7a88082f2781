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

// resolveIdentities gives documents the ids under which the store has them: as
// a duplicate from another channel, or under another id of the vendor's. It
// leaves out duplicates within the batch.
func (d *delivery) resolveIdentities(ctx context.Context, list []observation, a *commitAttempt) ([]observation, error) {
	if !a.channels.hasCoarse() && !a.channels.Shared {
		return list, nil
	}
	refs := make([]fhir.Ref, len(list))
	for i := range list {
		refs[i] = fhir.Ref{Type: "Observation", ID: list[i].ID}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return nil, fhir.Wrap("ingest.identity", err)
	}
	out := make([]observation, 0, len(list))
	seconds := secondIndex{}
	at := map[string]int{}
	for _, i := range fineFirst(list) {
		obs := list[i]
		switch {
		case d.isNight(obs.Metric):
		case heads[i].Version == 0:
			if err := d.findIdentity(ctx, &obs, out, &seconds, a); err != nil {
				return nil, err
			}
		case obs.coarse && obs.vendorID != "":
			if obs.joined, err = d.isJoined(ctx, obs.ID); err != nil {
				return nil, err
			}
		}
		if j, twice := at[obs.ID]; twice {
			a.count(obs.Metric, Counts{Dropped: 1})
			if obs.confirms(&out[j]) || obs.seq < out[j].seq {
				continue
			}
			if obs.joined && obs.addComponents(out[j].JSON) {
				obs.kept = append(slices.Clone(out[j].kept), obs.kept...)
			}
			out[j] = obs
			seconds.replaced(j)
			continue
		}
		at[obs.ID] = len(out)
		out = append(out, obs)
	}
	slices.SortFunc(out, func(x, y observation) int { return cmp.Compare(x.seq, y.seq) })
	return out, nil
}

// fineFirst returns the indexes of list with those of coarse channels last, so
// that duplicates within a payload find the better document.
func fineFirst(list []observation) []int {
	var fine, coarse []int
	for i := range list {
		if list[i].coarse {
			coarse = append(coarse, i)
		} else {
			fine = append(fine, i)
		}
	}
	return append(fine, coarse...)
}

// findIdentity finds the id under which the store, or a document before it in the batch,
// has obs. The store does not have obs under its own id.
func (d *delivery) findIdentity(ctx context.Context, obs *observation, earlier []observation, seconds *secondIndex,
	a *commitAttempt) error {
	key := prefixSame + obs.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
	if err != nil {
		return fhir.Wrap("ingest.identity", err)
	}
	if raw != nil {
		id, vendorID, _ := strings.Cut(string(raw), "/")
		d.adopt(obs, id, vendorID, a)
		obs.joined, err = d.isJoined(ctx, id)
		return err
	}
	if obs.isDeletion() || !a.channels.hasCoarse() && !a.channels.mixed() {
		return nil
	}
	if deleted, err := d.isDeleted(ctx, obs); err != nil || deleted {
		return err
	}
	var own measurement
	if err := json.Unmarshal(obs.JSON, &own); err != nil {
		return fhir.Wrap("ingest.identity", err)
	}
	from, _, ok := own.effective()
	if !ok || obs.retracted {
		return nil
	}
	source := d.sourceSystem()
	matches := func(other *measurement, coarse, shared bool) bool {
		if obs.shared != shared && sameOrigin(&own, other) {
			return own.equals(other)
		}
		if !obs.coarse && !d.mayStandFor(other.Device.Reference, obs.source) {
			return false
		}
		if obs.coarse && coarse { // of one channel, two ids of the vendor's may mean one thing
			return obs.vendorID != "" && other.identifier(source) != "" &&
				other.Device.Reference == own.Device.Reference && own.equals(other)
		}
		return obs.coarse != coarse && (own.equals(other) || own.isSameNight(other))
	}
	id, vendorID := "", ""
	for _, i := range seconds.at(earlier, from.Unix()) {
		var other measurement
		if obs.coarse && !earlier[i].coarse && obs.source != "" && earlier[i].source != obs.source {
			continue
		}
		if earlier[i].Metric == obs.Metric && json.Unmarshal(earlier[i].JSON, &other) == nil &&
			matches(&other, earlier[i].coarse, earlier[i].shared) {
			id, vendorID = earlier[i].ID, earlier[i].vendorID
		}
	}
	var failure error
	err = d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), obs.Metric, from.UTC(),
		from.UTC().Add(time.Second), nil,
		func(f *store.Found, s *storedElements) bool {
			var other measurement
			if failure = json.Unmarshal(f.Resource.JSON, &other); failure != nil {
				return false
			}
			coarse := a.channels.isCoarse(s.Device.Reference)
			if obs.coarse {
				coarse = !a.channels.mayBeFine(s.Device.Reference)
			}
			shared := a.channels.isShared(s.identifier(source))
			live := s.Status != statusRetracted || shared && !obs.shared // a deletion is final
			if id == "" && live && matches(&other, coarse, shared) {
				if obs.coarse && !coarse {
					if ok, failure = d.mayBeFrom(ctx, s, obs.Metric, obs.source, a); failure != nil || !ok {
						return failure == nil
					}
				}
				id, vendorID = strings.Clone(f.Resource.ID), strings.Clone(other.identifier(source))
				if obs.coarse && !coarse {
					a.targets = append(a.targets, fhir.Ref{Type: "Observation", ID: id})
					a.addRow(obs.Metric)
				}
			}
			return id == ""
		})
	if err == nil {
		err = failure
	}
	if err != nil || id == "" {
		return fhir.Wrap("ingest.identity", err)
	}
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: []byte(id + "/" + vendorID)})
	obs.joined = obs.coarse && obs.vendorID != "" && vendorID != "" && obs.vendorID != vendorID ||
		obs.shared && !a.channels.isShared(vendorID)
	if obs.joined {
		a.batch.State = append(a.batch.State,
			store.StateWrite{Key: prefixSame + id, Value: []byte(id + "/" + vendorID)})
	}
	d.adopt(obs, id, vendorID, a)
	return nil
}

// secondIndex finds documents by the second in which they start, as documents that state
// one measurement do. Without it, each document of a batch would be decoded for each other
// one.
type secondIndex struct {
	byStart map[int64][]int // positions of documents
	indexed int             // the documents before it are in byStart
}

// at returns the positions in list of the documents that may start in a second.
func (x *secondIndex) at(list []observation, second int64) []int {
	if x.byStart == nil {
		x.byStart = map[int64][]int{}
	}
	for ; x.indexed < len(list); x.indexed++ {
		var s storedElements
		if json.Unmarshal(list[x.indexed].JSON, &s) != nil {
			continue
		}
		if from, _, ok := s.effective(); ok {
			x.byStart[from.Unix()] = append(x.byStart[from.Unix()], x.indexed)
		}
	}
	return x.byStart[second]
}

// replaced says that the document at a position is another one now.
func (x *secondIndex) replaced(position int) {
	if position < x.indexed {
		*x = secondIndex{}
	}
}

// isJoined reports whether the Observation with the given id is stored for two
// ids of the vendor's.
func (d *delivery) isJoined(ctx context.Context, id string) (bool, error) {
	raw, err := d.pipeline.Store.Get(ctx, prefixSame+id)
	return raw != nil, fhir.Wrap("ingest.identity", err)
}

// confirms reports whether obs, of a coarse channel, states the measurement of
// fine, of another channel. Then obs does not replace fine, even if it was
// delivered later.
func (obs *observation) confirms(fine *observation) bool {
	var own, other measurement
	return obs.coarse && !fine.coarse && !obs.retracted && !fine.retracted &&
		json.Unmarshal(obs.JSON, &own) == nil && json.Unmarshal(fine.JSON, &other) == nil && own.equals(&other)
}

const componentOpen = `,"component":[`

// componentsOf returns the components of an Observation and their codes.
func componentsOf(body []byte) (list []json.RawMessage, codes []string) {
	var panel struct {
		Component []json.RawMessage `json:"component"`
	}
	if json.Unmarshal(body, &panel) != nil {
		return nil, nil
	}
	for _, p := range panel.Component {
		var c struct {
			Code json.RawMessage `json:"code"`
		}
		if json.Unmarshal(p, &c) != nil {
			return nil, nil
		}
		codes = append(codes, string(c.Code))
	}
	return panel.Component, codes
}

// addComponents adds the components of stored that obs lacks, in the order of
// stored. Of two records of one workout, neither removes components that only
// the other one has. It reports whether stored has components.
func (obs *observation) addComponents(stored []byte) bool {
	own, ownCodes := componentsOf(obs.JSON)
	others, otherCodes := componentsOf(stored)
	if len(others) == 0 {
		return false
	}
	var all []json.RawMessage
	for i, p := range others {
		if j := slices.Index(ownCodes, otherCodes[i]); j >= 0 {
			p = own[j]
		}
		all = append(all, p)
	}
	for j, p := range own {
		if !slices.Contains(otherCodes, ownCodes[j]) {
			all = append(all, p)
		}
	}
	head := obs.JSON[:len(obs.JSON)-1]
	if i := bytes.Index(head, []byte(componentOpen)); i >= 0 { // component is the last member
		head = head[:i]
	}
	out := append(bytes.Clone(head), componentOpen...)
	for i, p := range all {
		if i > 0 {
			out = append(out, ',')
		}
		out = append(out, p...)
	}
	obs.JSON = append(out, "]}"...)
	obs.Hash = store.ContentHash(obs.JSON)
	return true
}

// adoptIdentity gives obs the identity under which it is stored.
func (obs *observation) adoptIdentity(id, vendorID string) {
	if vendorID == "" || obs.vendorID == "" || obs.shared {
		vendorID = obs.vendorID
	}
	obs.rename(id, obs.vendorID, vendorID)
	obs.vendorID = vendorID
}
