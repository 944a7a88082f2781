package ingest

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
)

const (
	roomDevice   = "ingest/device/"
	roomRevision = "ingest/revision/"
)

// maxTries bounds how often a batch is tried again because others wrote into
// its streams between probe and commit.
const maxTries = 16

// attempt is one try to commit a batch.
type attempt struct {
	sb      store.Batch
	counts  map[string]Counts
	metrics []string // of the Observations that sb.Writes begins with
	samples int      // in sb.Series
	// The Provenance's targets: streams that have new samples, and what is
	// listed one by one.
	streams []string
	listed  []fhir.Ref
	// touched are the segments that sb writes, by source.
	touched map[string]*touch
	// replaced are stored nights that others in sb take the place of.
	replaced []known
	// channels holds the channels by which the vendor has delivered.
	channels channels
}

func newAttempt() *attempt {
	return &attempt{counts: map[string]Counts{}, touched: map[string]*touch{}}
}

func (a *attempt) count(metric string, c Counts) {
	x := a.counts[metric]
	x.add(c)
	a.counts[metric] = x
}

func (a *attempt) stream(id string) {
	if !slices.Contains(a.streams, id) {
		a.streams = append(a.streams, id)
	}
}

// commit writes one batch.
func (r *run) commit(ctx context.Context, b *batch) error {
	began := r.p.Clock()
	if err := r.consent(ctx); err != nil {
		return err
	}
	b.settle()
	defer r.p.serialize(r.q.Patient, r.q.Vendor)()
	for try := 1; ; try++ {
		a := newAttempt()
		err := r.try(ctx, b, a)
		if err == nil {
			r.account(ctx, b, a, began)
			r.recycle(b)
			return nil
		}
		if len(a.sb.Series) == 0 || fhir.KindOf(err) != fhir.Conflict || try == maxTries || ctx.Err() != nil {
			return err
		}
		clear(r.devices) // they know what was not written
		clear(r.sourced)
	}
}

// try writes b as the store is now.
func (r *run) try(ctx context.Context, b *batch, a *attempt) error {
	if err := r.learnChannels(ctx, b, a); err != nil {
		return err
	}
	others, err := r.series(ctx, b, a)
	if err != nil {
		return err
	}
	obs, err := r.named(ctx, b.obs, a)
	if err != nil {
		return err
	}
	if obs, err = r.once(ctx, obs, a); err != nil {
		return err
	}
	if err := r.observations(ctx, b, oneEach(obs, others, a), a); err != nil {
		return err
	}
	r.retractions(a)
	if err := r.deviceWrites(ctx, b, a); err != nil {
		return err
	}
	if err := r.settled(ctx, b, a); err != nil {
		return err
	}
	if err := r.itemWrites(ctx, b, &a.sb); err != nil {
		return err
	}
	if err := r.due(ctx, a); err != nil {
		return err
	}
	return r.write(ctx, a, b.last && !r.wrote && !b.failed)
}

// write commits a with its Provenance and its AuditEvent, which is left also
// when nothing is written and always is set.
func (r *run) write(ctx context.Context, a *attempt, always bool) error {
	sb := &a.sb
	resources := len(sb.Writes) + a.samples
	if resources+len(a.streams)+len(a.listed) > 0 {
		r.provenance(a)
	}
	if len(sb.Writes)+a.samples > 0 || len(sb.State) > 0 || always { // items of the quarantine are in the trail, too
		ev := r.event(audit.Ingest, audit.Success)
		ev.Data = []audit.DataRef{{Ref: r.consentRef}}
		if len(sb.Writes) > 0 {
			ev.Data = append(ev.Data, audit.DataRef{Ref: sb.Writes[len(sb.Writes)-1].Resource.Ref()})
		}
		ev.Extra = [][2]string{{"vendor", r.q.Vendor}, {"format", r.format}, {"written", strconv.Itoa(resources)},
			{"payload-sha256-64k", r.digest}}
		if err := audit.Append(r.p.Audit, sb, ev); err != nil {
			return fhir.Wrap("ingest.commit", err)
		}
	}
	if len(sb.Writes) == 0 && len(sb.State) == 0 {
		return nil
	}
	res, err := r.p.Store.Commit(ctx, sb)
	if err != nil {
		return fhir.Wrap("ingest.commit", err)
	}
	for i, metric := range a.metrics {
		switch o := &res.Outcomes[i]; {
		case o.Unchanged:
			a.count(metric, Counts{Unchanged: 1})
		case o.Created:
			a.count(metric, Counts{Created: 1})
		default:
			a.count(metric, Counts{Updated: 1})
		}
	}
	r.wrote = r.wrote || resources > 0
	return nil
}

// account adds what b did to the summary and the meters.
func (r *run) account(ctx context.Context, b *batch, a *attempt, began time.Time) {
	r.batches++
	var all Counts
	for m, c := range a.counts {
		b.count(m, c)
	}
	for m, c := range b.counts {
		all.add(c)
		r.sum.count(m, c)
	}
	r.sum.Counts.add(all)
	r.meters.count(ctx, r.q.Vendor, all)
	r.meters.left(ctx, r.q.Vendor, all.LeftOut)
	vendor := metric.WithAttributes(attribute.String("pulsegate.vendor", r.q.Vendor))
	r.meters.size.Record(ctx, int64(len(a.sb.Writes)+a.samples), vendor)
	r.meters.seconds.Record(ctx, r.p.Clock().Sub(began).Seconds(), vendor)
}

// observations puts the documents that are new or changed into a.
func (r *run) observations(ctx context.Context, b *batch, obs []observation, a *attempt) error {
	refs := make([]fhir.Ref, len(obs))
	for i := range obs {
		refs[i] = fhir.Ref{Type: "Observation", ID: obs[i].ID}
	}
	heads, err := r.p.Store.Heads(ctx, refs)
	if err != nil {
		return fhir.Wrap("ingest.observations", err)
	}
	better := betterStated{b: b, obs: obs}
	for i := range obs {
		o := &obs[i]
		ok, err := r.covered(ctx, o.Categories)
		if err != nil {
			return err
		}
		if !ok {
			a.count(o.Metric, Counts{Dropped: 1})
			continue
		}
		h := heads[i]
		exists := h.Version > 0 && !h.Deleted
		if o.retracted && !exists { // taken back before it was ever here
			a.count(o.Metric, Counts{Dropped: 1})
			continue
		}
		old, err := r.oldNews(ctx, o, a)
		if err != nil {
			return err
		}
		if old {
			a.count(o.Metric, Counts{Unchanged: 1})
			continue
		}
		if exists && h.Hash == o.Hash {
			a.count(o.Metric, Counts{Unchanged: 1})
			if !o.Vague {
				b.want(o.Device)
			}
			continue
		}
		body, kept := o.JSON, false
		if exists {
			was, err := r.earlier(ctx, refs[i], o)
			if err != nil {
				return err
			}
			if o.coarse && !o.retracted && was.status != statusRetracted && a.channels.Fine &&
				a.channels.better(o.JSON, was.current) {
				was.same = true // what it leaves out is known better
			}
			body, kept = was.body, was.kept
			if !kept {
				b.want(o.Device)
			}
			if was.same {
				a.count(o.Metric, Counts{Unchanged: 1})
				continue
			}
			if o.coarse && !o.retracted && a.channels.Fine && !r.segmented(o.Metric) {
				twice, err := better.has(ctx, r, o, a)
				if err != nil {
					return err
				}
				if twice {
					a.withdraw(o, &was)
					continue
				}
			}
			if was.status != statusPreliminary && !o.retracted && !o.preliminary {
				body = withStatus(body, "amended")
			}
			if o.SegmentsOf != "" {
				a.touch(o, was.current)
			}
			if err := r.supersede(ctx, o, a); err != nil {
				return err
			}
		} else {
			b.want(o.Device)
		}
		if o.SegmentsOf != "" {
			a.touch(o, o.JSON)
		}
		a.sb.Writes = append(a.sb.Writes, store.Write{Op: store.Put, Vendor: r.q.Vendor, Hash: o.Hash, SkipSame: true,
			Resource: fhir.Resource{Type: "Observation", ID: o.ID, JSON: body}})
		a.metrics = append(a.metrics, o.Metric)
		if o.Stream != "" && h.Version == 0 {
			a.stream(o.Stream)
		} else {
			a.listed = append(a.listed, refs[i])
		}
	}
	return nil
}

// oldNews reports whether the store has a later word of the vendor's on o, by
// the vendor's own order. Otherwise the order of o is remembered.
func (r *run) oldNews(ctx context.Context, o *observation, a *attempt) (bool, error) {
	if o.revision == 0 {
		return false, nil
	}
	key := roomRevision + o.ID
	raw, err := r.p.Store.Get(ctx, key)
	if err != nil {
		return false, fhir.Wrap("ingest.oldNews", err)
	}
	if raw != nil {
		known, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return false, fhir.Wrap("ingest.oldNews", err)
		}
		if known >= o.revision {
			return known > o.revision, nil
		}
	}
	a.sb.State = append(a.sb.State, store.StateWrite{Key: key, Value: strconv.AppendInt(nil, o.revision, 10)})
	return false, nil
}

const statusPreliminary = "preliminary"

// past holds the stored version of an observation that is delivered again.
type past struct {
	status  string
	current []byte // the current version
	version fhir.Resource
	body    []byte // to be written: with the known device where the sample is vague
	kept    bool   // the known device stands
	same    bool   // nothing to write
}

// earlier compares with the current version.
func (r *run) earlier(ctx context.Context, ref fhir.Ref, o *observation) (was past, err error) {
	v, _, err := r.p.Store.Read(ctx, ref, 0)
	if err != nil {
		return was, fhir.Wrap("ingest.earlier", err)
	}
	if o.joined && !v.Deleted && !o.retracted {
		o.complete(v.JSON)
	}
	was.status, was.current, was.version, was.body = statusOf(v.JSON), v.JSON, v, o.JSON
	if o.Vague {
		was.body, was.kept = mapping.KeepSource(o.JSON, v.JSON)
	}
	was.same = equalContent(&v, was.body)
	return was, nil
}

var statusKey = []byte(`],"status":"`)

func statusOf(body []byte) string {
	_, rest, ok := bytes.Cut(body, statusKey)
	if !ok {
		return ""
	}
	s, _, _ := bytes.Cut(rest, []byte(`"`))
	return string(s)
}

// withStatus returns a copy of our own bytes with another status.
func withStatus(body []byte, status string) []byte {
	at := bytes.Index(body, statusKey)
	if at < 0 {
		return body
	}
	at += len(statusKey)
	end := bytes.IndexByte(body[at:], '"') + at
	out := make([]byte, 0, len(body)+len(status))
	out = append(append(out, body[:at]...), status...)
	return append(out, body[end:]...)
}

// equalContent compares a stored version with mapped bytes, leaving the
// store's stamp and "amended" aside.
func equalContent(v *fhir.Resource, body []byte) bool {
	want := fhir.Stamp(body, v.Type, v.ID, v.Version, v.LastUpdated)
	if bytes.Equal(want, v.JSON) {
		return true
	}
	return statusOf(v.JSON) == "amended" && bytes.Equal(withStatus(want, "amended"), v.JSON)
}

// deviceWrites adds Devices: at first sight, and when more or newer facts are
// known.
func (r *run) deviceWrites(ctx context.Context, b *batch, a *attempt) error {
	for _, f := range b.order {
		if !f.wanted {
			continue
		}
		known, err := r.knownDevice(ctx, f.key.ID)
		if err != nil {
			return err
		}
		if !known.Merge(&f.DeviceFacts) {
			f.count(a, Counts{Unchanged: 1})
			continue
		}
		state, err := json.Marshal(known)
		if err != nil {
			return fhir.Wrap("ingest.devices", err)
		}
		a.sb.State = append(a.sb.State, store.StateWrite{Key: roomDevice + f.key.ID, Value: state})
		ref := fhir.Ref{Type: "Device", ID: f.key.ID}
		body := known.Device(r.q.Vendor, r.q.Patient, f.key)
		same, exists, err := r.sameDevice(ctx, ref, body)
		switch {
		case err != nil:
			return err
		case same:
			f.count(a, Counts{Unchanged: 1})
		case exists:
			f.count(a, Counts{Updated: 1})
		default:
			f.count(a, Counts{Created: 1})
		}
		if !same {
			a.sb.Writes = append(a.sb.Writes, store.Write{Op: store.Put, Vendor: r.q.Vendor,
				Resource: fhir.Resource{Type: "Device", ID: f.key.ID, JSON: body}})
			a.listed = append(a.listed, ref)
		}
	}
	return nil
}

func (r *run) knownDevice(ctx context.Context, id string) (*mapping.DeviceFacts, error) {
	if known := r.devices[id]; known != nil {
		return known, nil
	}
	raw, err := r.p.Store.Get(ctx, roomDevice+id)
	if err != nil {
		return nil, fhir.Wrap("ingest.devices", err)
	}
	known := &mapping.DeviceFacts{}
	if raw != nil {
		if err := json.Unmarshal(raw, known); err != nil {
			return nil, fhir.Wrap("ingest.devices", err)
		}
	}
	r.devices[id] = known
	return known, nil
}

func (r *run) sameDevice(ctx context.Context, ref fhir.Ref, body []byte) (same, exists bool, err error) {
	heads, err := r.p.Store.Heads(ctx, []fhir.Ref{ref})
	if err != nil {
		return false, false, fhir.Wrap("ingest.devices", err)
	}
	if heads[0].Version == 0 || heads[0].Deleted {
		return false, false, nil
	}
	v, _, err := r.p.Store.Read(ctx, ref, 0)
	if err != nil {
		return false, true, fhir.Wrap("ingest.devices", err)
	}
	return bytes.Equal(fhir.Stamp(body, ref.Type, ref.ID, v.Version, v.LastUpdated), v.JSON), true, nil
}

// count adds what became of the samples that describe the Device: the first
// has the outcome c, the others changed nothing.
func (f *deviceFacts) count(a *attempt, c Counts) {
	for _, metric := range f.described {
		a.count(metric, c)
		c = Counts{Unchanged: 1}
	}
}
