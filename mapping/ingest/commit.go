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
	prefixDevice   = "ingest/device/"
	prefixRevision = "ingest/revision/"
)

// maxTries bounds how often a batch is tried again because others wrote into
// its streams between probe and commit.
const maxTries = 16

// attempt is one try to commit a batch.
type commitAttempt struct {
	batch   store.Batch
	counts  map[string]Counts
	metrics []string // of the Observations that sb.Writes begins with
	samples int      // in sb.Series
	// The Provenance's targets: streams that have new samples, and what is
	// listed one by one.
	streams []string
	targets []fhir.Ref
	// touched are the segments that sb writes, by source.
	segments map[string]*writtenSegments
	// replaced are stored nights that others in sb take the place of.
	retractions []storedNight
	// channels holds the channels by which the vendor has delivered.
	channels channels
}

func newAttempt() *commitAttempt {
	return &commitAttempt{counts: map[string]Counts{}, segments: map[string]*writtenSegments{}}
}

func (a *commitAttempt) count(metric string, c Counts) {
	x := a.counts[metric]
	x.add(c)
	a.counts[metric] = x
}

func (a *commitAttempt) addStream(id string) {
	if !slices.Contains(a.streams, id) {
		a.streams = append(a.streams, id)
	}
}

// commit writes one batch.
func (d *delivery) commit(ctx context.Context, b *batch) error {
	began := d.pipeline.Clock()
	if err := d.checkConsent(ctx); err != nil {
		return err
	}
	b.deduplicate()
	defer d.pipeline.lock(d.request.Patient, d.request.Vendor)()
	for try := 1; ; try++ {
		a := newAttempt()
		err := d.attempt(ctx, b, a)
		if err == nil {
			d.account(ctx, b, a, began)
			d.recycle(b)
			return nil
		}
		if len(a.batch.Series) == 0 || fhir.KindOf(err) != fhir.Conflict || try == maxTries || ctx.Err() != nil {
			return err
		}
		clear(d.devices) // they know what was not written
		clear(d.learned)
	}
}

// try writes b as the store is now.
func (d *delivery) attempt(ctx context.Context, b *batch, a *commitAttempt) error {
	if err := d.learnChannels(ctx, b, a); err != nil {
		return err
	}
	others, err := d.addSeries(ctx, b, a)
	if err != nil {
		return err
	}
	obs, err := d.resolveNights(ctx, b.obs, a)
	if err != nil {
		return err
	}
	if obs, err = d.resolveIdentities(ctx, obs, a); err != nil {
		return err
	}
	if err := d.addObservations(ctx, b, mergeByID(obs, others, a), a); err != nil {
		return err
	}
	d.addRetractions(a)
	if err := d.addDevices(ctx, b, a); err != nil {
		return err
	}
	if err := d.releaseResolved(ctx, b, a); err != nil {
		return err
	}
	if err := d.addItems(ctx, b, &a.batch); err != nil {
		return err
	}
	if err := d.addDueNights(ctx, a); err != nil {
		return err
	}
	return d.write(ctx, a, b.last && !d.wroteResources && !b.truncated)
}

// write commits a with its Provenance and its AuditEvent, which is left also
// when nothing is written and always is set.
func (d *delivery) write(ctx context.Context, a *commitAttempt, always bool) error {
	sb := &a.batch
	resources := len(sb.Writes) + a.samples
	if resources+len(a.streams)+len(a.targets) > 0 {
		d.provenance(a)
	}
	if len(sb.Writes)+a.samples > 0 || len(sb.State) > 0 || always { // items of the quarantine are in the trail, too
		ev := d.auditEvent(audit.Ingest, audit.Success)
		ev.Data = []audit.DataRef{{Ref: d.consentRef}}
		if len(sb.Writes) > 0 {
			ev.Data = append(ev.Data, audit.DataRef{Ref: sb.Writes[len(sb.Writes)-1].Resource.Ref()})
		}
		ev.Extra = [][2]string{{"vendor", d.request.Vendor}, {"format", d.format}, {"written", strconv.Itoa(resources)},
			{"payload-sha256-64k", d.digest}}
		w, leaf, err := d.pipeline.Audit.Prepare(ev)
		if err != nil {
			return fhir.Wrap("ingest.commit", err)
		}
		sb.Writes, sb.Leaves = append(sb.Writes, w), append(sb.Leaves, leaf)
	}
	if len(sb.Writes) == 0 && len(sb.State) == 0 {
		return nil
	}
	res, err := d.pipeline.Store.Commit(ctx, sb)
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
	d.wroteResources = d.wroteResources || resources > 0
	return nil
}

// account adds what b did to the summary and the meters.
func (d *delivery) account(ctx context.Context, b *batch, a *commitAttempt, began time.Time) {
	d.commits++
	var all Counts
	for m, c := range a.counts {
		b.count(m, c)
	}
	for m, c := range b.counts {
		all.add(c)
		d.summary.count(m, c)
	}
	d.summary.Counts.add(all)
	d.meters.count(ctx, d.request.Vendor, all)
	d.meters.countLeftOut(ctx, d.request.Vendor, all.LeftOut)
	vendor := metric.WithAttributes(attribute.String("pulsegate.vendor", d.request.Vendor))
	d.meters.size.Record(ctx, int64(len(a.batch.Writes)+a.samples), vendor)
	d.meters.seconds.Record(ctx, d.pipeline.Clock().Sub(began).Seconds(), vendor)
}

// observations puts the documents that are new or changed into a.
func (d *delivery) addObservations(ctx context.Context, b *batch, obs []observation, a *commitAttempt) error {
	refs := make([]fhir.Ref, len(obs))
	for i := range obs {
		refs[i] = fhir.Ref{Type: "Observation", ID: obs[i].ID}
	}
	heads, err := d.pipeline.Store.Heads(ctx, refs)
	if err != nil {
		return fhir.Wrap("ingest.observations", err)
	}
	better := fineStatements{batch: b, observations: obs}
	for i := range obs {
		o := &obs[i]
		ok, err := d.covered(ctx, o.Categories)
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
		old, err := d.isOlder(ctx, o, a)
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
				b.wantDevice(o.Device)
			}
			continue
		}
		body, kept := o.JSON, false
		if exists {
			was, err := d.readEarlier(ctx, refs[i], o)
			if err != nil {
				return err
			}
			if o.coarse && !o.retracted && was.status != statusRetracted && a.channels.Fine &&
				a.channels.confirmed(o.JSON, was.current) {
				was.unchanged = true // what it leaves out is known better
			}
			body, kept = was.body, was.keptSource
			if !kept {
				b.wantDevice(o.Device)
			}
			if was.unchanged {
				a.count(o.Metric, Counts{Unchanged: 1})
				continue
			}
			if o.coarse && !o.retracted && a.channels.Fine && !d.isNight(o.Metric) {
				twice, err := better.has(ctx, d, o, a)
				if err != nil {
					return err
				}
				if twice {
					a.retractOwn(o, &was)
					continue
				}
			}
			if was.status != statusPreliminary && !o.retracted && !o.preliminary {
				body = withStatus(body, "amended")
			}
			if o.SegmentsOf != "" {
				a.addSegment(o, was.current)
			}
			if err := d.retractCoarse(ctx, o, a); err != nil {
				return err
			}
		} else {
			b.wantDevice(o.Device)
		}
		if o.SegmentsOf != "" {
			a.addSegment(o, o.JSON)
		}
		a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor, Hash: o.Hash, SkipSame: true,
			Resource: fhir.Resource{Type: "Observation", ID: o.ID, JSON: body}})
		a.metrics = append(a.metrics, o.Metric)
		if o.Stream != "" && h.Version == 0 {
			a.addStream(o.Stream)
		} else {
			a.targets = append(a.targets, refs[i])
		}
	}
	return nil
}

// oldNews reports whether the store has a later word of the vendor's on o, by
// the vendor's own order. Otherwise the order of o is remembered.
func (d *delivery) isOlder(ctx context.Context, o *observation, a *commitAttempt) (bool, error) {
	if o.revision == 0 {
		return false, nil
	}
	key := prefixRevision + o.ID
	raw, err := d.pipeline.Store.Get(ctx, key)
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
	a.batch.State = append(a.batch.State, store.StateWrite{Key: key, Value: strconv.AppendInt(nil, o.revision, 10)})
	return false, nil
}

const statusPreliminary = "preliminary"

// past holds the stored version of an observation that is delivered again.
type earlierVersion struct {
	status     string
	current    []byte // the current version
	version    fhir.Resource
	body       []byte // to be written: with the known device where the sample is vague
	keptSource bool   // the known device stands
	unchanged  bool   // nothing to write
}

// earlier compares with the current version.
func (d *delivery) readEarlier(ctx context.Context, ref fhir.Ref, o *observation) (was earlierVersion, err error) {
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return was, fhir.Wrap("ingest.earlier", err)
	}
	if o.joined && !v.Deleted && !o.retracted {
		o.addComponents(v.JSON)
	}
	was.status, was.current, was.version, was.body = statusOf(v.JSON), v.JSON, v, o.JSON
	if o.Vague {
		was.body, was.keptSource = mapping.KeepSource(o.JSON, v.JSON)
	}
	was.unchanged = equalContent(&v, was.body)
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
func (d *delivery) addDevices(ctx context.Context, b *batch, a *commitAttempt) error {
	for _, f := range b.devices {
		if !f.written {
			continue
		}
		known, err := d.loadDevice(ctx, f.key.ID)
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
		a.batch.State = append(a.batch.State, store.StateWrite{Key: prefixDevice + f.key.ID, Value: state})
		ref := fhir.Ref{Type: "Device", ID: f.key.ID}
		body := known.Device(d.request.Vendor, d.request.Patient, f.key)
		same, exists, err := d.compareDevice(ctx, ref, body)
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
			a.batch.Writes = append(a.batch.Writes, store.Write{Op: store.Put, Vendor: d.request.Vendor,
				Resource: fhir.Resource{Type: "Device", ID: f.key.ID, JSON: body}})
			a.targets = append(a.targets, ref)
		}
	}
	return nil
}

func (d *delivery) loadDevice(ctx context.Context, id string) (*mapping.DeviceFacts, error) {
	if known := d.devices[id]; known != nil {
		return known, nil
	}
	raw, err := d.pipeline.Store.Get(ctx, prefixDevice+id)
	if err != nil {
		return nil, fhir.Wrap("ingest.devices", err)
	}
	known := &mapping.DeviceFacts{}
	if raw != nil {
		if err := json.Unmarshal(raw, known); err != nil {
			return nil, fhir.Wrap("ingest.devices", err)
		}
	}
	d.devices[id] = known
	return known, nil
}

func (d *delivery) compareDevice(ctx context.Context, ref fhir.Ref, body []byte) (same, exists bool, err error) {
	heads, err := d.pipeline.Store.Heads(ctx, []fhir.Ref{ref})
	if err != nil {
		return false, false, fhir.Wrap("ingest.devices", err)
	}
	if heads[0].Version == 0 || heads[0].Deleted {
		return false, false, nil
	}
	v, _, err := d.pipeline.Store.Read(ctx, ref, 0)
	if err != nil {
		return false, true, fhir.Wrap("ingest.devices", err)
	}
	return bytes.Equal(fhir.Stamp(body, ref.Type, ref.ID, v.Version, v.LastUpdated), v.JSON), true, nil
}

// count adds what became of the samples that describe the Device: the first
// has the outcome c, the others changed nothing.
func (f *batchDevice) count(a *commitAttempt, c Counts) {
	for _, metric := range f.described {
		a.count(metric, c)
		c = Counts{Unchanged: 1}
	}
}
