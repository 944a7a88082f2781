package pebblestore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/salvage"
)

func allOf(types ...string) access.Filter {
	g := &access.Grant{Recipient: "test", AllPatients: true}
	for _, t := range types {
		g.Rules = append(g.Rules, access.Rule{Type: t, May: access.Search | access.Read})
	}
	return g.Filter(access.Search)
}

// population is a store of many patients with documents and samples.
type population struct {
	t     *testing.T
	d     *DB
	fs    *vfs.MemFS
	clock *clocktest.Clock
	// opts holds further options of the store. open sets the file system and the
	// clock.
	opts Options
}

const (
	popPatients  = 40
	popDocuments = 60   // per patient
	popSamples   = 2000 // per patient
)

func newPopulation(t *testing.T, opts ...Options) *population {
	p := &population{t: t, opts: append(opts, Options{})[0], fs: vfs.NewMem(),
		clock: clocktest.At(time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC))}
	p.open()
	for i := range popPatients {
		id := fmt.Sprintf("p%02d", i)
		p.commit(store.Write{Resource: fhir.Resource{Type: "Patient", ID: id,
			JSON: []byte(fhir.Prefix("Patient", id) + `},"gender":"other"}`)}})
		p.samples(id)
	}
	for n := range popDocuments {
		for i := range popPatients {
			p.commit(p.document(fmt.Sprintf("p%02d", i), n))
		}
	}
	return p
}

func (p *population) open() {
	p.t.Helper()
	p.opts.FS, p.opts.Clock = p.fs, p.clock.Now
	d, err := Open("s", p.opts)
	if err != nil {
		p.t.Fatal(err)
	}
	p.d = d
}

func (p *population) commit(ws ...store.Write) store.Seq {
	p.t.Helper()
	p.clock.Add(time.Second)
	r, err := p.d.Commit(context.Background(), &store.Batch{Writes: ws})
	if err != nil {
		p.t.Fatal(err)
	}
	return r.Seq
}

// document returns the n-th document of a patient. Older ones are written later.
func (p *population) document(patient string, n int) store.Write {
	id := fmt.Sprintf("d-%s-%03d", patient, n)
	at := time.Date(2026, 2, 28, 6, 0, 0, 0, time.UTC).Add(-time.Duration(n) * 7 * time.Hour)
	body := fhir.Prefix("Observation", id) +
		fmt.Sprintf(`},"identifier":[{"system":"urn:i","value":"%s"},{"system":"urn:i","value":"all"}],"status":"final","code":{"coding":[{"system":"urn:c","code":"weight"},{"system":"urn:v","code":"BodyMass"}]},"subject":{"reference":"Patient/%s"},"effectiveDateTime":"%s","valueQuantity":{"value":%d}}`,
			id, patient, at.Format(time.RFC3339), (n*37)%1009)
	return store.Write{Resource: fhir.Resource{Type: "Observation", ID: id, JSON: []byte(body)}}
}

// samples writes a sample every five minutes, before the documents.
func (p *population) samples(patient string) {
	p.t.Helper()
	tpl := &series.Template{Class: series.Instant, Patient: patient, Vendor: "apple", Values: 1,
		Slots: []series.Slot{series.SlotID, series.SlotEffective, series.SlotValue},
		Parts: [][]byte{[]byte(`},"identifier":[{"system":"urn:x","value":"`),
			[]byte(`"}],"status":"final","code":{"coding":[{"system":"urn:c","code":"pulse"}]},"subject":{"reference":"Patient/` + patient + `"},`),
			[]byte(`,"valueQuantity":{"value":`), []byte(`}}`)}}
	copy(tpl.Identity[:], patient+"pulse")
	cols := &series.Columns{}
	start := time.Date(2026, 1, 10, 0, 0, 0, 0, time.UTC)
	for i := range popSamples {
		at := start.Add(time.Duration(i) * 5 * time.Minute).UnixMicro()
		cols.Append(&series.Sample{Start: at, End: series.NoEnd,
			Values: [4]series.Decimal{{Mant: int64(60 + i%40)}}}, 1)
	}
	p.clock.Add(time.Second)
	if _, err := p.d.Commit(context.Background(),
		&store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: cols}}, Probed: p.d.LastSeq()}); err != nil {
		p.t.Fatal(err)
	}
}

// find returns the ids that a search returns, and the number of rows it looked at.
func (p *population) find(raw string, limit int, after string,
	at store.Seq) (ids []string, last string, looked uint64) {
	p.t.Helper()
	typ, params, _ := strings.Cut(raw, "?")
	pairs, err := search.Pairs(params)
	if err != nil {
		p.t.Fatal(err)
	}
	q, err := search.Parse(typ, pairs, search.ParseOptions{})
	if err != nil {
		p.t.Fatal(err)
	}
	before := p.d.search.RowsRead()
	err = p.d.Find(context.Background(),
		store.Find{Query: q, Filter: allOf(typ), Limit: limit, After: after, At: at, Owner: "client"},
		func(f *store.Found) bool {
			ids, last = append(ids, f.Resource.ID), f.Pos
			return true
		})
	if err != nil {
		p.t.Fatalf("%s: %v", raw, err)
	}
	return ids, last, p.d.search.RowsRead() - before
}

// TestOrdersAreIndexOperations checks that the searches with which clients poll
// look at few rows of a store with 86,000 Observations.
func TestOrdersAreIndexOperations(t *testing.T) {
	p := newPopulation(t)
	defer p.d.Close()
	cut := p.clock.Now().Add(-4500 * time.Millisecond).UTC().Format(fhir.InstantLayout)
	for _, c := range []struct {
		raw  string
		want int // matches on the page of 10
		most uint64
	}{
		{"Observation?_lastUpdated=gt2027-01-01", 0, 10},
		{"Observation?_lastUpdated=gt" + cut, 5, 40},
		{"Observation?_lastUpdated=gt" + cut + "&_sort=_lastUpdated", 5, 40},
		{"Observation?_lastUpdated=gt" + cut + "&_sort=-_lastUpdated", 5, 40},
		{"Observation?_lastUpdated=gt" + cut + "&code=weight", 5, 40},
		{"Observation?_lastUpdated=gt" + cut + "&code=pulse&_sort=_lastUpdated", 0, 2048},
		{"Observation?_sort=-_lastUpdated", 10, 60},
		{"Observation?_sort=_lastUpdated", 10, 60},
		{"Observation?_sort=-_lastUpdated,_id", 10, 60},
		{"Patient?_sort=-_lastUpdated", 10, 60},
		{"Patient?_lastUpdated=gt" + cut, 0, 10},
		{"Observation?patient=p07&_sort=-_lastUpdated", 10, 60},
		{"Observation?patient=p07&_sort=_lastUpdated", 10, 60},
		{"Observation?patient=p07&_lastUpdated=gt" + cut, 0, 10},
		{"Observation?patient=p38&_lastUpdated=gt" + cut + "&_sort=-date", 1, 2 * popDocuments},
		{"Observation?patient=p07&identifier=urn:i|d-p07-003", 1, 2},
		{"Observation?patient=p07&identifier=urn:i|d-p08-003", 0, 2},
		{"Observation?patient=p07&code=weight&identifier=d-p07-003,d-p07-004,none", 2, 4},
		{"Observation?_sort=-date", 10, 4 * popPatients},
		{"Observation?_sort=date", 10, 8 * popPatients},
		{"Observation?code=weight&_sort=-date", 10, 4 * popPatients},
		{"Observation?code=BodyMass&_sort=date", 10, 4 * popPatients},
		{"Observation?code=pulse&_sort=-date", 10, 8 * popPatients},
		{"Observation?code=none&_sort=date", 0, 200},
		{"Observation?date=ge2026-02-28T05:00:00Z&_sort=date", 10, 4 * popPatients},
		{"Observation?date=ge2026-01-12T05:00:00Z&date=lt2026-01-12T05:05:00Z&_sort=date", 10, 8 * popPatients},
	} {
		if ids, _, looked := p.find(c.raw, 10, "", 0); len(ids) != c.want || looked > c.most {
			t.Errorf("%s gave %d matches of %d and looked at %d rows of at most %d", c.raw, len(ids), c.want,
				looked, c.most)
		}
	}
	sound(t, p.d)
}

// TestOrdersArePagedByIndex checks that a later page looks at no more rows than the
// first.
func TestOrdersArePagedByIndex(t *testing.T) {
	p := newPopulation(t)
	defer p.d.Close()
	at := p.d.LastSeq()
	for _, raw := range []string{"Observation?_sort=-_lastUpdated", "Observation?_sort=-date",
		"Observation?code=weight&_sort=date", "Observation?patient=p03&_sort=_lastUpdated"} {
		all, _, _ := p.find(raw, 0, "", at)
		var paged []string
		after, most := "", uint64(0)
		for len(paged) < 1500 && len(paged) < len(all) {
			ids, last, looked := p.find(raw, 50, after, at)
			paged, after, most = append(paged, ids...), last, max(most, looked)
		}
		if !slices.Equal(paged, all[:len(paged)]) || most > 50*8+8*popPatients {
			t.Errorf("%s: the pages differ from the unpaged search, or looked at %d rows", raw, most)
		}
	}
}

// TestIdentifiersArePaged checks that pages of a patient's resources with an identifier
// are those of the unpaged search, whether few or many resources share it.
func TestIdentifiersArePaged(t *testing.T) {
	p := newPopulation(t)
	defer p.d.Close()
	for raw, want := range map[string]int{
		"Observation?patient=p03&identifier=urn:i|all":                          popDocuments,
		"Observation?patient=p03&identifier=d-p03-001,d-p03-002,d-p03-003":      3,
		"Observation?patient=p03&code=weight&identifier=d-p03-001,urn:x|,d-p04": 1,
	} {
		all, _, _ := p.find(raw, 0, "", 0)
		var paged []string
		after := ""
		for len(paged) < want {
			ids, last, _ := p.find(raw, 2, after, 0)
			if len(ids) == 0 {
				break
			}
			paged, after = append(paged, ids...), last
		}
		if len(all) != want || !slices.Equal(paged, all) {
			t.Errorf("%s gave %d matches in pages and %d in one, want %d", raw, len(paged), len(all), want)
		}
	}
}

// TestRebuildOrders deletes the U, V and W rows, rebuilds them as a salvage does
// and compares searches before and after.
func TestRebuildOrders(t *testing.T) {
	p := newPopulation(t)
	raws := []string{"Observation?_sort=-_lastUpdated", "Observation?patient=p05&_sort=_lastUpdated",
		"Observation?_sort=-date", "Patient?_sort=_lastUpdated", "AuditEvent?_sort=-_lastUpdated"}
	p.commit(auditEvent("a1", 1, false))
	p.commit(store.Write{Op: store.Remove, Resource: fhir.Resource{Type: "Observation", ID: "d-p05-003"}})
	var want [][]string
	for _, raw := range raws {
		ids, _, _ := p.find(raw, 3000, "", 0)
		want = append(want, ids)
	}
	b := p.d.pdb.NewBatch()
	for _, tab := range []byte{keys.TableUpdate, keys.TablePatientUpdate, keys.TableDay} {
		if err := b.DeleteRange([]byte{tab}, []byte{tab + 1}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Commit(pebble.Sync); err != nil {
		t.Fatal(err)
	}
	if err := salvage.RebuildOrders(p.d.pdb, p.d.templates, p.d.tier); err != nil {
		t.Fatal(err)
	}
	if err := p.d.Close(); err != nil {
		t.Fatal(err)
	}
	p.open()
	defer p.d.Close()
	sound(t, p.d)
	for i, raw := range raws {
		if ids, _, _ := p.find(raw, 3000, "", 0); !slices.Equal(ids, want[i]) {
			t.Errorf("%s differs after the rebuild", raw)
		}
	}
}

// TestOrdersAreChecked checks that Check reports a lost or changed row of the
// orders.
func TestOrdersAreChecked(t *testing.T) {
	p := newPopulation(t)
	defer p.d.Close()
	p.commit(auditEvent("a1", 1, false))
	sound(t, p.d)
	for _, tab := range []byte{keys.TableUpdate, keys.TablePatientUpdate, keys.TableDay} {
		n := 0
		it, err := p.d.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{tab}, UpperBound: []byte{tab + 1}})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			if n++; n%97 != 1 {
				continue
			}
			k, v := slices.Clone(it.Key()), slices.Clone(it.Value())
			for _, change := range []func() error{
				func() error { return p.d.pdb.Delete(k, pebble.NoSync) },
				func() error { return p.d.pdb.Set(k, []byte{1}, pebble.NoSync) },
			} {
				if err := change(); err != nil {
					t.Fatal(err)
				}
				if _, err := p.d.Commit(context.Background(),
					&store.Batch{State: []store.StateWrite{{Key: "x", Value: []byte("y")}}}); err != nil {
					t.Fatal(err)
				}
				found := 0
				if err := p.d.Check(context.Background(), func(string) { found++ }); err != nil {
					t.Fatal(err)
				}
				if found == 0 {
					t.Errorf("%c: row %d was lost or changed, and nothing was found", tab, n)
				}
			}
			if err := p.d.pdb.Set(k, v, pebble.NoSync); err != nil {
				t.Fatal(err)
			}
			if n > 300 {
				break
			}
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
