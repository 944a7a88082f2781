package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"

	"pulsegate/adapters"
	"pulsegate/fhir"
)

// payload detects the format of the payload, decodes it and commits its
// samples.
func (d *delivery) payload(ctx context.Context) (err error) {
	in := adapters.Input{Name: baseName(d.request.Name), Zone: d.zone, Received: d.pipeline.Clock(),
		At: d.request.At, Size: d.request.Size}
	if d.request.Delivery != nil {
		in.Delivery = adapters.Facts(d.adapter, d.request.Delivery)
	}
	if d.request.Format != "auto" {
		in.Format, in.Hint, _ = strings.Cut(d.request.Format, ":")
	}
	head := make([]byte, headSize)
	n, err := io.ReadFull(d.request.Body, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return bodyError(err)
	}
	head = head[:n]
	if n == 0 {
		return fhir.Errorf(fhir.Invalid, "ingest.Run", "the payload is empty")
	}
	sum := sha256.Sum256(head)
	d.digest = hex.EncodeToString(sum[:])
	if in.Format == "" {
		var ok bool
		if in.Format, ok = d.adapter.Detect(in.Name, head); !ok {
			return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: adapters.ErrUnknownFormat,
				Issues: []fhir.Issue{{Code: "structure",
					Diagnostics: "the payload has none of the formats of " + d.request.Vendor + ": " +
						formatNames(d.adapter) +
						"; set the parameter format"}}}
		}
	}
	if !hasFormat(d.adapter, in.Format) {
		return fhir.Errorf(fhir.Invalid, "ingest.Run", "format must be one of %s", formatNames(d.adapter))
	}
	d.format = in.Format
	in.Body = &contextReader{ctx, io.MultiReader(bytes.NewReader(head), d.request.Body)}
	if in.At == nil && needsSeek(d.adapter, in.Format) {
		f, size, err := spool(d.pipeline.SpoolDir, in.Body, d.limits.MaxSpool)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := f.Close(); err == nil {
				err = fhir.Wrap("ingest.Run", cerr)
			}
		}()
		in.At, in.Size, in.Body = f, size, io.NewSectionReader(f, 0, size)
	}
	return d.decodeAndCommit(ctx, func(ctx context.Context) error { return d.adapter.Decode(ctx, in, d) })
}

// contextReader is a reader that fails after its context has ended.
type contextReader struct {
	ctx  context.Context
	body io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.body.Read(p)
}

// baseName returns the last element of a path, cut to 255 bytes.
func baseName(s string) string {
	if i := strings.LastIndexAny(s, `/\`); i >= 0 {
		s = s[i+1:]
	}
	return s[:min(len(s), 255)]
}

func hasFormat(a adapters.Adapter, name string) bool {
	for _, f := range a.Formats() {
		if f.Name == name {
			return true
		}
	}
	return false
}

// needsSeek reports whether a format requires random access to its payload.
func needsSeek(a adapters.Adapter, name string) bool {
	for _, f := range a.Formats() {
		if f.Name == name {
			return f.Seek
		}
	}
	return false
}

func formatNames(a adapters.Adapter) string {
	var names []string
	for _, f := range a.Formats() {
		names = append(names, f.Name)
	}
	return strings.Join(names, ", ")
}

// bodyError converts an error of decoding to a fhir.Error that names the
// position in the payload and the rule.
func bodyError(err error) error {
	var fe *fhir.Error
	if errors.As(err, &fe) {
		return fe
	}
	var pe *adapters.PayloadError
	if errors.As(err, &pe) {
		is := fhir.Issue{Code: "structure", Diagnostics: pe.Error()}
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Issues: []fhir.Issue{is}, Err: pe.Err}
	}
	if errors.Is(err, adapters.ErrUnknownFormat) {
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: err,
			Issues: []fhir.Issue{{Code: "structure", Diagnostics: "unknown payload format"}}}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Run", Err: err,
			Issues: []fhir.Issue{{Code: "structure", Diagnostics: "the payload ends too early"}}}
	}
	return fhir.Wrap("ingest.Run", err)
}
