package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// Item is one thing that could not become a resource.
type Item struct {
	ID      string `json:"id"`
	Patient string `json:"patient"`
	Vendor  string `json:"vendor"`
	Format  string `json:"format"`
	Metric  string `json:"metric,omitempty"`
	// Component names the one part that was left out; the rest of the sample
	// became Observation, whose content is identified by Content.
	Component   string `json:"component,omitempty"`
	Observation string `json:"observation,omitempty"`
	Content     string `json:"content,omitempty"`
	// VendorID is the vendor's id of the thing, if it could be read: the item
	// goes when a later payload makes an Observation of it.
	VendorID  string    `json:"vendorId,omitempty"`
	Reason    string    `json:"reason"`
	Where     string    `json:"where,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	Count     int       `json:"count"`
	FirstSeen time.Time `json:"firstSeen"`
	// Raw is the vendor's bytes; Sample what the adapter had read already.
	// One of them, unless there are too many of the kind.
	Raw    []byte          `json:"raw,omitempty"`
	Sample json.RawMessage `json:"sample,omitempty"`
}

const room = "quarantine/"

func (it *Item) key() string { return room + it.Patient + "/" + it.ID }

// itemID is derived from content.
func itemID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte{byte(len(p) >> 24), byte(len(p) >> 16), byte(len(p) >> 8), byte(len(p))})
		h.Write([]byte(p))
	}
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}

func (r *run) item(reason, metric, where, detail string) Item {
	return Item{Patient: r.q.Patient, Vendor: r.q.Vendor, Format: r.format, Reason: reason, Metric: metric,
		Where: where, Detail: detail, Count: 1, FirstSeen: r.p.Clock().UTC().Truncate(time.Second)}
}

func itemOfSample(r *run, s *sample.Sample, re *mapping.RejectError) Item {
	it := r.item(re.Reason, s.Metric, "", re.Rule)
	it.VendorID = s.VendorID
	raw, err := json.Marshal(s)
	if err != nil || len(raw) > r.limits.KeepRaw {
		it.Detail += "; too large to keep"
		raw = nil
	}
	it.Sample = raw
	it.ID = itemID(it.Vendor, it.Format, it.Metric, it.Reason, string(raw))
	return it
}

func itemOfReject(r *run, x *sample.Reject) Item {
	it := r.item(x.Reason, x.Metric, x.Where, componentDetail(x.Component, x.Detail))
	it.Component, it.VendorID = strings.Clone(x.Component), x.VendorID
	it.Raw = bytes.Clone(x.Raw[:min(len(x.Raw), r.limits.KeepRaw)])
	it.ID = itemID(it.Vendor, it.Format, it.Metric, it.Reason, string(it.Raw))
	if len(it.Raw) == 0 {
		it.ID = itemID(it.Vendor, it.Format, it.Metric, it.Reason, it.Component, it.Where, r.digest)
	}
	return it
}

// itemWrites adds the batch's quarantine; what is there already stays as it
// was first seen.
func (r *run) itemWrites(ctx context.Context, b *batch, sb *store.Batch) error {
	byKey := map[string]*Item{}
	var order []*Item
	for _, x := range b.items {
		it := &x
		if err := r.strip(ctx, it); err != nil {
			return err
		}
		if twin := byKey[it.key()]; twin != nil {
			twin.Count++
			continue
		}
		byKey[it.key()] = it
		order = append(order, it)
	}
	for _, it := range b.overrun {
		order = append(order, &it)
	}
	for _, it := range order {
		old, err := r.p.Store.Get(ctx, it.key())
		if err != nil {
			return fhir.Wrap("ingest.quarantine", err)
		}
		if old != nil {
			var was Item
			if err := json.Unmarshal(old, &was); err != nil {
				return fhir.Wrap("ingest.quarantine", err)
			}
			if was.Count >= it.Count {
				continue
			}
			it.FirstSeen = was.FirstSeen
		}
		v, err := json.Marshal(it)
		if err != nil {
			return fhir.Wrap("ingest.quarantine", err)
		}
		sb.State = append(sb.State, store.StateWrite{Key: it.key(), Value: v})
		if it.VendorID != "" {
			s := subject(it.Vendor, it.Metric, it.VendorID)
			sb.State = append(sb.State, store.StateWrite{Key: roomOpen + it.Patient + "/" + s + "/" + it.ID,
				Value: []byte("1")})
			if r.open != nil && !slices.Contains(r.open[s], it.ID) {
				r.open[s] = append(r.open[s], it.ID)
			}
		}
	}
	return nil
}

// strip takes the vendor's bytes from an item that the consent's categories do
// not cover; of a metric without a row nobody knows the category, so only a
// consent to all of them covers it. What is left is a count.
func (r *run) strip(ctx context.Context, it *Item) error {
	ok, err := r.covered(ctx, r.p.Mapper.Categories(it.Vendor, it.Metric))
	if err != nil || ok {
		return err
	}
	it.Raw, it.Sample, it.Where, it.VendorID = nil, nil, "", ""
	it.Detail = "counted without raw bytes: the consent does not cover it"
	it.ID = itemID(it.Vendor, it.Format, it.Metric, it.Reason, "uncovered", r.digest)
	return nil
}

// List calls fn for the items of a patient ("" all) until it returns false.
func (p *Pipeline) List(ctx context.Context, patient string, fn func(*Item) bool) error {
	prefix := room
	if patient != "" {
		prefix += patient + "/"
	}
	var bad error
	err := p.Store.List(ctx, prefix, func(_ string, v []byte) bool {
		var it Item
		if bad = json.Unmarshal(v, &it); bad != nil {
			return false
		}
		return fn(&it)
	})
	if err == nil {
		err = bad
	}
	return fhir.Wrap("ingest.List", err)
}

// Get returns one item by its id.
func (p *Pipeline) Get(ctx context.Context, id string) (Item, error) {
	var out Item
	err := p.List(ctx, "", func(it *Item) bool {
		if it.ID == id {
			out = *it
			return false
		}
		return true
	})
	if err == nil && out.ID == "" {
		err = fhir.Errorf(fhir.NotFound, "ingest.Get", "no such quarantine item")
	}
	return out, err
}

// Retry maps everything in quarantine again with the current table. What
// works leaves quarantine, in a commit of its own after the resources: after a
// crash in between the item is tried again and changes nothing.
func (p *Pipeline) Retry(ctx context.Context, by audit.Caller) (Summary, error) {
	var total Summary
	var items []Item
	err := p.List(ctx, "", func(it *Item) bool {
		if it.Sample != nil || it.Raw != nil {
			items = append(items, *it)
		}
		return true
	})
	if err != nil {
		return total, err
	}
	for from := 0; from < len(items); {
		to := from
		for to < len(items) && to-from < 1000 && items[to].Patient == items[from].Patient &&
			items[to].Vendor == items[from].Vendor && items[to].Format == items[from].Format {
			to++
		}
		sum, err := p.retry(ctx, items[from:to], by)
		total.Add(sum)
		if err != nil && fhir.KindOf(err) != fhir.Forbidden && fhir.KindOf(err) != fhir.NotFound {
			return total, err
		}
		from = to
	}
	return total, nil
}

// retry takes items of one patient, vendor and format.
func (p *Pipeline) retry(ctx context.Context, items []Item, by audit.Caller) (Summary, error) {
	began := p.Clock()
	var r *run
	var err error
	ctx, span := startSpan(ctx)
	defer func() { endSpan(span, r, err) }()
	if r, err = p.begin(ctx, Request{Patient: items[0].Patient, Vendor: items[0].Vendor, Caller: by}); err != nil {
		return Summary{}, err
	}
	r.format = items[0].Format
	var ids []byte
	for i := range items {
		ids = append(ids, items[i].ID...)
	}
	digest := sha256.Sum256(ids)
	r.digest = hex.EncodeToString(digest[:])
	var done []store.StateWrite
	err = r.execute(ctx, func(ctx context.Context) error {
		for i := range items {
			ok, err := r.again(ctx, &items[i])
			if err != nil {
				return err
			}
			if ok {
				it := &items[i]
				done = append(done, store.StateWrite{Key: it.key()})
				if it.VendorID != "" {
					done = append(done, store.StateWrite{Key: roomOpen + it.Patient + "/" +
						subject(it.Vendor, it.Metric, it.VendorID) + "/" + it.ID})
				}
			}
		}
		return nil
	})
	r.sum.Seconds = p.Clock().Sub(began).Seconds()
	if err != nil {
		err = r.failed(ctx, err, "")
	}
	if err != nil || len(done) == 0 {
		return r.sum, err
	}
	ev := r.event(audit.Operator, audit.Success)
	ev.Interaction, ev.Extra = "quarantine-release", [][2]string{{"items", strconv.Itoa(len(done))}}
	_, err = audit.Commit(ctx, p.Store, p.Audit, &store.Batch{State: done}, ev)
	return r.sum, fhir.Wrap("ingest.Retry", err)
}

// again tries one item; ok means that all of it became resources. Rejects are
// not put into quarantine again, they are there.
func (r *run) again(ctx context.Context, it *Item) (ok bool, err error) {
	t := &trial{}
	if it.Sample != nil {
		var s sample.Sample
		if json.Unmarshal(it.Sample, &s) != nil {
			return false, nil
		}
		t.samples = append(t.samples, s)
	} else {
		in := adapters.Input{Format: it.Format, Hint: strings.Split(it.Metric, ".")[0],
			Body: bytes.NewReader(it.Raw), Zone: r.zone, Received: it.FirstSeen}
		if r.adapter.Decode(ctx, in, t) != nil || t.rejected {
			return false, ctx.Err()
		}
	}
	if it.Component != "" && len(t.samples) == 1 {
		return r.complete(ctx, it, &t.samples[0])
	}
	for i := range t.samples {
		if _, err := r.p.Mapper.Map(nil, r.q.Vendor, &t.samples[i], r.q.Patient, r.zone); err != nil {
			return false, nil
		}
	}
	for i := range t.samples {
		if err := r.Sample(&t.samples[i]); err != nil {
			return false, err
		}
	}
	return len(t.samples) > 0, nil
}

// trial is a sink that keeps the samples of one small item.
type trial struct {
	samples  []sample.Sample
	rejected bool
}

func (t *trial) Sample(s *sample.Sample) error {
	c := *s
	c.Components = append([]sample.Component(nil), s.Components...)
	c.Device.Facts = append([]sample.Fact(nil), s.Device.Facts...)
	c.Value.Series = cloneSeries(s.Value.Series)
	for i := range c.Components {
		c.Components[i].Value.Series = cloneSeries(c.Components[i].Value.Series)
	}
	t.samples = append(t.samples, c)
	return nil
}

func cloneSeries(s *sample.SeriesData) *sample.SeriesData {
	if s == nil {
		return nil
	}
	c := *s
	return &c
}

func (t *trial) Reject(*sample.Reject) error { t.rejected = true; return nil }
func (t *trial) Drop(string, string, int)    {}
func (t *trial) Progress(int64)              {}
