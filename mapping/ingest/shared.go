package ingest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

// mixed reports whether some channels have SharedIDs and others do not.
func (c *channels) mixed() bool { return c.Shared && (c.Unshared || c.hasCoarse()) }

// isShared reports whether an id of the vendor's is a SharedID, which is a UUID.
func (c *channels) isShared(vendorID string) bool {
	return c.Shared && len(vendorID) == 36 && strings.Count(vendorID, "-") == 4 && !strings.Contains(vendorID, "/")
}

// sameOrigin reports whether two measurements may come from one device. A
// measurement without a device may come from any.
func sameOrigin(x, y *measurement) bool {
	return x.Device.Reference == y.Device.Reference || x.Device.Reference == "" || y.Device.Reference == ""
}

// knowsMore reports whether m states the device and other, of a coarse channel, does
// not.
func (c *channels) knowsMore(m, other *measurement) bool {
	return !c.isCoarse(m.Device.Reference) && c.isCoarse(other.Device.Reference)
}

// findShared finds the samples of group that a channel with SharedIDs delivered
// before, or deleted. It returns those that complete a stored Observation without a
// device.
func (d *delivery) findShared(ctx context.Context, group *seriesGroup, found []store.Presence,
	a *commitAttempt) (out []observation, err error) {
	starts := map[int64][]int{}
	from, to := int64(math.MaxInt64), int64(math.MinInt64)
	for i, presence := range found {
		if presence == store.Missing {
			sec := group.columns.Start[i] / 1e6
			starts[sec] = append(starts[sec], i)
			from, to = min(from, sec), max(to, sec)
		}
	}
	if len(starts) == 0 {
		return nil, nil
	}
	var failure error
	err = d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), group.metric, time.Unix(from, 0).UTC(),
		time.Unix(to+1, 0).UTC(), []byte(d.sourceSystem()), func(f *store.Found, s *storedElements) bool {
			start, _, ok := s.effective()
			if !ok || !a.channels.isShared(s.identifier(d.sourceSystem())) {
				return true
			}
			for _, i := range starts[start.Unix()] {
				if found[i] != store.Missing {
					continue
				}
				obs := group.document(i)
				var own, other measurement
				if failure = cmp.Or(json.Unmarshal(obs.JSON, &own),
					json.Unmarshal(f.Resource.JSON, &other)); failure != nil {
					return false
				}
				device := other.Device.Reference
				isFrom := sameOrigin(&own, &other) || a.channels.isCoarse(device) && d.mayStandFor(device, group.source)
				if !isFrom || !own.equals(&other) {
					continue
				}
				if a.channels.knowsMore(&own, &other) && other.Status != statusRetracted {
					found[i] = adopted
					d.adopt(&obs, strings.Clone(f.Resource.ID), other.identifier(d.sourceSystem()), a)
					out = append(out, obs)
					break
				}
				found[i] = duplicate
				failure = d.confirm(ctx, fhir.Ref{Type: "Observation", ID: strings.Clone(f.Resource.ID)}, "",
					mapping.StreamID(group.template.Identity), group.metric, a)
				break
			}
			return failure == nil
		})
	return out, fhir.Wrap("ingest.shared", cmp.Or(err, failure))
}

// adopt gives obs the identity under which it is stored. A SharedID stays one of its
// identifiers, so that a deletion finds it.
func (d *delivery) adopt(obs *observation, id, vendorID string, a *commitAttempt) {
	if at := bytes.Index(obs.JSON, statusKey); obs.vendorID == "" && at >= 0 && a.channels.isShared(vendorID) {
		head := append(bytes.Clone(obs.JSON[:at]), `,{"system":"`+d.sourceSystem()+`","value":"`+vendorID+`"}`...)
		obs.JSON = append(head, obs.JSON[at:]...)
		obs.Hash = store.ContentHash(obs.JSON)
	}
	obs.adoptIdentity(id, vendorID)
}

// keepsShared reports whether the stored version of obs is kept because obs, from
// another channel, states the same measurement without adding to it. It decides
// only if one of the two has a SharedID, because such samples are immutable.
func (d *delivery) keepsShared(obs *observation, earlier *earlierVersion, a *commitAttempt) bool {
	var own, stored measurement
	if obs.retracted || json.Unmarshal(earlier.body, &own) != nil || json.Unmarshal(earlier.current, &stored) != nil {
		return false
	}
	id := stored.identifier(d.sourceSystem())
	switch {
	case !a.channels.isShared(id) || !own.equals(&stored):
		return false
	case stored.Status == statusRetracted:
		return !obs.shared || obs.revision == 0 // the deletion is final
	case obs.coarse && !obs.shared && obs.vendorID == id, a.channels.knowsMore(&own, &stored):
		return false
	}
	return !obs.shared || len(own.Component) <= len(stored.Component) && reflect.DeepEqual(own.Code, stored.Code)
}

// isDeleted reports whether the vendor deleted obs before it was delivered.
func (d *delivery) isDeleted(ctx context.Context, obs *observation) (bool, error) {
	if !obs.shared || obs.revision == 0 {
		return false, nil
	}
	raw, err := d.pipeline.Store.Get(ctx, prefixRevision+obs.ID)
	if err != nil || raw == nil {
		return false, fhir.Wrap("ingest.shared", err)
	}
	latest, err := strconv.ParseInt(string(raw), 10, 64)
	return latest > obs.revision, fhir.Wrap("ingest.shared", err)
}

// delete retracts the stored Observation that obs deletes. The revision of a
// deletion is stored even if there is no Observation, so that a batch that was
// delayed cannot bring it back.
func (d *delivery) delete(ctx context.Context, ref fhir.Ref, obs *observation, exists bool, a *commitAttempt) error {
	older, err := d.isOlder(ctx, obs, a)
	if err != nil {
		return err
	}
	if !exists || older {
		a.count(obs.Metric, Counts{Dropped: 1})
		return nil
	}
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return fhir.Wrap("ingest.shared", err)
	}
	if statusOf(v.JSON) == statusRetracted {
		a.count(obs.Metric, Counts{Unchanged: 1})
		return nil
	}
	a.retractions = append(a.retractions, retraction{ref: ref, metric: obs.Metric, json: unstamped(&v)})
	if obs.SegmentsOf == "" {
		return nil
	}
	stored, err := d.statement(v.JSON)
	if err != nil {
		return err
	}
	return d.addRetractedSegment(ctx, &stored, a)
}
