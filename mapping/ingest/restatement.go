package ingest

import (
	"context"
	"encoding/json"
	"sort"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// supersede takes back what a coarse channel said before of o, a restated
// Observation of a channel that knows more. What that channel said of another
// source is another measurement.
func (d *delivery) retractCoarse(ctx context.Context, o *observation, a *commitAttempt) error {
	if o.coarse || !a.channels.hasCoarse() || d.isNight(o.Metric) {
		return nil
	}
	var mine measurement
	if err := json.Unmarshal(o.JSON, &mine); err != nil {
		return fhir.Wrap("ingest.supersede", err)
	}
	from, _, ok := mine.effective()
	if !ok {
		return nil
	}
	return d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), o.Metric, from.UTC(), from.UTC().Add(time.Second), nil,
		func(f *store.Found, s *storedElements) bool {
			var there measurement
			if f.Resource.ID != o.ID && s.Status != statusRetracted && !a.channels.mayBeFine(s.Device.Reference) &&
				d.mayStandFor(s.Device.Reference, o.source) &&
				json.Unmarshal(f.Resource.JSON, &there) == nil && mine.equals(&there) {
				a.retractions = append(a.retractions,
					storedNight{ref: fhir.Ref{Type: "Observation", ID: strings.Clone(f.Resource.ID)}, metric: o.Metric,
						json: unstamped(&f.Resource)})
			}
			return true
		})
}

// betterStated finds statements of channels that know more, for those of
// coarse channels in one attempt to commit a batch.
type fineStatements struct {
	batch        *batch
	observations []observation
	// at are the places in obs of documents of channels that know more, by
	// the second in which they start; nil before it is needed.
	bySecond map[int64][]int
}

// has reports whether a channel that knows more states what o, of a coarse
// channel, says now under the id that the store has it under: in the batch, or
// in the store under another id. Then o is no second measurement.
func (s *fineStatements) has(ctx context.Context, r *delivery, o *observation, a *commitAttempt) (bool, error) {
	var mine measurement
	if err := json.Unmarshal(o.JSON, &mine); err != nil {
		return false, fhir.Wrap("ingest.restated", err)
	}
	from, _, ok := mine.effective()
	if !ok {
		return false, nil
	}
	ofBatch := func(f *observation) bool {
		var there measurement
		return f.Metric == o.Metric && f.ID != o.ID && !f.retracted && (o.source == "" || f.source == o.source) &&
			json.Unmarshal(f.JSON, &there) == nil && mine.equals(&there)
	}
	if s.bySecond == nil {
		s.bySecond = map[int64][]int{}
		for i := range s.observations {
			if f := &s.observations[i]; !f.coarse {
				s.bySecond[f.Start.Unix()] = append(s.bySecond[f.Start.Unix()], i)
			}
		}
	}
	for _, i := range s.bySecond[from.Unix()] {
		if ofBatch(&s.observations[i]) {
			return true, nil
		}
	}
	for _, g := range s.batch.groups {
		if g.coarse || g.metric != o.Metric {
			continue
		}
		start := g.columns.Start
		first := sort.Search(len(start), func(i int) bool { return start[i] >= from.Unix()*1e6 })
		for i := first; i < len(start) && start[i] < (from.Unix()+1)*1e6; i++ {
			if f := g.document(i); ofBatch(&f) {
				return true, nil
			}
		}
	}
	found := false
	var bad error
	err := r.find(ctx, r.pipeline.Mapper.System(r.request.Vendor), o.Metric, from.UTC(), from.UTC().Add(time.Second), nil,
		func(f *store.Found, there *storedElements) bool {
			if f.Resource.ID == o.ID || there.Status == statusRetracted || !a.channels.mayBeFine(there.Device.Reference) {
				return true
			}
			var theirs measurement
			if bad = json.Unmarshal(f.Resource.JSON, &theirs); bad != nil || !mine.equals(&theirs) {
				return bad == nil
			}
			found, bad = r.mayBeFrom(ctx, there, o.Metric, o.source, a)
			return bad == nil && !found
		})
	if err == nil {
		err = bad
	}
	return found, fhir.Wrap("ingest.restated", err)
}

// withdraw takes back what a coarse channel said before of o, where that is
// its own word still.
func (a *commitAttempt) retractOwn(o *observation, was *earlierVersion) {
	var there storedElements
	if was.status == statusRetracted || json.Unmarshal(was.current, &there) != nil ||
		a.channels.mayBeFine(there.Device.Reference) {
		a.count(o.Metric, Counts{Unchanged: 1})
		return
	}
	a.retractions = append(a.retractions, storedNight{ref: fhir.Ref{Type: "Observation", ID: o.ID}, metric: o.Metric,
		json: unstamped(&was.version)})
}
