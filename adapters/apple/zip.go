package apple

import (
	"archive/zip"
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/klauspost/compress/flate"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

const (
	defaultEntries = 200_000
	defaultBytes   = 64 << 30
	defaultRatio   = 300
	ratioFree      = 64 << 20
)

var (
	errBomb = errors.New("an entry inflates over the limit")
	errSize = errors.New("the archive inflates over the limit")
)

// decodeZip reads the export's XML and its ECG files. Names in the archive
// are only looked at, never used as paths.
func (a *Adapter) decodeZip(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	fail := func(where, rule string, err error) error {
		return &adapters.PayloadError{Format: formatZip, Where: where, Rule: rule, Err: err}
	}
	if in.At == nil {
		return fail("offset 0", "an archive needs random access: send it as a file, or send export.xml", nil)
	}
	z, err := zip.NewReader(in.At, in.Size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return fail("end of archive", "no readable zip directory", err)
	}
	z.RegisterDecompressor(zip.Deflate, flate.NewReader) // inflates a fifth to a third faster than compress/flate
	if len(z.File) > cmp.Or(a.Limits.Entries, defaultEntries) {
		return fail("directory", "too many entries", nil)
	}
	x := &archive{Adapter: a, in: in, sink: sink, left: cmp.Or(a.Limits.Bytes, defaultBytes)}
	main, ecgs, err := x.choose(z.File)
	if err != nil {
		return err
	}
	if main == nil {
		return fail("directory", "no HealthData document in the archive", nil)
	}
	if err := x.overlap(append([]*entry{main}, ecgs...)); err != nil {
		return err
	}
	if err := x.xml(ctx, main); err != nil {
		return err
	}
	for _, e := range ecgs {
		if err := x.ecg(ctx, e); err != nil {
			return err
		}
	}
	sink.Progress(x.read)
	return nil
}

type entry struct {
	*zip.File
	number int
}

func (e *entry) where() string { return "zip entry " + strconv.Itoa(e.number) }

type archive struct {
	*Adapter
	in   adapters.Input
	sink adapters.Sink
	left int64 // inflated bytes that may still come
	read int64
}

// choose finds the document by its content, because its name is localised,
// and counts what is left out.
func (x *archive) choose(files []*zip.File) (main *entry, ecgs []*entry, err error) {
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
			x.sink.Drop(sample.DropIgnored, "workout-route", 1)
		case path.Base(dir) == "clinical-records":
			x.sink.Drop(sample.DropIgnored, "clinical-record", 1)
		case ext != ".xml":
			x.sink.Drop(sample.DropIgnored, "file", 1)
		default:
			is, err := x.sniff(e)
			if err != nil {
				return nil, nil, err
			}
			if !is || main != nil {
				x.sink.Drop(sample.DropIgnored, "file", 1)
				continue
			}
			main = e
		}
	}
	slices.SortStableFunc(ecgs, func(a, b *entry) int { return cmp.Compare(a.Name, b.Name) })
	return main, ecgs, nil
}

func (x *archive) sniff(e *entry) (bool, error) {
	var head []byte
	err := x.open(e, func(r *guard) error {
		var err error
		head, err = bufio.NewReaderSize(r, headSize).Peek(headSize)
		if err == io.EOF {
			return nil
		}
		return err
	})
	return err == nil && isHealthData(head), err
}

// overlap refuses entries that share bytes: the trick of small bombs.
func (x *archive) overlap(entries []*entry) error {
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

// open inflates e under the limits. Errors of use pass; those of the archive
// become payload errors that name the entry.
func (x *archive) open(e *entry, use func(*guard) error) error {
	rc, err := e.Open()
	if err != nil {
		return &adapters.PayloadError{Format: formatZip, Where: e.where(), Rule: "the entry cannot be opened", Err: err}
	}
	g := &guard{r: rc, x: x, limit: ratioFree + int64(min(e.CompressedSize64, 1<<50))*cmp.Or(x.Limits.Ratio,
		defaultRatio)}
	err = use(g)
	if closeErr := rc.Close(); err == nil && closeErr != nil {
		err = closeErr
	}
	if g.err != nil && g.err != io.EOF {
		rule := "the entry cannot be inflated"
		if g.err == errBomb || g.err == errSize {
			rule = g.err.Error()
		}
		return &adapters.PayloadError{Format: formatZip, Where: e.where(), Rule: rule, Err: g.err}
	}
	return err
}

// guard counts what an entry inflates to.
type guard struct {
	r     io.Reader
	x     *archive
	n     int64
	limit int64
	err   error
}

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.r.Read(p)
	g.n += int64(n)
	g.x.left -= int64(n)
	switch {
	case g.n > g.limit:
		err = errBomb
	case g.x.left < 0:
		err = errSize
	}
	g.err = err
	return n, err
}

func (x *archive) xml(ctx context.Context, e *entry) error {
	return x.open(e, func(g *guard) error {
		n, told, err := decodeXML(ctx, x.in, formatZip, g, x.sink, x.read)
		g.err = told // of an error further on the decoder knows nothing
		x.read += n
		return err
	})
}

// ecg reads one recording; a broken one is one bad item.
func (x *archive) ecg(ctx context.Context, e *entry) error {
	err := x.open(e, func(g *guard) error {
		in := x.in
		in.Body = g
		return decodeECG(ctx, in, formatECG, x.sink)
	})
	x.read += int64(min(e.UncompressedSize64, 1<<40))
	var pe *adapters.PayloadError
	if errors.As(err, &pe) && pe.Format == formatECG {
		return x.sink.Reject(&sample.Reject{
			Reason: sample.ReasonBadValue, Metric: metricECG, Where: e.where() + ", " + pe.Where, Detail: pe.Rule,
		})
	}
	return err
}
