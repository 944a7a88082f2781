// Package adapters is the contract between vendor formats and Pulsegate. An
// adapter reads the payloads of one vendor, streaming and in constant memory, and
// emits Samples. It does not use FHIR, a store or the network.
//
// To add a vendor, implement Adapter in adapters/<vendor>, test it with
// adaptertest.Run, add the vendor's metric table to mapping/table, and list the
// adapter in adapters/vendors. Package adaptertest is the guide; CONTRIBUTING.md
// has the steps after decoding.
package adapters

import (
	"context"
	"errors"
	"io"
	"time"

	"pulsegate/mapping/sample"
)

// Format describes one format that an adapter reads.
type Format struct {
	Name       string   // "export.zip", "health-auto-export", "google-health"
	Summary    string   // one line for people
	Extensions []string // ".zip", ".xml"
	// TypeHint is set if a body may lack its type. Input.Hint must name the
	// type then, from the file's name or from the caller.
	TypeHint bool
	// Seek is set if the format is not read from start to end: an archive, or
	// a body with its time zone after the data. Input.At is always set then.
	// Callers write a body that arrives as a stream to a file first, so Seek
	// costs disk space and limits the size of a payload.
	Seek bool
	// Delivery lists the facts of a delivery that the adapter needs, named in
	// lower case after the sender's HTTP headers ("automation-aggregation").
	// No other part of a request reaches an adapter.
	Delivery []string
	// Session is the fact of a delivery that, together with the body, identifies
	// it: the app repeats both when it sends a part again whose answer was lost.
	Session string
	// App names the app that sends the format by itself, and Choices its settings
	// with what to choose for each of them. They are for people.
	App     string
	Choices [][2]string
}

// Facts returns the delivery facts that the formats of a list, or nil if there
// are none. get returns the value of a fact, or ""; it is http.Header.Get or a
// lookup in the flags of a command. Values over 256 bytes are ignored.
func Facts(a Adapter, get func(string) string) map[string]string {
	var out map[string]string
	for _, f := range a.Formats() {
		for _, name := range f.Delivery {
			if v := get(name); v != "" && len(v) <= maxFact {
				if out == nil {
					out = map[string]string{}
				}
				out[name] = v
			}
		}
	}
	return out
}

// Session returns the fact of a delivery that one of the adapter's formats names as
// its Session, or "" if there is none. get is that of Facts.
func Session(a Adapter, get func(string) string) string {
	for _, f := range a.Formats() {
		if f.Session == "" {
			continue
		}
		if v := get(f.Session); v != "" && len(v) <= maxFact {
			return v
		}
	}
	return ""
}

// maxFact is the limit for one delivery fact in bytes.
const maxFact = 256

// Input is one payload.
type Input struct {
	// Name is the base name of a file or a hint of the caller, never a path.
	Name string
	// Format is the name of one of the adapter's formats. If it is empty, the
	// adapter detects the format.
	Format string
	// Hint names the vendor's type ("heartrate", "steps") for a body that
	// lacks it.
	Hint string
	// Delivery holds facts about the delivery that the body lacks: the names
	// that Format.Delivery lists and their values as sent. It may be nil.
	// Adapters ignore values that they do not understand.
	Delivery map[string]string
	// Body is the decompressed stream.
	Body io.Reader
	// At and Size give random access. At may be nil for formats without Seek.
	At   io.ReaderAt
	Size int64
	// Zone is the patient's configured time zone, or nil.
	Zone *time.Location
	// Received is the time of receipt. Adapters use it for values without a
	// time and to decide whether a day is over.
	Received time.Time
}

// Sink receives the results of decoding. Its methods return an error only if
// decoding must stop, because the context has ended or the store has failed.
//
// A *Sample, its Components and the bytes of a Reject are valid only during the
// call, because the adapter reuses them for the next item. A sink copies the
// parts that it keeps and modifies nothing. Strings are immutable and may be
// kept, but a number may be part of a block of some KiB that stays in memory with
// it: a sink that keeps a few numbers for long clones them. Device.Facts and
// SeriesData are never reused.
type Sink interface {
	Sample(*sample.Sample) error
	Reject(*sample.Reject) error
	// Drop counts n items that are left out on purpose.
	Drop(reason, metric string, n int)
	// Progress reports how many bytes of the decompressed payload have been
	// read.
	Progress(bytes int64)
}

// Adapter reads the formats of one vendor.
type Adapter interface {
	// Vendor returns the vendor's code in URLs, flags and resources: "apple".
	Vendor() string
	// Name returns the vendor's name as patients know it: "Apple Health".
	Name() string
	// Formats lists the formats that Decode reads.
	Formats() []Format
	// Detect recognizes the format of a payload by its first bytes (up to 64
	// KiB) and its name. ok is false if the vendor has no such format.
	Detect(name string, head []byte) (format string, ok bool)
	// Decode reads one payload to its end. If the payload as a whole is
	// malformed, it returns a *PayloadError; everything passed to the sink
	// before stays valid. A malformed item is passed to sink.Reject, and
	// decoding continues.
	Decode(ctx context.Context, in Input, sink Sink) error
}

// PayloadError is the reason why a payload cannot be read any further. It holds
// no bytes of the payload.
type PayloadError struct {
	Format string
	Where  string // "line 3", "offset 8812", "zip entry 4"
	// Rule is the broken rule: "XML is not well-formed: it ends inside a tag".
	Rule string
	Err  error // the cause if reading failed, else nil
}

// Error returns the format, the position and the rule.
func (e *PayloadError) Error() string {
	s := e.Format
	if e.Where != "" {
		s += " at " + e.Where
	}
	return s + ": " + e.Rule
}

// Unwrap returns the cause.
func (e *PayloadError) Unwrap() error { return e.Err }

// ErrUnknownFormat is returned if a payload has none of the adapter's formats.
var ErrUnknownFormat = errors.New("unknown payload format")
