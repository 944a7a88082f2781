package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// Item is a sample, or a part of a payload, that could not become a resource.
type Item struct {
	ID      string `json:"id"`
	Patient string `json:"patient"`
	Vendor  string `json:"vendor"`
	Format  string `json:"format"`
	Metric  string `json:"metric,omitempty"`
	// Component names the component that was left out. The rest of the sample
	// became the Observation with that id, whose content hash is Content.
	Component   string `json:"component,omitempty"`
	Observation string `json:"observation,omitempty"`
	Content     string `json:"content,omitempty"`
	// VendorID is the vendor's id, if it could be read. The item leaves quarantine
	// when a later payload has an Observation with that id.
	VendorID  string    `json:"vendorId,omitempty"`
	Reason    string    `json:"reason"`
	Where     string    `json:"where,omitempty"`
	Detail    string    `json:"detail,omitempty"`
	Count     int       `json:"count"`
	FirstSeen time.Time `json:"firstSeen"`
	// Raw holds the vendor's bytes, and Sample the sample if the adapter could
	// read it. An item has one of them, or none if it is only counted.
	Raw    []byte          `json:"raw,omitempty"`
	Sample json.RawMessage `json:"sample,omitempty"`
}

func (item *Item) key() string { return prefixQuarantine + item.Patient + "/" + item.ID }

// List calls fn for the items of a patient, or of all patients if patient is
// "", until fn returns false.
func (p *Pipeline) List(ctx context.Context, patient string, fn func(*Item) bool) error {
	prefix := prefixQuarantine
	if patient != "" {
		prefix += patient + "/"
	}
	var failure error
	err := p.Store.List(ctx, prefix, func(_ string, v []byte) bool {
		var item Item
		if failure = json.Unmarshal(v, &item); failure != nil {
			return false
		}
		return fn(&item)
	})
	if err == nil {
		err = failure
	}
	return fhir.Wrap("ingest.List", err)
}

// Get returns the item with the given id.
func (p *Pipeline) Get(ctx context.Context, id string) (Item, error) {
	var out Item
	err := p.List(ctx, "", func(item *Item) bool {
		if item.ID == id {
			out = *item
			return false
		}
		return true
	})
	if err == nil && out.ID == "" {
		err = fhir.Errorf(fhir.NotFound, "ingest.Get", "no such quarantine item")
	}
	return out, err
}

// item returns an Item of this delivery.
func (d *delivery) item(reason, metric, where, detail string) Item {
	return Item{Patient: d.request.Patient, Vendor: d.request.Vendor, Format: d.format, Reason: reason, Metric: metric,
		Where: where, Detail: detail, Count: 1, FirstSeen: d.pipeline.Clock().UTC().Truncate(time.Second)}
}

// itemOfSample returns the Item of a sample that mapping rejected.
func itemOfSample(d *delivery, s *sample.Sample, re *mapping.RejectError) Item {
	item := d.item(re.Reason, s.Metric, "", re.Rule)
	item.VendorID = s.VendorID
	raw, err := json.Marshal(s)
	if err != nil || len(raw) > d.limits.KeepRaw {
		item.Detail += "; too large to keep"
		raw = nil
	}
	item.Sample = raw
	item.ID = itemID(item.Vendor, item.Format, item.Metric, item.Reason, string(raw))
	return item
}

// itemOfReject returns the Item of a part of the payload that the adapter
// rejected.
func itemOfReject(d *delivery, reject *sample.Reject) Item {
	item := d.item(reject.Reason, reject.Metric, reject.Where, componentDetail(reject.Component, reject.Detail))
	item.Component, item.VendorID = strings.Clone(reject.Component), reject.VendorID
	item.Raw = bytes.Clone(reject.Raw[:min(len(reject.Raw), d.limits.KeepRaw)])
	item.ID = itemID(item.Vendor, item.Format, item.Metric, item.Reason, string(item.Raw))
	if len(item.Raw) == 0 {
		item.ID = itemID(item.Vendor, item.Format, item.Metric, item.Reason, item.Component, item.Where, d.digest)
	}
	return item
}

func componentDetail(component, rule string) string {
	if component == "" {
		return rule
	}
	return "component " + component + ": " + rule
}

// itemID derives an id from the parts of an item's content.
func itemID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte{byte(len(p) >> 24), byte(len(p) >> 16), byte(len(p) >> 8), byte(len(p))})
		h.Write([]byte(p))
	}
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(h.Sum(nil)[:16]))
}

// idLength is the length of an itemID: 16 bytes in base32.
const idLength = 26

// subjectID returns the id that an item and an Observation with the same id of
// the vendor's share.
func subjectID(vendor, metric, vendorID string) string {
	return itemID("subject", vendor, metric, vendorID)
}

// subjectIDs returns the subjects that an Observation resolves: its own metric,
// and the document that the metric is a field of ("sleep" of
// "sleep.average_hrv").
func subjectIDs(vendor string, obs *observation) []string {
	out := []string{subjectID(vendor, obs.Metric, obs.vendorID)}
	for i := range len(obs.Metric) {
		if obs.Metric[i] == '.' {
			return append(out, subjectID(vendor, obs.Metric[:i], obs.vendorID))
		}
	}
	return out
}
