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

// Limits of one payload.
type Limits struct {
	MaxBytes      int64 // decompressed size; 0: 8 GiB
	MaxRatio      int64 // decompressed to compressed; 0: 200
	MaxSpool      int64 // a zip that arrives as a stream; 0: 4 GiB
	Batch         int   // documents a commit; 0: 1000
	Samples       int   // samples of series a commit; 0: 65,536
	KeepPerMetric int   // quarantined items with raw bytes, per payload and metric; 0: 1000
	KeepRaw       int   // bytes of raw; 0: 64 KiB
}

func (l Limits) orDefault() Limits {
	def := func(v *int64, d int64) {
		if *v <= 0 {
			*v = d
		}
	}
	defInt := func(v *int, d int) {
		if *v <= 0 {
			*v = d
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

// runMemory bounds the memory in bytes of one payload under way: what an adapter
// reads ahead, a batch, and a zstd window.
const deliveryMemory = 48 << 20

// freeBytes may be decompressed before the ratio counts.
const ratioFreeBytes = 16 << 20

// Body undoes a Content-Encoding ("", identity, gzip, zstd) under limits on
// size and ratio. Reading beyond a limit gives a TooLarge error.
func Body(r io.Reader, contentEncoding string, limits Limits) (io.ReadCloser, error) {
	l := limits.orDefault()
	in := &countingReader{body: r}
	c := &limitedReader{in: in, max: l.MaxBytes}
	switch strings.ToLower(strings.TrimSpace(contentEncoding)) {
	case "", "identity":
		c.body = in
	case "gzip", "x-gzip":
		z, err := gzip.NewReader(bufio.NewReader(in))
		if err != nil {
			return nil, &fhir.Error{Kind: fhir.Invalid, Op: "ingest.Body", Err: err,
				Issues: []fhir.Issue{{Code: "structure", Diagnostics: "the body is not gzip"}}}
		}
		c.body, c.close, c.ratio = z, z.Close, l.MaxRatio
	case "zstd":
		z, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(64<<20),
			zstd.WithDecoderMaxWindow(32<<20))
		if err != nil {
			return nil, fhir.Wrap("ingest.Body", err)
		}
		c.body, c.ratio = z, l.MaxRatio
		c.close = func() error { z.Close(); return nil }
	default:
		return nil, fhir.Errorf(fhir.Unsupported, "ingest.Body", "Content-Encoding is gzip, zstd or identity")
	}
	return c, nil
}

type countingReader struct {
	body io.Reader
	read int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.read += int64(n)
	return n, err
}

type limitedReader struct {
	body  io.Reader
	in    *countingReader
	read  int64
	max   int64
	ratio int64 // 0: none
	close func() error
}

func (c *limitedReader) Read(p []byte) (int, error) {
	n, err := c.body.Read(p)
	c.read += int64(n)
	if c.read > c.max {
		return 0, fhir.Errorf(fhir.TooLarge, "ingest.Body", "the payload is over the limit of %d bytes", c.max)
	}
	if c.ratio > 0 && c.read > ratioFreeBytes && c.read > c.ratio*max(c.in.read, 1) {
		return 0, fhir.Errorf(fhir.TooLarge, "ingest.Body", "the payload is compressed more than %d to 1", c.ratio)
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

// spool copies a stream to a file that is removed from the folder at once;
// the data goes when it is closed.
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
		err = fhir.Errorf(fhir.TooLarge, "ingest.spool", "the archive is over the limit of %d bytes", limit)
	}
	if err != nil {
		if cerr := f.Close(); cerr != nil {
			err = &fhir.Error{Kind: fhir.KindOf(err), Op: "ingest.spool", Err: err}
		}
		return nil, 0, fhir.Wrap("ingest.spool", err)
	}
	return f, n, nil
}

const headSize = 64 << 10
