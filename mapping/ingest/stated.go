package ingest

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"pulsegate/fhir"
	"pulsegate/mapping"
	"pulsegate/mapping/sample"
)

// Limits of the payload of one complete window.
const (
	maxStated    = 1 << 20 // Observations: about twelve days of a sample per second
	maxDocuments = 1 << 15 // documents with several Observations
)

// statements collects what the payload of a complete window states: hashes of the
// ids of Observations, and of the vendor's ids and the times of items in
// quarantine. An Observation of which any hash is present is not retracted, so an
// accidental equality of two hashes does no harm. It belongs to the committing
// goroutine.
type statements struct {
	hashes    []uint64
	sorted    bool
	documents map[document]bool // that may have several Observations
	// coarse is set if a sample of the types came from a coarse channel.
	coarse bool
	// unknown holds the types of which an item in quarantine has neither a vendor's
	// id nor a time, so that it may be any Observation of the type; anything is set
	// if not even its type is known.
	unknown  []string
	anything bool
}

// Prefixes of the texts that are hashed, for the parts that are not ids.
const (
	hashVendorID = "id/"
	hashTime     = "at/"
)

func (s *statements) add(hashes ...uint64) error {
	if len(s.hashes)+len(hashes) > 2*maxStated {
		s.sort()
		if len(s.hashes) > maxStated {
			return tooManyStated()
		}
	}
	s.hashes, s.sorted = append(s.hashes, hashes...), false
	return nil
}

// document names a document of a vendor.
type document struct{ typ, vendorID string }

func (doc document) compare(other document) int {
	return cmp.Or(cmp.Compare(doc.typ, other.typ), cmp.Compare(doc.vendorID, other.vendorID))
}

func tooManyStated() error {
	return fhir.Errorf(fhir.TooLarge, "ingest.Run",
		"the payload of a complete window states more than %d measurements "+
			"or %d documents; deliver smaller windows", maxStated, maxDocuments)
}

func (s *statements) sort() {
	if !s.sorted {
		slices.Sort(s.hashes)
		s.hashes, s.sorted = slices.Compact(s.hashes), true
	}
}

func (s *statements) has(hash uint64) bool {
	s.sort()
	_, found := slices.BinarySearch(s.hashes, hash)
	return found
}

// stated reports whether the payload states the Observation with an id.
func (s *statements) stated(id string) bool { return s.has(xxhash.Sum64String(id)) }

// protects reports whether an item in quarantine may be the Observation.
func (s *statements) protects(obs *storedStatement, typ string) bool {
	if s.anything || slices.Contains(s.unknown, typ) ||
		obs.vendorID != "" && s.has(xxhash.Sum64String(hashVendorID+obs.vendorID)) {
		return true
	}
	if obs.isDay() {
		return s.has(xxhash.Sum64String(hashTime + obs.EffectiveDateTime))
	}
	from, _, ok := obs.effective()
	return ok && s.has(hashOfTime(from.Unix()))
}

func hashOfTime(second int64) uint64 {
	return xxhash.Sum64String(hashTime + strconv.FormatInt(second, 10))
}

// unread collects the items in quarantine of a batch for statements. It belongs to
// the decoding goroutine until the batch is flushed.
type unread struct {
	hashes   []uint64
	metrics  []string // of items that may be any Observation
	anything bool
}

const (
	maxUnread        = 1 << 16 // hashes after which a batch is full
	maxUnreadMetrics = 256
)

// timeOfItem returns the time of a sample that mapping rejected, for protect: the
// Unix second or the day, or "" if the time is not known for sure.
func timeOfItem(s *sample.Sample, re *mapping.RejectError) string {
	switch {
	case re.Reason == sample.ReasonBadTime || re.Reason == sample.ReasonUnknownZone ||
		re.Reason == sample.ReasonMissing:
		return ""
	case !s.Day.IsZero():
		return time.Date(s.Day.Year, s.Day.Month, s.Day.Day, 0, 0, 0, 0, time.UTC).Format(time.DateOnly)
	}
	return strconv.FormatInt(s.Start.Unix(), 10)
}

// protect records that an item in quarantine may state a stored Observation. at
// is the text of its time, or "".
func (d *delivery) protect(item *Item, at string) {
	if d.request.Complete == nil || item.Component != "" { // the rest of the sample is stated
		return
	}
	u := &d.batch.unread
	switch {
	case item.VendorID != "":
		u.hashes = append(u.hashes, xxhash.Sum64String(hashVendorID+item.VendorID))
	case at != "":
		u.hashes = append(u.hashes, xxhash.Sum64String(hashTime+at))
	case item.Metric == "":
		u.anything = true
	case slices.Contains(u.metrics, item.Metric):
	case len(u.metrics) == maxUnreadMetrics:
		u.anything = true
	default:
		u.metrics = append(u.metrics, item.Metric)
	}
}

// collect adds what a batch states to the statements of the delivery. Documents
// are added when their ids are final.
func (d *delivery) collect(b *batch) error {
	if d.complete == nil {
		return nil
	}
	s := d.complete.stated
	for _, group := range b.groups {
		if d.complete.metrics[group.metric].Type == "" {
			continue
		}
		s.coarse = s.coarse || group.coarse
		var id []byte
		hashes := make([]uint64, 0, group.columns.Len())
		for i := range group.columns.Len() {
			row := group.columns.At(i)
			k := group.template.Key(&row)
			id = k.AppendID(id[:0])
			hashes = append(hashes, xxhash.Sum64(id))
		}
		if err := s.add(hashes...); err != nil {
			return err
		}
	}
	s.anything = s.anything || b.unread.anything
	for _, metric := range b.unread.metrics {
		for _, typ := range d.complete.window.Types {
			row := d.pipeline.Mapper.RowMetric(d.request.Vendor, metric)
			if (metric == typ || strings.HasPrefix(metric, typ+".") || row != "" &&
				d.complete.metrics[row].Type == typ) &&
				!slices.Contains(s.unknown, typ) {
				s.unknown = append(s.unknown, typ)
			}
		}
	}
	return s.add(b.unread.hashes...)
}

// collectDocument records that the payload states an Observation, and the document
// that it is a part of.
func (d *delivery) collectDocument(obs *observation) error {
	if d.complete == nil {
		return nil
	}
	typ, s := d.complete.metrics[obs.Metric].Type, d.complete.stated
	if typ == "" {
		return nil
	}
	s.coarse = s.coarse || obs.coarse
	if err := s.add(xxhash.Sum64String(obs.ID)); err != nil {
		return err
	}
	if obs.vendorID == "" || obs.retracted || d.complete.familyOf(typ) < 2 {
		return nil
	}
	if s.documents == nil {
		s.documents = map[document]bool{}
	}
	doc := document{typ, strings.Clone(obs.vendorID)}
	if len(s.documents) == maxDocuments && !s.documents[doc] {
		return tooManyStated()
	}
	s.documents[doc] = true
	return nil
}
