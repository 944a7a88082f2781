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

// retractCoarse retracts the duplicates of obs, a restated Observation of a
// channel that is not coarse, that a coarse channel delivered of the same
// source. Duplicates of another source are other measurements.
func (d *delivery) retractCoarse(ctx context.Context, obs *observation, a *commitAttempt) error {
	if obs.coarse || !a.channels.hasCoarse() || d.isNight(obs.Metric) {
		return nil
	}
	var own measurement
	if err := json.Unmarshal(obs.JSON, &own); err != nil {
		return fhir.Wrap("ingest.restatement", err)
	}
	from, _, ok := own.effective()
	if !ok {
		return nil
	}
	return d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), obs.Metric, from.UTC(),
		from.UTC().Add(time.Second), nil,
		func(f *store.Found, s *storedElements) bool {
			var other measurement
			if f.Resource.ID != obs.ID && s.Status != statusRetracted && !a.channels.mayBeFine(s.Device.Reference) &&
				d.mayStandFor(s.Device.Reference, obs.source) &&
				json.Unmarshal(f.Resource.JSON, &other) == nil && own.equals(&other) {
				a.retractions = append(a.retractions,
					retraction{ref: fhir.Ref{Type: "Observation", ID: strings.Clone(f.Resource.ID)}, metric: obs.Metric,
						json: unstamped(&f.Resource)})
			}
			return true
		})
}

// fineStatements finds measurements of channels that are not coarse, for one
// attempt to commit a batch.
type fineStatements struct {
	batch        *batch
	observations []observation
	// bySecond holds the indexes in observations of the documents of fine
	// channels, by the Unix second in which they start. It is built on first use.
	bySecond map[int64][]int
}

// has reports whether a channel that is not coarse states the measurement of
// obs, which a coarse channel restates: in the batch, or in the store under
// another id. Then obs is a duplicate.
func (fine *fineStatements) has(ctx context.Context, d *delivery, obs *observation, a *commitAttempt) (bool, error) {
	var own measurement
	if err := json.Unmarshal(obs.JSON, &own); err != nil {
		return false, fhir.Wrap("ingest.restatement", err)
	}
	from, _, ok := own.effective()
	if !ok {
		return false, nil
	}
	isDuplicate := func(other *observation) bool {
		var theirs measurement
		return other.Metric == obs.Metric && other.ID != obs.ID && !other.retracted &&
			(obs.source == "" || other.source == obs.source) &&
			json.Unmarshal(other.JSON, &theirs) == nil && own.equals(&theirs)
	}
	if fine.bySecond == nil {
		fine.bySecond = map[int64][]int{}
		for i := range fine.observations {
			if other := &fine.observations[i]; !other.coarse {
				fine.bySecond[other.Start.Unix()] = append(fine.bySecond[other.Start.Unix()], i)
			}
		}
	}
	for _, i := range fine.bySecond[from.Unix()] {
		if isDuplicate(&fine.observations[i]) {
			return true, nil
		}
	}
	for _, group := range fine.batch.groups {
		if group.coarse || group.metric != obs.Metric {
			continue
		}
		start := group.columns.Start
		first := sort.Search(len(start), func(i int) bool { return start[i] >= from.Unix()*1e6 })
		for i := first; i < len(start) && start[i] < (from.Unix()+1)*1e6; i++ {
			if other := group.document(i); isDuplicate(&other) {
				return true, nil
			}
		}
	}
	found := false
	var failure error
	err := d.find(ctx, d.pipeline.Mapper.System(d.request.Vendor), obs.Metric, from.UTC(),
		from.UTC().Add(time.Second), nil,
		func(other *store.Found, elements *storedElements) bool {
			if other.Resource.ID == obs.ID || elements.Status == statusRetracted ||
				!a.channels.mayBeFine(elements.Device.Reference) {
				return true
			}
			var theirs measurement
			if failure = json.Unmarshal(other.Resource.JSON, &theirs); failure != nil || !own.equals(&theirs) {
				return failure == nil
			}
			found, failure = d.mayBeFrom(ctx, elements, obs.Metric, obs.source, a)
			return failure == nil && !found
		})
	if err == nil {
		err = failure
	}
	return found, fhir.Wrap("ingest.restatement", err)
}

// retractOwn retracts the stored version of obs if it came from a coarse
// channel.
func (a *commitAttempt) retractOwn(obs *observation, earlier *earlierVersion) {
	var other storedElements
	if earlier.status == statusRetracted || json.Unmarshal(earlier.current, &other) != nil ||
		a.channels.mayBeFine(other.Device.Reference) {
		a.count(obs.Metric, Counts{Unchanged: 1})
		return
	}
	a.retractions = append(a.retractions, retraction{ref: fhir.Ref{Type: "Observation", ID: obs.ID}, metric: obs.Metric,
		json: unstamped(&earlier.version)})
}
