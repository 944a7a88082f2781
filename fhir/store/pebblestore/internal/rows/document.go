package rows

import (
	"encoding/binary"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

const (
	flagDeleted = 1 << iota
	flagCreated
	flagMoved    // I row: version 1 of a former sample
	flagSeries   // L row: samples of one series
	flagTemplate // D row: stored as the slots of a template
)

// Document is a decoded D value.
type Document struct {
	EndSeq         store.Seq
	Deleted        bool
	Version        uint64
	Updated        int64 // Unix milliseconds
	Vendor, Author string
	Categories     []string
	JSON           []byte
	// Templated is set if Slots and TemplateID take the place of JSON.
	Templated  bool
	TemplateID [16]byte
	Slots      []byte
}

func (d *Document) Encode() []byte {
	b := make([]byte, 0, len(d.JSON)+len(d.Slots)+96)
	b = keys.AppendUint64(b, uint64(d.EndSeq))
	f := flags(d.Deleted, false)
	if d.Templated {
		f |= flagTemplate
	}
	b = append(b, f)
	b = binary.AppendUvarint(b, d.Version)
	b = binary.AppendVarint(b, d.Updated)
	b = AppendText(AppendText(b, d.Vendor), d.Author)
	b = binary.AppendUvarint(b, uint64(len(d.Categories)))
	for _, c := range d.Categories {
		b = AppendText(b, c)
	}
	if d.Templated {
		return append(append(b, d.TemplateID[:]...), d.Slots...)
	}
	return append(b, d.JSON...)
}

func flags(deleted, created bool) (f byte) {
	if deleted {
		f |= flagDeleted
	}
	if created {
		f |= flagCreated
	}
	return f
}

// decodeDocument decodes a D value. JSON and Slots alias v.
func decodeDocument(v []byte) (d Document, err error) { return new(Recent).decode(v) }

func (last *Recent) decode(v []byte) (d Document, err error) {
	r := Reader{Bytes: v}
	d.EndSeq = store.Seq(r.Uint64())
	f := r.Byte()
	d.Deleted, d.Templated = f&flagDeleted != 0, f&flagTemplate != 0
	d.Version, d.Updated = r.Uvarint(), r.Varint()
	d.Vendor, d.Author = r.same(&last.vendor), r.same(&last.author)
	d.Categories = r.sameTexts(last)
	if d.Templated {
		copy(d.TemplateID[:], r.Take(16))
		d.Slots = r.Bytes
	} else {
		d.JSON = r.Bytes
	}
	if r.Bad {
		return d, fault.ErrRow
	}
	return d, nil
}

// Pointer is a decoded I value: it points to the D row of a version.
type Pointer struct {
	keys.Location
	Seq     store.Seq
	Version uint64
	Deleted bool
	// Moved marks version 1 of a former sample of Series.
	Moved  bool
	Series series.SeriesID
	Hash   [16]byte
}

func (p *Pointer) Encode() []byte {
	b := binary.AppendUvarint(nil, p.Version)
	f := flags(p.Deleted, false)
	if p.Moved {
		f |= flagMoved
	}
	b = append(b, f)
	b = append(b, p.Hash[:]...)
	if p.Moved {
		b = append(b, p.Series[:]...)
	}
	return p.Location.Append(b)
}

// DecodePointer decodes an I row.
func DecodePointer(key, v []byte) (p Pointer, err error) {
	r := Reader{Bytes: v}
	p.Version = r.Uvarint()
	f := r.Byte()
	p.Deleted, p.Moved = f&flagDeleted != 0, f&flagMoved != 0
	copy(p.Hash[:], r.Take(16))
	if p.Moved {
		copy(p.Series[:], r.Take(8))
	}
	var ok bool
	if p.Location, _, ok = keys.CutLocation(r.Bytes); !ok || r.Bad || len(key) < 8 {
		return p, fault.ErrRow
	}
	p.Seq = keys.Uninverse(binary.BigEndian.Uint64(key[len(key)-8:]))
	return p, nil
}

// Change is an L row of a document.
type Change struct {
	keys.Location
	Type, ID         string
	Version          uint64
	Created, Deleted bool
	Vendor, Author   string
	Categories       []string
}

func (e *Change) Encode() []byte {
	b := []byte{flags(e.Deleted, e.Created)}
	b = binary.AppendUvarint(b, e.Version)
	b = AppendText(AppendText(b, e.Type), e.ID)
	b = AppendText(AppendText(b, e.Vendor), e.Author)
	b = binary.AppendUvarint(b, uint64(len(e.Categories)))
	for _, c := range e.Categories {
		b = AppendText(b, c)
	}
	return e.Location.Append(b)
}

// SeriesChange is an L row of the samples that a commit wrote of one series.
type SeriesChange struct {
	keys.Location
	Series      series.SeriesID
	Count       uint64
	First, Last int64 // least and greatest start in Unix microseconds
}

func (e *SeriesChange) Encode() []byte {
	b := append([]byte{flagSeries}, e.Series[:]...)
	b = binary.AppendUvarint(b, e.Count)
	b = binary.AppendVarint(binary.AppendVarint(b, e.First), e.Last)
	return e.Location.Append(b)
}

// DecodeSeriesChange decodes an L value of samples.
func DecodeSeriesChange(v []byte) (e SeriesChange, err error) {
	r := Reader{Bytes: v}
	r.Byte()
	copy(e.Series[:], r.Take(8))
	e.Count, e.First, e.Last = r.Uvarint(), r.Varint(), r.Varint()
	var ok bool
	if e.Location, _, ok = keys.CutLocation(r.Bytes); !ok || r.Bad {
		return e, fault.ErrRow
	}
	return e, nil
}

// DecodeChange decodes an L value of a document.
func DecodeChange(v []byte) (e Change, err error) {
	r := Reader{Bytes: v}
	f := r.Byte()
	e.Deleted, e.Created = f&flagDeleted != 0, f&flagCreated != 0
	e.Version = r.Uvarint()
	e.Type, e.ID = r.Text(), r.Text()
	e.Vendor, e.Author = r.Text(), r.Text()
	e.Categories = r.texts()
	var ok bool
	if e.Location, _, ok = keys.CutLocation(r.Bytes); !ok || r.Bad {
		return e, fault.ErrRow
	}
	return e, nil
}

// Resource returns the version as the store's callers see it.
func (d *Document) Resource(typ, id string) fhir.Resource {
	r := fhir.Resource{Type: typ, ID: id, Version: d.Version, LastUpdated: time.UnixMilli(d.Updated).UTC(),
		Deleted: d.Deleted}
	if !d.Deleted {
		r.JSON = d.JSON[:len(d.JSON):len(d.JSON)]
	}
	return r
}

// Visible reports whether the version of a D, P or X value, written by the commit
// from, is current at the commit at. It decodes nothing but the end of the version.
func Visible(v []byte, from, at store.Seq) bool {
	if len(v) < 8 || from > at {
		return false
	}
	to := store.Seq(binary.BigEndian.Uint64(v))
	return to == 0 || to > at
}

// DeletedIn reports whether a D value is that of a deletion marker. It decodes nothing else.
func DeletedIn(v []byte) bool { return len(v) > 8 && v[8]&flagDeleted != 0 }

// IsSeriesChange reports whether v is an L value of samples.
func IsSeriesChange(v []byte) bool { return len(v) > 0 && v[0]&flagSeries != 0 }
