package apple

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"path"
	"strings"

	"pulsegate/adapters"
)

// The formats.
const (
	formatZip = "export.zip"
	formatXML = "export.xml"
	formatECG = "ecg.csv"
	formatHAE = "health-auto-export"
)

const headSize = 64 << 10

// Limits of an archive. The zero value of a field means its default.
type Limits struct {
	Entries int   // files in an archive (default 200,000)
	Bytes   int64 // inflated bytes of all files read (default 64 GiB)
	Ratio   int64 // inflated to deflated bytes of a file over 64 MiB (default 300)
}

// Adapter reads Apple's formats.
type Adapter struct{ Limits Limits }

var _ adapters.Adapter = (*Adapter)(nil)

// New returns an Adapter with the default limits.
func New() *Adapter { return &Adapter{} }

// Vendor is "apple".
func (a *Adapter) Vendor() string { return "apple" }

// Name is "Apple Health".
func (a *Adapter) Name() string { return "Apple Health" }

// Formats lists what Decode reads.
func (a *Adapter) Formats() []adapters.Format {
	return []adapters.Format{
		{Name: formatZip, Summary: "Apple Health export archive", Extensions: []string{".zip"}, Seek: true},
		{Name: formatXML, Summary: "Apple Health export.xml", Extensions: []string{".xml"}},
		{Name: formatECG, Summary: "one electrocardiogram of an Apple Health export", Extensions: []string{".csv"}},
		{Name: formatHAE, Summary: "Health Auto Export JSON, version 1 or 2", Extensions: []string{".json"},
			Delivery: []string{headerName, headerAggregation, headerPeriod, headerSession}},
	}
}

// Detect names the format by the first bytes; of an archive whose folder is
// not Apple's the name decides.
func (a *Adapter) Detect(name string, head []byte) (string, bool) {
	switch {
	case bytes.HasPrefix(head, []byte("PK\x03\x04")):
		name = strings.ToLower(path.Base(name))
		if bytes.Contains(head, []byte("apple_health_export")) || strings.HasPrefix(name, "export") &&
			strings.HasSuffix(name, ".zip") ||
			strings.Contains(name, "apple") {
			return formatZip, true
		}
	case isHealthData(head):
		return formatXML, true
	case looksLikeECG(head):
		return formatECG, true
	case looksLikeHAE(head):
		return formatHAE, true
	}
	return "", false
}

func isHealthData(head []byte) bool {
	return bytes.Contains(head, []byte("<HealthData")) || bytes.Contains(head, []byte("<!DOCTYPE HealthData"))
}

// Decode reads one payload.
func (a *Adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	format := in.Format
	if format == "" {
		b := bufio.NewReaderSize(in.Body, headSize)
		head, err := b.Peek(headSize)
		if err != nil && err != io.EOF {
			return &adapters.PayloadError{Format: "apple", Where: "offset 0", Rule: "the body cannot be read", Err: err}
		}
		f, ok := a.Detect(in.Name, head)
		if !ok {
			return adapters.ErrUnknownFormat
		}
		format, in.Body = f, b
	}
	switch format {
	case formatZip:
		return a.decodeZip(ctx, in, sink)
	case formatXML:
		_, _, err := decodeXML(ctx, in, format, in.Body, sink, 0)
		return err
	case formatECG:
		return decodeECG(ctx, in, format, sink)
	case formatHAE:
		return decodeHAE(ctx, in, sink)
	}
	return adapters.ErrUnknownFormat
}
