package wire

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/sharedlog"
)

func codec(t testing.TB) *Codec {
	c, err := NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var (
	genText  = rapid.SampledFrom([]string{"", "x", "Patient", "ä€\x00\xff", "a longer text, with spaces"})
	genBytes = rapid.Custom(func(t *rapid.T) []byte {
		if rapid.Bool().Draw(t, "absent") {
			return nil
		}
		return rapid.SliceOfN(rapid.Byte(), 0, 20).Draw(t, "bytes")
	})
	genTime = rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		return time.Unix(rapid.Int64Range(-1e10, 1e11).Draw(t, "s"), rapid.Int64Range(0, 999999999).Draw(t, "ns")).UTC()
	})
	genTexts = rapid.Custom(func(t *rapid.T) []string {
		s := rapid.SliceOfN(genText, 0, 3).Draw(t, "texts")
		if len(s) == 0 {
			return nil
		}
		return s
	})
	genSeq = rapid.Custom(func(t *rapid.T) store.Seq { return store.Seq(rapid.Uint64().Draw(t, "seq")) })
)

func genWrite(t *rapid.T) (w store.Write) {
	w.Op = store.Op(rapid.IntRange(0, 1).Draw(t, "op"))
	w.Expect = store.Expect(rapid.IntRange(0, 4).Draw(t, "expect"))
	w.IfVersion = rapid.Uint64().Draw(t, "ifVersion")
	w.SkipSame = rapid.Bool().Draw(t, "skipSame")
	w.Vendor, w.Author = genText.Draw(t, "vendor"), genText.Draw(t, "author")
	if rapid.Bool().Draw(t, "hash") {
		w.Hash = [16]byte(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "bytes"))
	}
	w.Resource = fhir.Resource{Type: genText.Draw(t, "type"), ID: genText.Draw(t, "id"), JSON: genBytes.Draw(t, "json"),
		Version: rapid.Uint64().Draw(t, "version"), LastUpdated: genTime.Draw(t, "updated"),
		Deleted: rapid.Bool().Draw(t, "deleted")}
	if rapid.Bool().Draw(t, "template") {
		p := fhir.Prefix(w.Resource.Type, w.Resource.ID)
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "body")
		w.Resource.JSON = append([]byte(p), body...)
		n := 2 * rapid.IntRange(0, 5).Draw(t, "slots")
		cuts := rapid.SliceOfN(rapid.IntRange(len(p), len(w.Resource.JSON)), n, n).Draw(t, "cuts")
		slices.Sort(cuts)
		if n > 0 {
			w.Cuts = cuts
		}
		w.Template = store.NewTemplate(w.Resource.JSON, len(p), w.Cuts)
	}
	return w
}

func genSeries(t *rapid.T) store.SeriesWrite {
	tm := &series.Template{Class: series.Class(rapid.IntRange(0, 3).Draw(t, "class")),
		KeyValue: rapid.Bool().Draw(t, "keyValue"), Seed: rapid.Uint64().Draw(t, "seed"),
		Patient: genText.Draw(t, "patient"), Vendor: genText.Draw(t, "vendor"), Categories: genTexts.Draw(t, "categories"),
		Values: rapid.IntRange(0, series.MaxValues).Draw(t, "values")}
	copy(tm.Identity[:], rapid.SliceOfN(rapid.Byte(), 9, 9).Draw(t, "identity"))
	tm.Parts = [][]byte{[]byte("}")}
	for range rapid.IntRange(0, 4).Draw(t, "slots") {
		tm.Slots = append(tm.Slots, series.Slot(rapid.IntRange(0, 1+tm.Values).Draw(t, "slot")))
		tm.Parts = append(tm.Parts, rapid.SliceOfN(rapid.Byte(), 0, 9).Draw(t, "part"))
	}
	cols := &series.Columns{Values: make([][]series.Decimal, tm.Values)}
	n := rapid.SampledFrom([]int{0, 1, 3, blockSamples, blockSamples + 1}).Draw(t, "samples")
	ends := rapid.IntRange(0, 2).Draw(t, "ends")
	for i := range n {
		s := series.Sample{Start: int64(i) * 1e6, End: series.NoEnd, Off: int16(rapid.IntRange(-720, 720).Draw(t, "off"))}
		if ends > 0 && i%ends == 0 {
			s.End, s.EndOff = s.Start+1000, -s.Off
		}
		for v := range tm.Values {
			s.Values[v] = series.Decimal{Mant: int64(i * 7 % 90), Scale: uint8(i % 3)}
		}
		cols.Append(&s, tm.Values)
	}
	return store.SeriesWrite{Template: tm, Columns: cols}
}

func genBatch(t *rapid.T) *store.Batch {
	b := &store.Batch{Probed: genSeq.Draw(t, "probed"), Seen: genSeq.Draw(t, "seen"),
		Guards: genTexts.Draw(t, "guards"), Touches: genTexts.Draw(t, "touches")}
	copy(b.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	for range rapid.IntRange(0, 2).Draw(t, "series") {
		b.Series = append(b.Series, genSeries(t))
	}
	for range rapid.IntRange(0, 4).Draw(t, "writes") {
		b.Writes = append(b.Writes, genWrite(t))
	}
	for range rapid.IntRange(0, 3).Draw(t, "state") {
		b.State = append(b.State, store.StateWrite{Key: genText.Draw(t, "key"), Value: genBytes.Draw(t, "value"),
			Expect: store.StateExpect(rapid.IntRange(0, 2).Draw(t, "expect")), Old: genBytes.Draw(t, "old"),
			Expires: genTime.Draw(t, "expires")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "leaves") {
		b.Leaves = append(b.Leaves, genBytes.Draw(t, "leaf"))
	}
	return b
}

func TestBatchRoundTrip(t *testing.T) {
	c := codec(t)
	rapid.Check(t, func(t *rapid.T) {
		b := genBatch(t)
		enc, err := c.AppendBatch([]byte("before"), b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.DecodeBatch(enc[len("before"):])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, b) {
			t.Fatalf("decoded %+v\nwant %+v", got, b)
		}
		// Every prefix is refused, or is a whole batch, which only the whole is.
		cut := rapid.IntRange(0, len(enc)-len("before")-1).Draw(t, "cut")
		if _, err := c.DecodeBatch(enc[len("before") : len("before")+cut]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", cut, len(enc)-len("before"))
		}
	})
}

// TestFieldsKnown fails when a type gains a field, so that the encoding and the
// version of the protocol are reconsidered.
func TestFieldsKnown(t *testing.T) {
	for _, tc := range []struct {
		value  any
		fields int
	}{{store.Batch{}, 10}, // Sent is the time of one process, and is not encoded
		{store.Write{}, 11}, {store.StateWrite{}, 5}, {store.SeriesWrite{}, 2}, {store.Result{}, 3},
		{store.Outcome{}, 7}, {fhir.Resource{}, 6}, {fhir.Issue{}, 6}, {fhir.Error{}, 4}, {series.Template{}, 10},
		{series.Columns{}, 6}, {store.Template{}, 3}} {
		if n := reflect.TypeOf(tc.value).NumField(); n != tc.fields {
			t.Errorf("%T has %d fields, want %d: encode the new field, and raise relay's protocol", tc.value, n, tc.fields)
		}
	}
}

func TestBounds(t *testing.T) {
	c := codec(t)
	one := &series.Template{Parts: [][]byte{[]byte("}")}}
	many := &series.Columns{Start: make([]int64, maxSamples+1), Off: make([]int16, maxSamples+1)}
	cuts := store.NewTemplate([]byte(fhir.Prefix("Patient", "p")+"}}"), len(fhir.Prefix("Patient", "p")), nil)
	for name, b := range map[string]*store.Batch{
		"writes":  {Writes: make([]store.Write, maxItems+1)},
		"state":   {State: make([]store.StateWrite, maxItems+1)},
		"series":  {Series: make([]store.SeriesWrite, maxSeries+1)},
		"samples": {Series: []store.SeriesWrite{{Template: one, Columns: many}}},
		"values":  {Series: []store.SeriesWrite{{Template: &series.Template{Values: 9}, Columns: &series.Columns{}}}},
		"slots":   {Series: []store.SeriesWrite{{Template: &series.Template{}, Columns: &series.Columns{}}}},
		"commits": {Series: []store.SeriesWrite{{Template: one,
			Columns: &series.Columns{Commits: make([]series.Commit, 1)}}}},
		"operation": {Writes: []store.Write{{Op: 7}}},
		"expect":    {Writes: []store.Write{{Expect: 7}}},
		"template":  {Writes: []store.Write{{Template: cuts, Resource: fhir.Resource{JSON: []byte("{}")}}}},
	} {
		if _, err := c.AppendBatch(nil, b); !errors.Is(err, ErrBounds) {
			t.Errorf("%s: %v, want ErrBounds", name, err)
		}
	}
}

func TestResultRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		of := &store.Batch{}
		want := store.Result{Seq: genSeq.Draw(t, "seq"), LeafIndex: rapid.Uint64().Draw(t, "leaf")}
		for i := range rapid.IntRange(0, 4).Draw(t, "writes") {
			ref := fhir.Ref{Type: "Patient", ID: fmt.Sprint(i)}
			body := []byte(fhir.Prefix(ref.Type, ref.ID) + "}}")
			of.Writes = append(of.Writes, store.Write{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, JSON: body}})
			want.Outcomes = append(want.Outcomes, store.Outcome{Ref: ref, Version: rapid.Uint64().Draw(t, "version"),
				LastUpdated: genTime.Draw(t, "updated"), Created: rapid.Bool().Draw(t, "created"),
				Unchanged: rapid.Bool().Draw(t, "unchanged"), Deleted: rapid.Bool().Draw(t, "deleted")})
			if o := &want.Outcomes[i]; rapid.Bool().Draw(t, "json") {
				o.JSON = fhir.Stamp(body, ref.Type, ref.ID, o.Version, o.LastUpdated)
			}
		}
		enc := AppendResult(nil, &want)
		got, err := DecodeResult(enc, of)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("decoded %+v, %v\nwant %+v", got, err, want)
		}
		of.Writes = append(of.Writes, store.Write{})
		if _, err := DecodeResult(enc, of); err == nil {
			t.Fatal("the result of another batch was accepted")
		}
	})
}

func TestEntryRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bytes := rapid.SliceOf(rapid.Byte())
		want := &sharedlog.Entry{Index: rapid.Uint64().Draw(t, "index"), Epoch: rapid.Uint64().Draw(t, "epoch"),
			Schema: uint32(rapid.IntRange(0, 1<<31-1).Draw(t, "schema")), Node: rapid.String().Draw(t, "node"),
			First: rapid.Uint64().Draw(t, "first"), Count: rapid.Uint64().Draw(t, "count"),
			Touched: rapid.SliceOf(rapid.String()).Draw(t, "touched"), Rows: bytes.Draw(t, "rows")}
		copy(want.Parent[:], bytes.Draw(t, "parent"))
		copy(want.Nonce[:], bytes.Draw(t, "nonce"))
		enc := AppendEntry(nil, want)
		got, err := DecodeEntry(enc)
		if err != nil || got.Sum() != want.Sum() {
			t.Fatalf("decoded %+v, %v\nwant %+v", got, err, want)
		}
		if _, err := DecodeEntry(enc[:rapid.IntRange(0, len(enc)-1).Draw(t, "cut")]); err == nil {
			t.Fatal("a part of an entry was accepted")
		}
		if _, err := DecodeEntry(append(enc, 0)); err == nil {
			t.Fatal("bytes after an entry were accepted")
		}
	})
}

func TestErrorRoundTrip(t *testing.T) {
	for k := fhir.Internal; k <= fhir.TooCostly; k++ {
		want := &fhir.Error{Kind: k, Op: "pebblestore.Commit", Err: errors.New("the cause"), Issues: []fhir.Issue{
			{Severity: "fatal", Code: "conflict", Diagnostics: "the resource has changed", Expression: []string{"a", "b"},
				Line: 3, Column: 9}, {Severity: "error"}}}
		got, ok := DecodeError(AppendError(nil, fmt.Errorf("outer: %w", want)))
		if !ok || !reflect.DeepEqual(got, want) {
			t.Errorf("decoded %+v, want %+v", got, want)
		}
	}
	got, ok := DecodeError(AppendError(nil, errors.New("plain")))
	if !ok || got.Kind != fhir.Internal || got.Err.Error() != "plain" {
		t.Errorf("a plain error became %+v", got)
	}
	want := fhir.Errorf(fhir.Gone, "op", "gone")
	if got, ok := DecodeError(AppendError(nil, want)); !ok || !reflect.DeepEqual(got, want) {
		t.Errorf("decoded %+v, want %+v", got, want)
	}
	if _, ok := DecodeError([]byte{byte(fhir.TooCostly) + 1, 0, 0, 0}); ok {
		t.Error("an unknown kind was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	c := codec(f)
	for _, seed := range []int{1, 2, 3, 4, 5, 6} {
		b := rapid.Custom(genBatch).Example(seed)
		enc, err := c.AppendBatch(nil, b)
		if err != nil {
			f.Fatal(err)
		}
		if len(enc) < 4096 {
			f.Add(enc)
		}
	}
	f.Add(AppendError(nil, fhir.Errorf(fhir.Gone, "op", "gone")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := c.DecodeBatch(slices.Clone(b)); err == nil {
			// An accepted batch can be encoded, and is decoded as the same batch.
			enc, err := c.AppendBatch(nil, got)
			if err != nil {
				t.Fatalf("accepted, but not encoded: %v", err)
			}
			again, err := c.DecodeBatch(enc)
			if err != nil || !reflect.DeepEqual(got, again) {
				t.Fatalf("%+v became %+v, %v", got, again, err)
			}
		}
		_, _ = DecodeResult(b, &store.Batch{Writes: make([]store.Write, 2)})
		_, _ = DecodeError(b)
	})
}
