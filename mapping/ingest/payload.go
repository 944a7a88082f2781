package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"slices"
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
	head, whole, err := readHead(d.request.Body)
	if err != nil {
		return bodyError(err)
	}
	if len(head) == 0 {
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
	if in.Body = (&wholeBody{contextReader{ctx, bytes.NewReader(head)}, head}); !whole {
		in.Body = &contextReader{ctx, io.MultiReader(bytes.NewReader(head), d.request.Body)}
	}
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

// readHead returns the first headSize bytes of a body, and whether they are all of
// it.
func readHead(body io.Reader) (head []byte, whole bool, err error) {
	for size := 4 << 10; ; size = min(4*size, headSize) {
		n := len(head)
		head = slices.Grow(head, size-n)[:size]
		read, err := io.ReadFull(body, head[n:])
		switch {
		case err == io.EOF || err == io.ErrUnexpectedEOF:
			return head[:n+read], true, nil
		case err != nil:
			return nil, false, err
		case size == headSize:
			return head, false, nil
		}
	}
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

// wholeBody is a contextReader of a body that is in memory. Len lets decoders use
// small buffers for small bodies.
type wholeBody struct {
	contextReader
	head []byte
}

// Len returns the length of the body.
func (b *wholeBody) Len() int { return len(b.head) }

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
