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

// standsFor reports whether a Device of a coarse channel may stand for source: it
// is made of the name of the source, or there is none and any may be meant.
func (r *run) standsFor(device, source string) bool {
	return device == "" || device == "Device/"+r.p.Mapper.SourceDevice(r.q.Vendor, r.q.Patient, source).ID
}

// supersede takes back what a coarse channel said before of o, a restated
// Observation of a channel that knows more. What that channel said of another
// source is another measurement.
func (r *run) supersede(ctx context.Context, o *observation, a *attempt) error {
	if o.coarse || !a.channels.coarse() || r.segmented(o.Metric) {
		return nil
	}
	var mine measured
	if err := json.Unmarshal(o.JSON, &mine); err != nil {
		return fhir.Wrap("ingest.supersede", err)
	}
	from, _, ok := mine.when()
	if !ok {
		return nil
	}
	return r.find(ctx, r.p.Mapper.System(r.q.Vendor), o.Metric, from.UTC(), from.UTC().Add(time.Second), nil,
		func(f *store.Found, s *stored) bool {
			var there measured
			if f.Resource.ID != o.ID && s.Status != statusRetracted && !a.channels.mayKnow(s.Device.Reference) &&
				r.standsFor(s.Device.Reference, o.source) &&
				json.Unmarshal(f.Resource.JSON, &there) == nil && mine.same(&there) {
				a.replaced = append(a.replaced,
					known{ref: fhir.Ref{Type: "Observation", ID: strings.Clone(f.Resource.ID)}, metric: o.Metric,
						json: unstamped(&f.Resource)})
			}
			return true
		})
}

// betterStated finds statements of channels that know more, for those of
// coarse channels in one attempt to commit a batch.
type betterStated struct {
	b   *batch
	obs []observation
	// at are the places in obs of documents of channels that know more, by
	// the second in which they start; nil before it is needed.
	at map[int64][]int
}

// has reports whether a channel that knows more states what o, of a coarse
// channel, says now under the id that the store has it under: in the batch, or
// in the store under another id. Then o is no second measurement.
func (s *betterStated) has(ctx context.Context, r *run, o *observation, a *attempt) (bool, error) {
	var mine measured
	if err := json.Unmarshal(o.JSON, &mine); err != nil {
		return false, fhir.Wrap("ingest.restated", err)
	}
	from, _, ok := mine.when()
	if !ok {
		return false, nil
	}
	ofBatch := func(f *observation) bool {
		var there measured
		return f.Metric == o.Metric && f.ID != o.ID && !f.retracted && (o.source == "" || f.source == o.source) &&
			json.Unmarshal(f.JSON, &there) == nil && mine.same(&there)
	}
	if s.at == nil {
		s.at = map[int64][]int{}
		for i := range s.obs {
			if f := &s.obs[i]; !f.coarse {
				s.at[f.Start.Unix()] = append(s.at[f.Start.Unix()], i)
			}
		}
	}
	for _, i := range s.at[from.Unix()] {
		if ofBatch(&s.obs[i]) {
			return true, nil
		}
	}
	for _, g := range s.b.groups {
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
	err := r.find(ctx, r.p.Mapper.System(r.q.Vendor), o.Metric, from.UTC(), from.UTC().Add(time.Second), nil,
		func(f *store.Found, there *stored) bool {
			if f.Resource.ID == o.ID || there.Status == statusRetracted || !a.channels.mayKnow(there.Device.Reference) {
				return true
			}
			var theirs measured
			if bad = json.Unmarshal(f.Resource.JSON, &theirs); bad != nil || !mine.same(&theirs) {
				return bad == nil
			}
			found, bad = r.ofSource(ctx, there, o.Metric, o.source, a)
			return bad == nil && !found
		})
	if err == nil {
		err = bad
	}
	return found, fhir.Wrap("ingest.restated", err)
}

// withdraw takes back what a coarse channel said before of o, where that is
// its own word still.
func (a *attempt) withdraw(o *observation, was *past) {
	var there stored
	if was.status == statusRetracted || json.Unmarshal(was.current, &there) != nil ||
		a.channels.mayKnow(there.Device.Reference) {
		a.count(o.Metric, Counts{Unchanged: 1})
		return
	}
	a.replaced = append(a.replaced, known{ref: fhir.Ref{Type: "Observation", ID: o.ID}, metric: o.Metric,
		json: unstamped(&was.version)})
}

// retractions takes back what others in the batch take the place of, each once;
// what the batch says anew has been replaced already.
func (r *run) retractions(a *attempt) {
	if len(a.replaced) == 0 {
		return
	}
	written := map[fhir.Ref]bool{}
	for i := range a.sb.Writes {
		written[a.sb.Writes[i].Resource.Ref()] = true
	}
	for i := range a.replaced {
		if ref := a.replaced[i].ref; !written[ref] {
			written[ref] = true
			r.retract(a, &a.replaced[i])
		}
	}
}

// oneEach leaves of the documents that the samples of a batch have become, with
// obs before them, one for each id: of the word of a coarse channel and that of
// one that completes the same Observation the latter.
func oneEach(obs, others []observation, a *attempt) []observation {
	if len(others) == 0 {
		return obs
	}
	out := append(make([]observation, 0, len(obs)+len(others)), obs...)
	at := make(map[string]int, len(obs)+len(others))
	for i := range obs {
		at[obs[i].ID] = i
	}
	for _, o := range others {
		j, twice := at[o.ID]
		switch {
		case !twice:
			at[o.ID], out = len(out), append(out, o)
			continue
		case out[j].coarse || !o.coarse:
			out[j] = o
		}
		a.count(o.Metric, Counts{Dropped: 1})
	}
	return out
}
