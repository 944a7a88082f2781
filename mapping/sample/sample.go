// Package sample defines the Sample, one measurement as a vendor states it. It is
// the boundary between vendor formats and FHIR: adapters create Samples without
// depending on FHIR, and package mapping maps them to resources without depending on
// vendor formats.
//
// A Sample keeps the vendor's type name, unit and scale. Scaling (0.97 to 97 %), unit
// conversion and codes are defined by the metric table, by vendor, metric and
// channel.
//
// Start and End carry the offset that the vendor states for the instant, as a fixed
// zone. If a vendor states none, Zone says so. Package mapping then uses the patient's
// configured zone, or else marks the offset as unknown or rejects the sample.
package sample

import "time"

// Zone tells where the offset of a sample comes from.
type Zone uint8

const (
	// ZoneStated means that the vendor states the offset of the instant.
	ZoneStated Zone = iota
	// ZoneInstant means that the instant is correct but the offset is not the
	// wearer's (Apple exports without HKTimeZone, APIs in UTC).
	ZoneInstant
	// ZoneFloating means that the local time is correct but its offset is
	// unknown.
	ZoneFloating
)

// Status tells whether a value is final.
type Status uint8

const (
	Final       Status = iota
	Preliminary        // may change: the total of today, an unprocessed night
	Retracted          // deleted by the vendor; becomes entered-in-error
)

// Date is a calendar day of the wearer, without a zone.
type Date struct {
	Year  int        `json:",omitzero"`
	Month time.Month `json:",omitzero"`
	Day   int        `json:",omitzero"`
}

// IsZero reports whether d is the zero Date, which is not a date.
func (d Date) IsZero() bool { return d == Date{} }

// Sample is one measurement. A sink may read a Sample during the call only and must
// copy what it keeps, because adapters reuse the Sample and its Components.
type Sample struct {
	// Metric is the vendor's type name as the metric table spells it:
	// "HKQuantityTypeIdentifierHeartRate", "daily-resting-heart-rate",
	// "sleep.average_hrv".
	Metric string `json:",omitzero"`
	// Channel names the vendor's channel, on which the scale or the quality may
	// depend: "export.xml", "hae", "v4", "v2".
	Channel string `json:",omitzero"`

	// Either Start or Day is set, except in a deletion; see IsDeletion. Day is the day of a daily value. End is the end
	// of an interval and zero for an instant.
	Start, End time.Time `json:",omitzero"`
	Zone       Zone      `json:",omitzero"`
	Day        Date      `json:",omitzero"`

	// Value is the main value. It is zero for a panel, which has components
	// only.
	Value      Value       `json:",omitzero"`
	Components []Component `json:",omitzero"`

	Device Device `json:",omitzero"`
	Source Source `json:",omitzero"`

	// VendorID is the vendor's stable id, or "". With a VendorID, the sample is
	// identified by vendor, metric and VendorID, and its times and values may be
	// restated. Without one, it is identified by its natural key: metric, start and
	// end or day, source and device, and, if KeyValue is set, the value.
	VendorID string `json:",omitzero"`
	// SharedID is set if other channels of the vendor deliver the same samples
	// without this VendorID: exports of HealthKit lack the UUID that apps read. A
	// sample of such a channel with equal type, times, value and device is the same
	// measurement. Samples with a SharedID are immutable, so of two equal statements
	// the one with the device is kept.
	SharedID bool `json:",omitzero"`
	// KeyValue makes the value part of the natural key. It is set for immutable
	// samples of which several may have one instant (Apple).
	KeyValue bool `json:",omitzero"`

	// Coarse is set for a channel that knows less about the origin of a sample than
	// another channel of the vendor: only the name of the source without the device,
	// or neither of them in a stream that the vendor has merged. Samples of both
	// channels with equal type, times and value are one measurement.
	Coarse bool `json:",omitzero"`

	// Revision orders the vendor's statements about one thing. Of two Samples with
	// one identity, the one with the greater Revision is the later statement,
	// whichever arrives last. It is the time of the change or of the statement in
	// Unix microseconds, or a version that only grows, and must not mix the two for
	// one metric and channel. It is 0 if the vendor states no order.
	Revision int64 `json:",omitzero"`

	Status Status `json:",omitzero"`
	// UserEntered is set if a person entered the value.
	UserEntered bool `json:",omitzero"`
	// Method is the vendor's description of how the value was determined
	// ("estimated", "WITH_SLEEP", "automatically detected"), or "".
	Method string `json:",omitzero"`
	// Note is a text of the vendor for clinicians, or "".
	Note string `json:",omitzero"`
	// IANA names the IANA zone if the vendor states one (HKTimeZone).
	IANA string `json:",omitzero"`
}

// IsDeletion reports whether s says only that the vendor has deleted the sample with
// this VendorID. It has no times and no values.
func (s *Sample) IsDeletion() bool {
	return s.Status == Retracted && s.VendorID != "" && s.Start.IsZero() && s.Day.IsZero()
}

// ValueType tells which fields of a Value are set.
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
	Kind ValueType `json:",omitzero"`
	// Num and High are decimals as the vendor writes them ("62", "62.0", "0.97"),
	// which preserves the written precision.
	Num, High string      `json:",omitzero"`
	Unit      string      `json:",omitzero"` // as the vendor writes it: "count/min", "mmol<180.1558800000541>/L"
	Text      string      `json:",omitzero"`
	Bool      bool        `json:",omitzero"`
	Series    *SeriesData `json:",omitzero"`
}

// SeriesData is a regular series of points: an ECG lead, the heart rate of a night
// every 5 minutes, a hypnogram of one digit per epoch.
type SeriesData struct {
	Period time.Duration `json:",omitzero"` // time between two points
	Unit   string        `json:",omitzero"`
	Origin string        `json:",omitzero"` // zero point as a decimal; "" is 0
	Factor string        `json:",omitzero"` // value = Origin + data * Factor; "" is 1
	// Data has the syntax of SampledData.data: decimals separated by one space, with
	// "E" for an error, "L" for a value below and "U" for one above the range.
	Data string `json:",omitzero"`
}

// Component is a part of a panel (systolic, deep sleep, motion context).
type Component struct {
	Name  string `json:",omitzero"` // the vendor's field name, which the row of the metric lists
	Value Value  `json:",omitzero"`
	// Derived is set if the adapter computed the value from data that not every
	// payload with the sample has. It is not part of the natural key.
	Derived bool `json:",omitzero"`
}

// Device is the device that measured. It is identified by Manufacturer and Serial,
// or else by Manufacturer, Model and Hardware; versions never count.
type Device struct {
	Name         string `json:",omitzero"` // "Apple Watch", "Charge 6"
	Manufacturer string `json:",omitzero"`
	Model        string `json:",omitzero"`
	Hardware     string `json:",omitzero"` // "Watch6,7"
	Kind         string `json:",omitzero"` // "watch", "band", "ring", "phone", "scale", "app", or ""
	Serial       string `json:",omitzero"` // serial number, or the vendor's id of the device
	Software     string `json:",omitzero"` // version of the operating system
	Firmware     string `json:",omitzero"`
	Battery      string `json:",omitzero"` // percent as written, or ""
	Facts        []Fact `json:",omitzero"` // other properties (ring size, color)
}

// Fact is one named property of a device.
type Fact struct {
	Name, Value, Unit string `json:",omitzero"`
}

// Source is the app or the stream of an account that delivered the sample.
type Source struct {
	Name    string `json:",omitzero"` // sourceName, bundle id, platform
	Version string `json:",omitzero"`
}

// Reject is an item of a payload that an adapter could not turn into a Sample. It
// goes to quarantine; the rest of the payload is processed.
type Reject struct {
	Reason string // a Reason constant
	Metric string // vendor's type name, or ""
	Where  string // position in the payload: "line 812", "data[3].bedtime_start"
	Detail string // rule that the item breaks; contains no value of the payload
	Raw    []byte // the vendor's bytes of the item; the sink limits them
	// Component is set if only this component of the item is left out and the rest
	// is a Sample. Reason may then be DropPlaceholder, for a zero that means that
	// nothing was measured.
	Component string
	// VendorID is the VendorID of the item, or "" if it could not be read. The item
	// leaves quarantine when a later payload has a Sample with this Metric and
	// VendorID.
	VendorID string
}

// Reasons of quarantine.
const (
	ReasonUnmapped    = "unmapped"     // no row in the metric table
	ReasonBadTime     = "bad-time"     // unreadable or implausible date
	ReasonBadValue    = "bad-value"    // unreadable number, NaN or out of range
	ReasonBadUnit     = "bad-unit"     // a unit that the row does not accept
	ReasonMissing     = "missing"      // a required field is absent
	ReasonUnknownZone = "unknown-zone" // a floating time without a configured zone
	ReasonTooLarge    = "too-large"    // an item that exceeds the limit
)

// Reasons for dropping a sample. Dropped samples are counted and not stored.
const (
	DropDuplicate   = "duplicate"
	DropLowQuality  = "low-quality"
	DropPlaceholder = "placeholder"
	DropIgnored     = "ignored" // out of scope (routes, clinical records, characteristics)
)
