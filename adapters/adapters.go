// Package adapters is the contract between vendor formats and Pulsegate. An
// adapter reads one vendor's payloads, streaming and in constant memory, and
// hands out Samples. It never sees FHIR, a store or the network.
//
// To add a vendor: implement Adapter in adapters/<vendor>, run
// adaptertest.Run against testdata, add the vendor's metric table to
// mapping/table, and list the adapter in adapters/vendors. CONTRIBUTING.md
// walks through it.
package adapters

import (
	"context"
	"errors"
	"io"
	"time"

	"pulsegate/mapping/sample"
)

// Format is one payload shape an adapter reads.
type Format struct {
	Name       string   // "export.zip", "health-auto-export", "google-health"
	Summary    string   // one line for a person
	Extensions []string // ".zip", ".xml"
	// TypeHint says that a body may not tell its type; then Input.Hint (from
	// the file's name or the caller) is needed.
	TypeHint bool
	// Seek says that the format is not read from front to back (an archive, a
	// body whose zone comes after its data): Input.At is always set then. The
	// caller puts a body that comes as a stream into a file first, so Seek
	// costs disk space and bounds the size of a payload.
	Seek bool
	// Delivery lists the facts of a delivery that the format's reader uses,
	// in lower case, as the sender's HTTP headers are named
	// ("automation-aggregation"). Nothing else of a request reaches an adapter.
	Delivery []string
}

// Facts returns the delivery facts that a format of a names, as get returns
// them ("" where there is none), nil if there are none. get is
// http.Header.Get, or looks into a command's flags.
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

// maxFact bounds one delivery fact in bytes.
const maxFact = 256

// Input is one payload.
type Input struct {
	// Name is the file's base name or the caller's hint; never a path.
	Name string
	// Format is one of the adapter's format names, or "" to detect.
	Format string
	// Hint names the vendor type where the body does not ("heartrate",
	// "steps"), "" otherwise.
	Hint string
	// Delivery holds facts about the delivery that the body does not tell: the
	// names that Format.Delivery lists, with their values as sent. It is nil
	// where nothing is known, and never contradicts the body: a reader that
	// does not understand a value ignores it.
	Delivery map[string]string
	// Body is the decompressed stream.
	Body io.Reader
	// At and Size give random access. At may be nil for a format without Seek.
	At   io.ReaderAt
	Size int64
	// Zone is the patient's configured zone, nil if there is none.
	Zone *time.Location
	// Received is the time of receipt (for values without a time of their
	// own and for "today is a partial day").
	Received time.Time
}

// Sink takes what an adapter reads. Its methods return an error only when
// decoding must stop (the context ended, the store failed).
//
// A *Sample, its Components and the bytes in a Reject are valid during the
// call only: the adapter fills them again for the next item. A sink copies
// what it keeps and changes nothing. Strings never change and may be kept;
// equal names, units and device texts are mostly one string, and a number may
// be a part of a block of some KiB that lives as long as it does: who keeps
// few for long clones them. Device.Facts and SeriesData are never used again.
type Sink interface {
	Sample(*sample.Sample) error
	Reject(*sample.Reject) error
	// Drop counts what is knowingly left out.
	Drop(reason, metric string, n int)
	// Progress tells how many bytes of the (decompressed) payload are read.
	Progress(bytes int64)
}

// Adapter reads one vendor.
type Adapter interface {
	// Vendor is the code that stands in URLs, flags and resources: "apple".
	Vendor() string
	// Name is the vendor's name as a patient knows it: "Apple Health".
	Name() string
	Formats() []Format
	// Detect names the format of a payload by its first bytes (up to 64 KiB)
	// and its name; ok is false if it is none of ours.
	Detect(name string, head []byte) (format string, ok bool)
	// Decode reads one payload to its end. A payload that is broken as a
	// whole gives a *PayloadError; what was handed to the sink before stays
	// valid. One bad item is a Reject and decoding goes on.
	Decode(ctx context.Context, in Input, sink Sink) error
}

// PayloadError says why a payload cannot be read (further). It names place
// and rule and holds no bytes of the payload.
type PayloadError struct {
	Format string
	Where  string // "line 3", "offset 8812", "zip entry 4"
	// "XML is not well-formed: unclosed element", "no type in the body: name it by --format
	// v2:heartrate or the file name"
	Rule string
	Err  error
}

func (e *PayloadError) Error() string {
	s := e.Format
	if e.Where != "" {
		s += " at " + e.Where
	}
	return s + ": " + e.Rule
}

func (e *PayloadError) Unwrap() error { return e.Err }

// ErrUnknownFormat is returned when no format fits.
var ErrUnknownFormat = errors.New("unknown payload format")
