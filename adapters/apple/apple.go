package apple

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"path"
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/archive"
)

// Names of the formats.
const (
	formatZip = "export.zip"
	formatXML = "export.xml"
	formatECG = "ecg.csv"
	formatHAE = "health-auto-export"

	formatCompanion     = "companion"
	formatFHIR          = "healthkit-fhir"
	formatOpenWearables = "open-wearables"
)

// headSize is the number of bytes that Detect needs.
const headSize = 64 << 10

// adapter implements adapters.Adapter for Apple's formats.
type adapter struct{ limits archive.Limits }

var _ adapters.Adapter = (*adapter)(nil)

// New returns the adapter of Apple's formats.
func New() adapters.Adapter { return &adapter{} }

// Vendor returns "apple".
func (a *adapter) Vendor() string { return "apple" }

// Name returns "Apple Health".
func (a *adapter) Name() string { return "Apple Health" }

// Formats lists the formats that Decode reads.
func (a *adapter) Formats() []adapters.Format {
	return []adapters.Format{
		{Name: formatZip, Summary: "Apple Health export archive", Extensions: []string{".zip"}, Seek: true},
		{Name: formatXML, Summary: "Apple Health export.xml", Extensions: []string{".xml"}},
		{Name: formatECG, Summary: "one electrocardiogram of an Apple Health export", Extensions: []string{".csv"}},
		{Name: formatHAE, Summary: "Health Auto Export JSON, version 1 or 2", Extensions: []string{".json"},
			Delivery: []string{headerName, headerAggregation, headerPeriod, headerSession}, Session: headerSession,
			App: appHAE, Choices: haeChoices()},
		{Name: formatCompanion, Summary: "batch of the companion app, see companion.schema.json",
			Extensions: []string{".json"}},
		{Name: formatFHIR, Summary: "FHIR Observations made on the phone by HealthKitOnFHIR or Grove",
			Extensions: []string{".json", ".ndjson"}},
		{Name: formatOpenWearables, Summary: "sync request of the Open Wearables iOS SDK",
			Extensions: []string{".json"}},
	}
}

// Detect recognizes the format by the first bytes. An archive without Apple's
// folder is recognized by its name.
func (a *adapter) Detect(name string, head []byte) (string, bool) {
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
	case looksLikeFHIR(head):
		return formatFHIR, true
	case looksLikeCompanion(head):
		return formatCompanion, true
	case looksLikeOpenWearables(head):
		return formatOpenWearables, true
	case looksLikeHAE(head):
		return formatHAE, true
	}
	return "", false
}

func isHealthData(head []byte) bool {
	return bytes.Contains(head, []byte("<HealthData")) || bytes.Contains(head, []byte("<!DOCTYPE HealthData"))
}

// Decode reads one payload.
func (a *adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
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
		_, _, err := decodeXML(ctx, in, format, in.Body, sink, 0, nil)
		return err
	case formatECG:
		return decodeECG(ctx, in, format, sink)
	case formatHAE:
		return decodeHAE(ctx, in, sink)
	case formatCompanion:
		return decodeCompanion(ctx, in, sink)
	case formatFHIR:
		return decodeFHIR(ctx, in, sink)
	case formatOpenWearables:
		return decodeOpenWearables(ctx, in, sink)
	}
	return adapters.ErrUnknownFormat
}
