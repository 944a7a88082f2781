package wire

import (
	"encoding/binary"
	"slices"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// Flags of a write.
const (
	writeSkipSame = 1 << iota
	writeDeleted
	writeHash
	writeTemplate
	writeAll = 1<<iota - 1
)

// maxCuts bounds the cuts of a write. store.NewTemplate allows 64 parts.
const maxCuts = 2 * 64

// AppendBatch appends the encoding of a batch. It leaves out Write.Values, which the
// store extracts again, and of a Template everything that follows from the JSON and
// the cuts. It returns ErrBounds if the batch exceeds a bound or is not valid.
func (c *Codec) AppendBatch(dst []byte, b *store.Batch) ([]byte, error) {
	if max(len(b.Writes), len(b.State), len(b.Leaves), len(b.Guards), len(b.Touches)) > maxItems ||
		len(b.Series) > maxSeries {
		return dst, ErrBounds
	}
	dst = append(dst, b.ID[:]...)
	dst = binary.AppendUvarint(dst, uint64(b.Probed))
	dst = binary.AppendUvarint(dst, uint64(b.Seen))
	var err error
	samples := 0
	dst = binary.AppendUvarint(dst, uint64(len(b.Series)))
	for i := range b.Series {
		if samples += b.Series[i].Columns.Len(); samples > maxSamples {
			return dst, ErrBounds
		}
		if dst, err = c.appendSeries(dst, &b.Series[i]); err != nil {
			return dst, err
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Writes)))
	for i := range b.Writes {
		if dst, err = appendWrite(dst, &b.Writes[i]); err != nil {
			return dst, err
		}
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.State)))
	for i := range b.State {
		s := &b.State[i]
		dst = append(appendText(dst, s.Key), byte(s.Expect))
		dst = appendTime(appendBytes(appendBytes(dst, s.Value), s.Old), s.Expires)
	}
	dst = binary.AppendUvarint(dst, uint64(len(b.Leaves)))
	for _, l := range b.Leaves {
		dst = appendBytes(dst, l)
	}
	return appendTexts(appendTexts(dst, b.Guards), b.Touches), nil
}

func appendWrite(dst []byte, w *store.Write) ([]byte, error) {
	if w.Op > store.Remove || w.Expect > store.Fresh || w.Template != nil && !fits(w) ||
		w.Template == nil && len(w.Cuts) > 0 {
		return dst, ErrBounds
	}
	var flags byte
	for _, f := range [...]struct {
		bit byte
		set bool
	}{{writeSkipSame, w.SkipSame}, {writeDeleted, w.Resource.Deleted}, {writeHash, w.Hash != [16]byte{}},
		{writeTemplate, w.Template != nil}} {
		if f.set {
			flags |= f.bit
		}
	}
	dst = append(dst, byte(w.Op), byte(w.Expect), flags)
	dst = appendText(appendText(dst, w.Resource.Type), w.Resource.ID)
	dst = binary.AppendUvarint(dst, w.Resource.Version)
	dst = appendBytes(appendTime(dst, w.Resource.LastUpdated), w.Resource.JSON)
	dst = appendText(appendText(dst, w.Vendor), w.Author)
	dst = binary.AppendUvarint(dst, w.IfVersion)
	if flags&writeHash != 0 {
		dst = append(dst, w.Hash[:]...)
	}
	if w.Template != nil {
		dst = binary.AppendUvarint(dst, uint64(len(w.Cuts)))
		from := 0
		for _, at := range w.Cuts {
			dst = binary.AppendUvarint(dst, uint64(at-from))
			from = at
		}
	}
	return dst, nil
}

// fits reports whether the template follows from the JSON and the cuts.
func fits(w *store.Write) bool {
	return len(w.Cuts) <= maxCuts &&
		w.Template.Fits(w.Resource.JSON, len(fhir.Prefix(w.Resource.Type, w.Resource.ID)), w.Cuts)
}

func (c *Codec) appendSeries(dst []byte, w *store.SeriesWrite) ([]byte, error) {
	t, cols := w.Template, w.Columns
	if !valid(t) || len(cols.Values) != t.Values || len(cols.Commits) > 0 {
		return dst, ErrBounds
	}
	dst = append(dst, t.Identity[:]...)
	keyValue := byte(0)
	if t.KeyValue {
		keyValue = 1
	}
	dst = append(dst, byte(t.Class), keyValue)
	dst = binary.AppendUvarint(dst, t.Seed)
	dst = appendTexts(appendText(appendText(dst, t.Patient), t.Vendor), t.Categories)
	dst = binary.AppendUvarint(dst, uint64(t.Values))
	dst = appendText(dst, slotBytes(t.Slots))
	dst = appendTexts(dst, t.Parts)
	n := cols.Len()
	dst = binary.AppendUvarint(dst, uint64((n+blockSamples-1)/blockSamples))
	for from := 0; from < n; from += blockSamples {
		part := cols.Slice(from, min(from+blockSamples, n))
		block, err := c.blocks.Encode(nil, &part)
		if err != nil {
			return dst, ErrBounds
		}
		dst = appendText(dst, block)
	}
	return dst, nil
}

// blockSamples is the number of samples in an encoded block of columns.
const blockSamples = 4096

func slotBytes(slots []series.Slot) []byte {
	b := make([]byte, len(slots))
	for i, s := range slots {
		b[i] = byte(s)
	}
	return b
}

// valid reports whether a template is within the bounds that series.Template.Append
// relies on.
func valid(t *series.Template) bool {
	if t.Class > series.Long || t.Values < 0 || t.Values > series.MaxValues || len(t.Parts) > maxParts ||
		len(t.Categories) > maxParts || len(t.Parts) != len(t.Slots)+1 || len(t.Parts[0]) == 0 {
		return false
	}
	return !slices.ContainsFunc(t.Slots, func(s series.Slot) bool { return int(s) >= int(series.SlotValue)+t.Values })
}

// DecodeBatch decodes a batch, which shares the memory of b.
func (c *Codec) DecodeBatch(b []byte) (*store.Batch, error) {
	r := &reader{rest: b}
	out := &store.Batch{}
	copy(out.ID[:], r.take(len(out.ID)))
	out.Probed, out.Seen = store.Seq(r.uvarint()), store.Seq(r.uvarint())
	samples := 0
	for n := r.count(maxSeries); len(out.Series) < n && r.err == nil; {
		w := c.series(r)
		if w.Columns != nil {
			samples += w.Columns.Len()
		}
		if samples > maxSamples {
			r.fail()
		}
		out.Series = append(out.Series, w)
	}
	for n := r.count(maxItems); len(out.Writes) < n && r.err == nil; {
		out.Writes = append(out.Writes, r.write())
	}
	for n := r.count(maxItems); len(out.State) < n && r.err == nil; {
		s := store.StateWrite{Key: r.text()}
		s.Expect = store.StateExpect(r.enum(byte(store.StateEquals)))
		s.Value, s.Old, s.Expires = r.bytes(), r.bytes(), r.time()
		out.State = append(out.State, s)
	}
	for n := r.count(maxItems); len(out.Leaves) < n && r.err == nil; {
		out.Leaves = append(out.Leaves, r.bytes())
	}
	out.Guards, out.Touches = r.texts(maxItems), r.texts(maxItems)
	if err := r.end(); err != nil {
		return nil, err
	}
	return out, nil
}

func (r *reader) write() (w store.Write) {
	w.Op, w.Expect = store.Op(r.enum(byte(store.Remove))), store.Expect(r.enum(byte(store.Fresh)))
	flags := r.enum(writeAll)
	w.SkipSame = flags&writeSkipSame != 0
	w.Resource = fhir.Resource{Type: r.text(), ID: r.text(), Version: r.uvarint(), LastUpdated: r.time(),
		JSON: r.bytes(), Deleted: flags&writeDeleted != 0}
	w.Vendor, w.Author, w.IfVersion = r.text(), r.text(), r.uvarint()
	if flags&writeHash != 0 {
		copy(w.Hash[:], r.take(len(w.Hash)))
	}
	if flags&writeTemplate == 0 || r.err != nil {
		return w
	}
	at := 0
	for range r.count(maxCuts) {
		at += r.count(len(w.Resource.JSON))
		w.Cuts = append(w.Cuts, at)
	}
	from := len(fhir.Prefix(w.Resource.Type, w.Resource.ID))
	if w.Template = store.NewTemplate(w.Resource.JSON, from, w.Cuts); w.Template == nil {
		r.fail()
	}
	return w
}

func (c *Codec) series(r *reader) store.SeriesWrite {
	t, cols := &series.Template{}, &series.Columns{}
	copy(t.Identity[:], r.take(len(t.Identity)))
	t.Class, t.KeyValue, t.Seed = series.Class(r.enum(byte(series.Long))), r.enum(1) == 1, r.uvarint()
	t.Patient, t.Vendor, t.Categories = r.text(), r.text(), r.texts(maxParts)
	t.Values = r.count(series.MaxValues)
	for _, s := range r.take(r.count(maxParts)) {
		t.Slots = append(t.Slots, series.Slot(s))
	}
	for range r.count(maxParts) {
		t.Parts = append(t.Parts, r.take(r.count(len(r.rest))))
	}
	var block series.Columns
	for range r.count(maxSamples/blockSamples + 1) {
		b := r.take(r.count(len(r.rest)))
		if r.err != nil || c.blocks.Decode(b, &block) != nil || len(block.Values) != t.Values ||
			block.Len() > blockSamples || len(block.Commits) > 0 {
			r.fail()
			break
		}
		for i := range block.Len() {
			s := block.At(i)
			cols.Append(&s, t.Values)
		}
	}
	if r.err != nil || !valid(t) {
		r.fail()
		return store.SeriesWrite{}
	}
	if len(cols.Values) == 0 {
		cols.Values = make([][]series.Decimal, t.Values)
	}
	return store.SeriesWrite{Template: t, Columns: cols}
}
