package pebblestore

import (
	"encoding/binary"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

const (
	flagDeleted = 1 << iota
	flagCreated
	flagMoved  // I: version 1 of what was a sample
	flagSeries // L: samples of one series
	flagForm   // D: kept by form
)

// doc is a decoded D value.
type doc struct {
	to             store.Seq
	deleted        bool
	version        uint64
	updated        int64 // Unix ms
	vendor, author string
	categories     []string
	json           []byte
	// formed: instead of json there is its form and what is its own.
	formed bool
	form   [16]byte
	own    []byte
}

func (d *doc) encode() []byte {
	b := make([]byte, 0, len(d.json)+len(d.own)+96)
	b = appendU64(b, uint64(d.to))
	f := flags(d.deleted, false)
	if d.formed {
		f |= flagForm
	}
	b = append(b, f)
	b = binary.AppendUvarint(b, d.version)
	b = binary.AppendVarint(b, d.updated)
	b = appendText(appendText(b, d.vendor), d.author)
	b = binary.AppendUvarint(b, uint64(len(d.categories)))
	for _, c := range d.categories {
		b = appendText(b, c)
	}
	if d.formed {
		return append(append(b, d.form[:]...), d.own...)
	}
	return append(b, d.json...)
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

// decodeDoc reads a D value; json and own alias v.
func decodeDoc(v []byte) (d doc, err error) { return new(recent).decodeDoc(v) }

func (last *recent) decodeDoc(v []byte) (d doc, err error) {
	r := reader{b: v}
	d.to = store.Seq(r.u64())
	f := r.byte()
	d.deleted, d.formed = f&flagDeleted != 0, f&flagForm != 0
	d.version, d.updated = r.uvarint(), r.varint()
	d.vendor, d.author = r.same(&last.vendor), r.same(&last.author)
	d.categories = r.sameTexts(last)
	if d.formed {
		copy(d.form[:], r.take(16))
		d.own = r.b
	} else {
		d.json = r.b
	}
	if r.bad {
		return d, errRow
	}
	return d, nil
}

// pointer is a decoded I value.
type pointer struct {
	place
	t       store.Seq
	version uint64
	deleted bool
	// moved: it is version 1 of what was a sample of series.
	moved  bool
	series series.SeriesID
	hash   [16]byte
}

func (p *pointer) encode() []byte {
	b := binary.AppendUvarint(nil, p.version)
	f := flags(p.deleted, false)
	if p.moved {
		f |= flagMoved
	}
	b = append(b, f)
	b = append(b, p.hash[:]...)
	if p.moved {
		b = append(b, p.series[:]...)
	}
	return p.place.append(b)
}

func decodePointer(key, v []byte) (p pointer, err error) {
	r := reader{b: v}
	p.version = r.uvarint()
	f := r.byte()
	p.deleted, p.moved = f&flagDeleted != 0, f&flagMoved != 0
	copy(p.hash[:], r.take(16))
	if p.moved {
		copy(p.series[:], r.take(8))
	}
	var ok bool
	if p.place, _, ok = takePlace(r.b); !ok || r.bad || len(key) < 8 {
		return p, errRow
	}
	p.t = uninverse(binary.BigEndian.Uint64(key[len(key)-8:]))
	return p, nil
}

// entry is a row of the change log.
type entry struct {
	place
	typ, id          string
	version          uint64
	created, deleted bool
	vendor, author   string
	categories       []string
}

func (e *entry) encode() []byte {
	b := []byte{flags(e.deleted, e.created)}
	b = binary.AppendUvarint(b, e.version)
	b = appendText(appendText(b, e.typ), e.id)
	b = appendText(appendText(b, e.vendor), e.author)
	b = binary.AppendUvarint(b, uint64(len(e.categories)))
	for _, c := range e.categories {
		b = appendText(b, c)
	}
	return e.place.append(b)
}

// samplesEntry is an L row that stands for samples of one series.
type samplesEntry struct {
	place
	id         series.SeriesID
	count      uint64
	first, end int64 // least and greatest start, Unix microseconds
}

func (e *samplesEntry) encode() []byte {
	b := append([]byte{flagSeries}, e.id[:]...)
	b = binary.AppendUvarint(b, e.count)
	b = binary.AppendVarint(binary.AppendVarint(b, e.first), e.end)
	return e.place.append(b)
}

func decodeSamplesEntry(v []byte) (e samplesEntry, err error) {
	r := reader{b: v}
	r.byte()
	copy(e.id[:], r.take(8))
	e.count, e.first, e.end = r.uvarint(), r.varint(), r.varint()
	var ok bool
	if e.place, _, ok = takePlace(r.b); !ok || r.bad {
		return e, errRow
	}
	return e, nil
}

func decodeEntry(v []byte) (e entry, err error) {
	r := reader{b: v}
	f := r.byte()
	e.deleted, e.created = f&flagDeleted != 0, f&flagCreated != 0
	e.version = r.uvarint()
	e.typ, e.id = r.text(), r.text()
	e.vendor, e.author = r.text(), r.text()
	e.categories = r.texts()
	var ok bool
	if e.place, _, ok = takePlace(r.b); !ok || r.bad {
		return e, errRow
	}
	return e, nil
}

// resource builds what callers get of a version.
func (d *doc) resource(typ, id string) fhir.Resource {
	r := fhir.Resource{Type: typ, ID: id, Version: d.version, LastUpdated: time.UnixMilli(d.updated).UTC(),
		Deleted: d.deleted}
	if !d.deleted {
		r.JSON = d.json[:len(d.json):len(d.json)]
	}
	return r
}

// visible looks at to-T before anything is decoded.
func visible(v []byte, from, at store.Seq) bool {
	if len(v) < 8 || from > at {
		return false
	}
	to := store.Seq(binary.BigEndian.Uint64(v))
	return to == 0 || to > at
}

// isSeriesChange reports whether an L value is that of samples.
func isSeriesChange(v []byte) bool { return len(v) > 0 && v[0]&flagSeries != 0 }
