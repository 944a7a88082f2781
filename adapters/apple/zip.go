package apple

import (
	"archive/zip"
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/flate"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

const (
	defaultEntries = 200_000
	defaultBytes   = 64 << 30
	defaultRatio   = 300
	freeInflation  = 64 << 20 // inflated bytes of an entry that are exempt from the ratio
)

var (
	errBomb = errors.New("an entry inflates to more than the limit")
	errSize = errors.New("the archive inflates to more than the limit")
)

// decodeZip reads the XML document and the ECG files of an export. It compares
// the names in the archive but never uses them as paths.
func (a *adapter) decodeZip(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	fail := func(where, rule string, err error) error {
		return &adapters.PayloadError{Format: formatZip, Where: where, Rule: rule, Err: err}
	}
	if in.At == nil {
		return fail("offset 0", "an archive needs random access; send it as a file, or send its export.xml", nil)
	}
	z, err := zip.NewReader(in.At, in.Size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fail("end of archive", "no readable zip directory", err)
	}
	// klauspost's reader inflates 20 to 33 % faster than compress/flate.
	z.RegisterDecompressor(zip.Deflate, flate.NewReader)
	if len(z.File) > cmp.Or(a.limits.entries, defaultEntries) {
		return fail("directory", "too many entries", nil)
	}
	arc := &archive{limits: a.limits, in: in, sink: sink, routes: map[string]*entry{}}
	arc.left.Store(cmp.Or(a.limits.bytes, defaultBytes))
	main, ecgs, err := arc.choose(z.File)
	if err != nil {
		return err
	}
	if main == nil {
		return fail("directory", "no HealthData document in the archive", nil)
	}
	entries := append([]*entry{main}, ecgs...)
	if err := arc.checkOverlap(slices.AppendSeq(entries, maps.Values(arc.routes))); err != nil {
		return err
	}
	if err := arc.xml(ctx, main); err != nil {
		return err
	}
	for _, e := range ecgs {
		if err := arc.ecg(ctx, e); err != nil {
			return err
		}
	}
	sink.Progress(arc.read)
	return nil
}

// entry is a file of the archive with its number in the directory, from 1.
type entry struct {
	*zip.File
	number int
}

func (e *entry) where() string { return "zip entry " + strconv.Itoa(e.number) }

// archive is the state of decoding one archive.
type archive struct {
	limits limits
	in     adapters.Input
	sink   adapters.Sink
	left   atomic.Int64 // inflated bytes left under limits.bytes
	read   int64        // inflated bytes read so far
	// routes holds the GPX files by their names. A workout refers to them, and only
	// their summaries are kept.
	routes map[string]*entry
}

// choose finds the XML document and the ECG files and counts the files that it
// leaves out. It recognizes the document by its content because Apple localizes
// the name.
func (a *archive) choose(files []*zip.File) (main *entry, ecgs []*entry, err error) {
	for i, f := range files {
		e := &entry{f, i + 1}
		base, dir := path.Base(f.Name), path.Dir(f.Name)
		ext := strings.ToLower(path.Ext(base))
		switch {
		case !f.Mode().IsRegular(), strings.HasPrefix(f.Name, "__MACOSX/"), strings.HasPrefix(base, "._"),
			base == ".DS_Store":
		case ext == ".csv" && path.Base(dir) == "electrocardiograms":
			ecgs = append(ecgs, e)
		case ext == ".gpx":
			a.sink.Drop(sample.DropIgnored, "workout-route", 1)
			a.routes[base] = e
		case path.Base(dir) == "clinical-records":
			a.sink.Drop(sample.DropIgnored, "clinical-record", 1)
		case ext != ".xml":
			a.sink.Drop(sample.DropIgnored, "file", 1)
		default:
			is, err := a.sniff(e)
			if err != nil {
				return nil, nil, err
			}
			if !is || main != nil {
				a.sink.Drop(sample.DropIgnored, "file", 1)
				continue
			}
			main = e
		}
	}
	slices.SortStableFunc(ecgs, func(a, b *entry) int { return cmp.Compare(a.Name, b.Name) })
	return main, ecgs, nil
}

// sniff reports whether e is a HealthData document.
func (a *archive) sniff(e *entry) (bool, error) {
	var head []byte
	err := a.open(e, func(r *limitedReader) error {
		var err error
		head, err = bufio.NewReaderSize(r, headSize).Peek(headSize)
		if err == io.EOF {
			return nil
		}
		return err
	})
	return err == nil && isHealthData(head), err
}

// checkOverlap refuses archives in which entries share compressed bytes, as
// overlapping zip bombs do.
func (a *archive) checkOverlap(entries []*entry) error {
	type span struct{ from, to int64 }
	var spans []span
	for _, e := range entries {
		from, err := e.DataOffset()
		if err != nil {
			return &adapters.PayloadError{Format: formatZip, Where: e.where(), Rule: "no local header", Err: err}
		}
		spans = append(spans, span{from, from + int64(e.CompressedSize64)})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(spans); i++ {
		if spans[i].from < spans[i-1].to {
			return &adapters.PayloadError{Format: formatZip, Where: "directory", Rule: "entries overlap"}
		}
	}
	return nil
}

// open inflates e within the limits and passes the reader to use. Errors of use
// are returned unchanged; errors of the archive become payload errors that name
// the entry.
func (a *archive) open(e *entry, use func(*limitedReader) error) error {
	rc, err := e.Open()
	if err != nil {
		return &adapters.PayloadError{Format: formatZip, Where: e.where(), Rule: "the entry cannot be opened", Err: err}
	}
	ratio := cmp.Or(a.limits.ratio, defaultRatio)
	r := &limitedReader{src: rc, archive: a, limit: freeInflation + int64(min(e.CompressedSize64, 1<<50))*ratio}
	err = use(r)
	if closeErr := rc.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if r.err != nil && r.err != io.EOF {
		rule := "the entry cannot be inflated"
		if r.err == errBomb || r.err == errSize {
			rule = r.err.Error()
		}
		return &adapters.PayloadError{Format: formatZip, Where: e.where(), Rule: rule, Err: r.err}
	}
	return err
}

// limitedReader counts the inflated bytes of an entry and stops at the limits.
// err is the result of the last Read.
type limitedReader struct {
	src     io.Reader
	archive *archive
	read    int64
	limit   int64
	err     error
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.src.Read(p)
	r.read += int64(n)
	left := r.archive.left.Add(-int64(n))
	switch {
	case r.read > r.limit:
		err = errBomb
	case left < 0:
		err = errSize
	}
	r.err = err
	return n, err
}

// xml decodes the HealthData document e.
func (a *archive) xml(ctx context.Context, e *entry) error {
	return a.open(e, func(r *limitedReader) error {
		n, readErr, err := decodeXML(ctx, a.in, formatZip, r, a.sink, a.read, a.route)
		r.err = readErr // the read-ahead may have met an error that the decoder never saw
		a.read += n
		return err
	})
}

// route summarizes the GPX file that a workout refers to. A file that is missing
// or that cannot be read has no summary.
func (a *archive) route(name string, c *clock) (out route) {
	e := a.routes[path.Base(name)]
	if e == nil {
		return route{}
	}
	err := a.open(e, func(r *limitedReader) (err error) {
		out, err = gpxRoute(r, c)
		return err
	})
	if err != nil {
		return route{}
	}
	return out
}

// ecg reads one recording. A recording that cannot be read is rejected as one
// item; the rest of the archive is still read.
func (a *archive) ecg(ctx context.Context, e *entry) error {
	err := a.open(e, func(r *limitedReader) error {
		in := a.in
		in.Body = r
		return decodeECG(ctx, in, formatECG, a.sink)
	})
	a.read += int64(min(e.UncompressedSize64, 1<<40))
	var pe *adapters.PayloadError
	if errors.As(err, &pe) && pe.Format == formatECG {
		return a.sink.Reject(&sample.Reject{
			Reason: sample.ReasonBadValue, Metric: metricECG, Where: e.where() + ", " + pe.Where, Detail: pe.Rule,
		})
	}
	return err
}
