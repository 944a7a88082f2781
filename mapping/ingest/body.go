package ingest

import (
	"bufio"
	"compress/gzip"
	"io"
	"os"
	"strings"

	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir"
)

// Limits bounds one payload. Fields that are 0 have the given defaults.
type Limits struct {
	MaxBytes      int64 // decompressed size in bytes; default 8 GiB
	MaxRatio      int64 // ratio of decompressed to compressed size; default 200
	MaxSpool      int64 // size in bytes of a zip file that arrives as a stream; default 4 GiB
	Batch         int   // documents per commit; default 1000
	Samples       int   // samples of series per commit; default 65,536
	KeepPerMetric int   // quarantined items with raw bytes per payload and metric; default 1000
	KeepRaw       int   // raw bytes per quarantined item; default 64 KiB
}

func (l Limits) orDefault() Limits {
	def := func(limit *int64, value int64) {
		if *limit <= 0 {
			*limit = value
		}
	}
	defInt := func(limit *int, value int) {
		if *limit <= 0 {
			*limit = value
		}
	}
	def(&l.MaxBytes, 8<<30)
	def(&l.MaxRatio, 200)
	def(&l.MaxSpool, 4<<30)
	defInt(&l.Batch, 1000)
	defInt(&l.Samples, 65536)
	defInt(&l.KeepPerMetric, 1000)
	defInt(&l.KeepRaw, headSize)
	return l
}

// deliveryMemory is the memory in bytes that one delivery needs at most: the
// adapter's read-ahead, a batch and a zstd window.
const deliveryMemory = 48 << 20

// ratioFreeBytes is the number of decompressed bytes before MaxRatio applies.
const ratioFreeBytes = 16 << 20

// body decodes a Content-Encoding ("", identity, gzip or zstd) within limits on
// the size and the compression ratio. Reading beyond a limit returns a TooLarge
// error.
func body(r io.Reader, contentEncoding string, limits Limits) (io.ReadCloser, error) {
	bounds := limits.orDefault()
	in := &countingReader{body: r}
	limited := &limitedReader{in: in, max: bounds.MaxBytes}
	switch strings.ToLower(strings.TrimSpace(contentEncoding)) {
	case "", "identity":
		limited.body = in
	case "gzip", "x-gzip":
		decoder, err := gzip.NewReader(bufio.NewReader(in))
		if err != nil {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Body", Err: err,
				Issues: []fhir.Issue{{Code: "structure", Diagnostics: "the body is not in gzip format"}}}
		}
		limited.body, limited.close, limited.ratio = decoder, decoder.Close, bounds.MaxRatio
	case "zstd":
		decoder, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20),
			zstd.WithDecoderMaxWindow(32<<20))
		if err != nil {
			return nil, fhir.Wrap("ingest.Body", err)
		}
		limited.body, limited.ratio = decoder, bounds.MaxRatio
		limited.close = func() error { decoder.Close(); return nil }
	default:
		return nil, fhir.Errorf(fhir.Unsupported, "ingest.Body", "the Content-Encoding must be gzip, zstd or identity")
	}
	return limited, nil
}

// countingReader counts the bytes read from a body.
type countingReader struct {
	body io.Reader
	read int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.read += int64(n)
	return n, err
}

// limitedReader reads a decompressed body and enforces the limits.
type limitedReader struct {
	body  io.Reader
	in    *countingReader
	read  int64
	max   int64
	ratio int64 // 0 is unlimited
	close func() error
}

func (c *limitedReader) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.read += int64(n)
	if c.read > c.max {
		return 0, fhir.Errorf(fhir.TooLarge, "ingest.Body", "the payload exceeds the limit of %d bytes", c.max)
	}
	if c.ratio > 0 && c.read > ratioFreeBytes && c.read > c.ratio*max(c.in.read, 1) {
		return 0, fhir.Errorf(fhir.TooLarge, "ingest.Body", "the payload exceeds the compression ratio of %d to 1",
			c.ratio)
	}
	if err != nil && err != io.EOF && fhir.KindOf(err) == fhir.Internal && c.ratio > 0 {
		err = &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Body", Err: err,
			Issues: []fhir.Issue{{Code: "structure", Diagnostics: "the compressed body is damaged"}}}
	}
	return n, err
}

func (c *limitedReader) Close() error {
	if c.close == nil {
		return nil
	}
	return c.close()
}

// spool copies r to a file. The file is removed from its directory, so that its
// data is freed when it is closed.
func spool(dir string, r io.Reader, limit int64) (*os.File, int64, error) {
	f, err := os.CreateTemp(dir, "spool-*")
	if err != nil {
		return nil, 0, fhir.Wrap("ingest.spool", err)
	}
	err = os.Remove(f.Name())
	var n int64
	if err == nil {
		n, err = io.Copy(f, io.LimitReader(r, limit+1))
	}
	if err == nil && n > limit {
		err = fhir.Errorf(fhir.TooLarge, "ingest.spool", "the archive exceeds the limit of %d bytes", limit)
	}
	if err != nil {
		if cerr := f.Close(); cerr != nil {
			err = &fhir.Error{Kind: fhir.KindOf(err), Op: "ingest.spool", Err: err}
		}
		return nil, 0, fhir.Wrap("ingest.spool", err)
	}
	return f, n, nil
}

// headSize is the length in bytes of the prefix of a payload that is hashed and
// passed to Adapter.Detect.
const headSize = 64 << 10
