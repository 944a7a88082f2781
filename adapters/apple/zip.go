package apple

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/archive"
	"pulsegate/mapping/sample"
)

// decodeZip reads the XML document and the ECG files of an export. It compares
// the names in the archive but never uses them as paths.
func (a *adapter) decodeZip(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	z, err := archive.Open(formatZip, in, a.limits)
	if err != nil {
		return err
	}
	ex := &export{zip: z, in: in, sink: sink, routes: map[string]*archive.Entry{}}
	main, ecgs, err := ex.choose()
	if err != nil {
		return err
	}
	if main == nil {
		return &adapters.PayloadError{Format: formatZip, Where: "directory",
			Rule: "no HealthData document in the archive"}
	}
	entries := append([]*archive.Entry{main}, ecgs...)
	if err := z.CheckOverlap(slices.AppendSeq(entries, maps.Values(ex.routes))); err != nil {
		return err
	}
	if err := ex.xml(ctx, main); err != nil {
		return err
	}
	for _, e := range ecgs {
		if err := ex.ecg(ctx, e); err != nil {
			return err
		}
	}
	sink.Progress(ex.read)
	return nil
}

// export is the state of decoding one archive.
type export struct {
	zip  *archive.Archive
	in   adapters.Input
	sink adapters.Sink
	read int64 // inflated bytes read so far
	// routes holds the GPX files by their names. A workout refers to them, and only
	// their summaries are kept.
	routes map[string]*archive.Entry
}

// choose finds the XML document and the ECG files and counts the files that it
// leaves out. It recognizes the document by its content because Apple localizes
// the name.
func (a *export) choose() (main *archive.Entry, ecgs []*archive.Entry, err error) {
	for _, e := range a.zip.Entries() {
		base, dir := path.Base(e.Name), path.Dir(e.Name)
		ext := strings.ToLower(path.Ext(base))
		switch {
		case !e.IsData():
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
	slices.SortStableFunc(ecgs, func(a, b *archive.Entry) int { return cmp.Compare(a.Name, b.Name) })
	return main, ecgs, nil
}

// sniff reports whether e is a HealthData document.
func (a *export) sniff(e *archive.Entry) (bool, error) {
	var head []byte
	err := a.zip.Read(e, func(r *archive.Reader) error {
		var err error
		head, err = bufio.NewReaderSize(r, headSize).Peek(headSize)
		if err == io.EOF {
			return nil
		}
		return err
	})
	return err == nil && isHealthData(head), err
}

// xml decodes the HealthData document e.
func (a *export) xml(ctx context.Context, e *archive.Entry) error {
	return a.zip.Read(e, func(r *archive.Reader) error {
		n, readErr, err := decodeXML(ctx, a.in, formatZip, r, a.sink, a.read, a.route)
		r.Err = readErr // the read-ahead may have met an error that the decoder never saw
		a.read += n
		return err
	})
}

// route summarizes the GPX file that a workout refers to. A file that is missing
// or that cannot be read has no summary. The document is read ahead meanwhile.
func (a *export) route(name string, c *clock) (out route) {
	e := a.routes[path.Base(name)]
	if e == nil {
		return route{}
	}
	err := a.zip.Read(e, func(r *archive.Reader) (err error) {
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
func (a *export) ecg(ctx context.Context, e *archive.Entry) error {
	err := a.zip.Read(e, func(r *archive.Reader) error {
		in := a.in
		in.Body = r
		return decodeECG(ctx, in, formatECG, a.sink)
	})
	a.read += int64(min(e.UncompressedSize64, 1<<40))
	var pe *adapters.PayloadError
	if errors.As(err, &pe) && pe.Format == formatECG {
		return a.sink.Reject(&sample.Reject{
			Reason: sample.ReasonBadValue, Metric: metricECG, Where: e.Where() + ", " + pe.Where, Detail: pe.Rule,
		})
	}
	return err
}
