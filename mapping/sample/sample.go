// Package sample is the doorway between vendors and FHIR: one measurement as
// a vendor states it, in plain types. Adapters make Samples and know no FHIR;
// mapping turns Samples into resources and knows no vendor format.
//
// A Sample keeps what the vendor said: its own type name, its own unit, its
// own scale. Scaling (0.97 -> 97 %), unit conversion and codes are rows of
// mapping's table, chosen by (Vendor, Metric, Channel).
//
// Time zones: Start and End carry the offset that the vendor states for that
// instant, as a fixed zone. Where a vendor states none, Zone says so, and
// mapping uses the patient's configured zone, else the offset in Start marked
// as unknown, else quarantine (mapping-wide policy, never the adapter's).
package sample

import "time"

// Zone says where a sample's offset comes from.
type Zone uint8

const (
	ZoneStated Zone = iota // the vendor states the offset of this instant
	// the instant is right, the offset is not the wearer's (Apple export without HKTimeZone,
	// UTC-only APIs)
	ZoneInstant
	ZoneFloating // a wall clock without offset: Start's clock is right, its offset unknown
)

// Status is what the vendor says of the finality of a value.
type Status uint8

const (
	Final       Status = iota
	Preliminary        // still growing or unprocessed: today's total, an unprocessed night
	Retracted          // the vendor deleted it: becomes entered-in-error
)

// Date is a calendar day of the wearer, without zone.
type Date struct {
	Year  int
	Month time.Month
	Day   int
}

// IsZero reports whether d is no date.
func (d Date) IsZero() bool { return d == Date{} }

// Sample is one measurement. A sink that is handed one may read it during the
// call and copies what it keeps: adapters use it and its Components again.
type Sample struct {
	// Metric is the vendor's type name as mapping's table spells it:
	// "HKQuantityTypeIdentifierHeartRate", "daily-resting-heart-rate",
	// "sleep.average_hrv".
	Metric string
	// Channel is the way it came, where scale or quality depend on it:
	// "export.xml", "hae", "v4", "v2".
	Channel string

	// Exactly one of the two: Start (with End for an interval; End zero for
	// an instant) or Day (a daily value).
	Start, End time.Time
	Zone       Zone
	Day        Date

	// Value is the main value; the zero Value means there is none (a panel
	// with components only).
	Value      Value
	Components []Component

	Device Device
	Source Source

	// VendorID is the vendor's own stable id, if there is one; with it,
	// identity is (vendor, metric, VendorID), and times or values may be
	// restated. Without it, identity is the natural key: metric, start, end
	// or day, source and device identity, and, if KeyValue, the value too.
	VendorID string
	// KeyValue makes the value part of the natural key: for immutable
	// samples that may differ at one instant (Apple).
	KeyValue bool

	// Coarse marks a channel that knows less of where a sample came from than
	// another one of the vendor's: a source's name without the device, or, in
	// a stream that the vendor has merged, neither. What both channels bring
	// is one measurement when type, times and value agree.
	Coarse bool

	// Revision orders the vendor's statements of one thing: of two with the
	// same identity, the one with the greater Revision is the later word,
	// whichever arrives last. It is the time at which the vendor changed it
	// or stated it, in Unix microseconds, or a version that only grows; one
	// kind for each metric and channel. 0: the vendor says nothing of it.
	Revision int64

	Status Status
	// UserEntered marks what a person typed in.
	UserEntered bool
	// Method is the vendor's word on how the value came about ("estimated",
	// "WITH_SLEEP", "automatically detected"), "" if unstated.
	Method string
	// Note is a vendor text safe to show to a clinician, "" mostly.
	Note string
	// Zoneless names an IANA zone if the vendor gives one (HKTimeZone).
	IANA string
}

// ValueType says which fields of a Value count.
type ValueType uint8

const (
	None     ValueType = iota
	Number             // Num in Unit
	Code               // Text is a vendor code or enum name
	Text               // Text is free text (never PHI)
	Interval           // [Num, High] in Unit (a Range)
	Series             // Series
	Boolean            // Bool
)

// Value is a measured value as the vendor writes it.
type Value struct {
	Kind ValueType
	// Num and High are decimals as written ("62", "62.0", "0.97"), so that
	// the written precision is kept.
	Num, High string
	Unit      string // as the vendor writes it: "count/min", "mmol<180.1558800000541>/L"
	Text      string
	Bool      bool
	Series    *SeriesData
}

// SeriesData is a regular series of samples: an ECG lead, a night's heart
// rate every 5 minutes, a hypnogram of one letter an epoch.
type SeriesData struct {
	Period time.Duration // between two data points
	Unit   string
	Origin string // zero point as decimal, "" means 0
	Factor string // value = Origin + data * Factor; "" means 1
	// Data is the FHIR SampledData text: decimals separated by one space,
	// "E" for no value, "U" below and "L" above the range.
	Data string
}

// Component is a part of a panel (systolic, deep sleep, motion context).
type Component struct {
	Name  string // the vendor's field name; mapping's table has a row "metric/name"
	Value Value
}

// Device is the physical device that measured. Identity is Manufacturer,
// Model, Hardware and Serial (or LocalID): no pointers, no versions.
type Device struct {
	Name         string // "Apple Watch", "Charge 6"
	Manufacturer string
	Model        string
	Hardware     string // "Watch6,7"
	Kind         string // "watch", "band", "ring", "phone", "scale", "app", "" unknown
	Serial       string // vendor's id of the physical device, if any
	Software     string // OS version: changes, not identity
	Firmware     string
	Battery      string // percent as written, "" unknown: a device fact
	Facts        []Fact // further device facts (ring size, colour), never identity
}

// Fact is one named property of a device.
type Fact struct{ Name, Value, Unit string }

// Source is the app or account stream through which the sample came.
type Source struct {
	Name    string // sourceName, bundle id, platform
	Version string
}

// Reject is what an adapter could read but not turn into a Sample; it goes to
// quarantine and is never an error of the whole payload.
type Reject struct {
	Reason string // a Reason constant
	Metric string // vendor type, "" unknown
	Where  string // place in the payload: "line 812", "data[3].bedtime_start"
	Detail string // rule that was broken; no value of the payload
	Raw    []byte // the vendor's bytes of this item, bounded by the sink
	// Component is set where only this part of an item is left out; the rest
	// of the item is a Sample. Reason may then be DropPlaceholder, too: a zero
	// that stands for "not measured".
	Component string
	// VendorID is the VendorID that the Sample would have had, "" if it is not
	// known. When a later payload makes a Sample of that Metric and VendorID,
	// the item leaves quarantine.
	VendorID string
}

// Reasons of quarantine.
const (
	ReasonUnmapped    = "unmapped"     // no row in the metric table
	ReasonBadTime     = "bad-time"     // unreadable or absurd date
	ReasonBadValue    = "bad-value"    // unreadable number, NaN, out of the possible
	ReasonBadUnit     = "bad-unit"     // a unit that the metric cannot have
	ReasonMissing     = "missing"      // a required field is absent
	ReasonUnknownZone = "unknown-zone" // a floating time and no configured zone
	ReasonTooLarge    = "too-large"    // one item over the limit
)

// Drop reasons count what is knowingly not stored (low confidence,
// placeholders, exact duplicates within a payload).
const (
	DropDuplicate   = "duplicate"
	DropLowQuality  = "low-quality"
	DropPlaceholder = "placeholder"
	DropIgnored     = "ignored" // by design not ours (routes, clinical records, characteristics)
)
