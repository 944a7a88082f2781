package interaction_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// TestBucketsOfBlocks tests that the buckets of many blocks, some of which lie in one
// bucket, are those of the same measurements as documents. The control is a series with
// one sample more.
func TestBucketsOfBlocks(t *testing.T) {
	const n = 9_000 // three blocks, one sample per 30 s, with pauses: five days
	answer := func(n int, documents bool, ps ...string) []byte {
		var st store.Store
		st, err := pebblestore.Open("s", pebblestore.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		}()
		if documents {
			st = store.Documents{Store: st}
		}
		c := &series.Columns{}
		for i := range n {
			pauses := int64(i/700) * int64(i/700) * 900e6 // so that samples are not evenly spaced
			s := series.Sample{Start: benchSince.UnixMicro() + int64(i)*30e6 + pauses, End: series.NoEnd}
			s.Values[0] = series.Decimal{Mant: int64(60 + i%97)}
			c.Append(&s, 1)
		}
		for from := 0; from < n; from += 4500 {
			part := c.Slice(from, min(n, from+4500))
			if _, err := st.Commit(context.Background(), &store.Batch{Probed: st.LastSeq(),
				Series: []store.SeriesWrite{{Template: benchTemplate(), Columns: &part}}}); err != nil {
				t.Fatal(err)
			}
		}
		rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			t.Fatal(err)
		}
		svc := &interaction.Service{Store: st, Audit: rec, Clock: func() time.Time { return benchSince }, Rand: zeros{},
			Base: "https://pg.example/fhir"}
		rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "r", Grant: access.All()}},
			Line: "GET"}
		in := []interaction.Parameter{{Name: "subject", Value: "Patient/samples"},
			{Name: "coding", Value: "http://loinc.org|8867-4"}}
		for i := 0; i < len(ps); i += 2 {
			in = append(in, interaction.Parameter{Name: ps[i], Value: ps[i+1]})
		}
		page, err := svc.TimeBuckets(context.Background(), rq, in)
		if err != nil {
			t.Fatal(err)
		}
		return page.Bytes()
	}
	for _, ps := range [][]string{{"calendar", "day", "zone", "Europe/Berlin"}, {"calendar", "month", "zone", "UTC"},
		{"minutes", "5"}, {"calendar", "year", "zone", "UTC", "start", benchSince.AddDate(0, 0, 1).Format(time.RFC3339)}} {
		want, got := answer(n, true, ps...), answer(n, false, ps...)
		if !bytes.Equal(want, got) || !bytes.Contains(got, []byte(`"entry"`)) {
			t.Errorf("%v:\n%.2000s\nwant\n%.2000s", ps, got, want)
		}
		if more := answer(n+1, false, ps...); bytes.Equal(more, want) {
			t.Errorf("%v: a sample more makes no difference", ps)
		}
	}
}
