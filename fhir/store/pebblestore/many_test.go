package pebblestore

import (
	"context"
	"flag"
	"fmt"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

var many = flag.Int("many", 20_000, "documents of one patient in TestManyDocuments; 100000 and 1000000 take minutes")

// joined returns a clause with many values, as the evaluation of a chained parameter
// makes it.
func joined(t testing.TB, typ, param string, values []search.Value) search.Clause {
	t.Helper()
	p, ok := search.Lookup(typ, param)
	if !ok {
		t.Fatalf("%s has no parameter %s", typ, param)
	}
	c := search.Clause{Param: p, Values: values}
	c.Index()
	return c
}

// TestManyValuesOfAClause searches with clauses of thousands of values, of which one in
// four exists. The rows looked at are bounded by the values and the matches, whatever the
// order of the results and however they are paged.
func TestManyValuesOfAClause(t *testing.T) {
	const n, values = 3000, 10_000
	d := open(t, vfs.NewMem())
	defer d.Close()
	for i := 0; i < n; i += 500 {
		var b store.Batch
		for j := i; j < i+500; j++ {
			for typ, body := range map[string]string{
				"Encounter": `"status":"finished","subject":{"reference":"Patient/p%05d"},"basedOn":[{"reference":` +
					`"ServiceRequest/s%05d"},{"reference":"ServiceRequest/s%05[2]d0"}]`,
				"Observation": `"status":"final","code":{"coding":[{"code":"1"}]},"subject":{"reference":"Patient/p%05d"},` +
					`"encounter":{"reference":"Encounter/s%05d"},"performer":[{"reference":"Practitioner/s%05[2]d"}]`,
			} {
				id := fmt.Sprintf("d%05d", j)
				b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: typ, ID: id,
					JSON: []byte(fhir.Prefix(typ, id) + "}," + fmt.Sprintf(body, 4*j, 4*j) + "}")}})
			}
		}
		if _, err := d.Commit(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	ids := func(prefix, typ string) (out []search.Value) {
		for i := range values {
			v := search.Value{Code: fmt.Sprintf("%s%05d", prefix, i)}
			if typ != "" {
				v = search.Value{RefType: typ, RefID: v.Code, Code: "https://pulsegate.test/fhir/" + typ + "/" + v.Code}
			}
			out = append(out, v)
		}
		return out
	}
	for _, c := range []struct {
		typ, param string
		values     []search.Value
		want       int
	}{
		{"Encounter", "_id", ids("d", ""), n},
		{"Encounter", "subject", ids("p", "Patient"), values / 4},
		{"Encounter", "based-on", ids("s", "ServiceRequest"), values / 4},
		{"Observation", "_id", ids("d", ""), n},
		{"Observation", "subject", ids("p", "Patient"), values / 4},
		{"Observation", "encounter", ids("s", "Encounter"), values / 4},
		{"Observation", "performer", ids("s", "Practitioner"), values / 4},
	} {
		for _, sort := range [][]search.SortKey{nil, {{Param: "date"}}} {
			q := &search.Query{Type: c.typ, Sort: sort, Count: -1,
				Clauses: []search.Clause{joined(t, c.typ, c.param, c.values)}}
			all, looked := lookedFor(t, d, q, 0)
			slices.Sort(all)
			if all = slices.Compact(all); len(all) != c.want || looked > 3*values+3*n {
				t.Errorf("%s?%s of %d values, sorted by %v: %d matches, want %d; looked at %d rows", c.typ, c.param,
					values, sort, len(all), c.want, looked)
			}
			paged, after := 0, ""
			for range 2 {
				if err := d.Find(context.Background(), store.Find{Query: q, Limit: 100, After: after, Owner: "client",
					Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
					paged, after = paged+1, f.Pos
					return true
				}); err != nil {
					t.Fatal(err)
				}
			}
			if paged != 200 {
				t.Errorf("%s?%s, sorted by %v: two pages have %d matches", c.typ, c.param, sort, paged)
			}
		}
	}
}

// TestManyDocuments searches the documents of one patient of whom there are a great many of
// one type, beside a patient with few. A search that selects few must look at few.
func TestManyDocuments(t *testing.T) {
	n := *many
	if testing.Short() {
		n = min(n, 5000)
	}
	n = max(n/1000*1000, 1000) // whole batches
	sevens := (n-8)/2000 + 1   // documents with code 7
	d := open(t, vfs.NewMem())
	defer d.Close()
	for i := 0; i < n; i += 1000 {
		var b store.Batch
		for j := i; j < i+1000; j++ {
			id := fmt.Sprintf("c%07d", j)
			b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Condition", ID: id,
				JSON: []byte(fhir.Prefix("Condition", id) + fmt.Sprintf(
					`},"subject":{"reference":"Patient/p%d"},"code":{"coding":[{"system":"urn:c","code":"%d"}]},`+
						`"recordedDate":"%d-%02d-%02d","identifier":[{"system":"urn:i","value":"%d"}],`+
						`"encounter":{"reference":"Encounter/e%d"}}`,
					min(j%1000, 1), j%2000, 1900+j/336%100, 1+j/28%12, 1+j%28, j, j/50))}})
		}
		if _, err := d.Commit(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		raw   string
		limit int
		want  int
		rows  uint64
	}{
		{"patient=p1&code=urn:c|7", 0, sevens, uint64(n/2000 + 600)},
		{"patient=p1&code=7&recorded-date=ge1900", 0, sevens, uint64(3*n/2000 + 2500)},
		{"patient=p1&identifier=urn:i|77", 0, 1, 100},
		{"patient=p1&encounter=Encounter/e3", 0, 50, 600},
		{"encounter=Encounter/e3", 0, 50, 60},
		{"patient=p1", 20, 20, 4500},
		{"patient=p1&_sort=-_lastUpdated", 20, 20, 2500},
		{"patient=p1&_sort=recorded-date", 20, 20, 6000},
		{"patient=p1&_sort=-recorded-date", 20, 20, 6000},
		{"patient=p1&code=7&_sort=-recorded-date", 0, sevens, 2500},
		{"patient=p0", 0, n / 1000, uint64(n/1000 + 600)},
		{"patient=p0&_sort=recorded-date", 0, n / 1000, uint64(4*n/1000 + 2500)},
	} {
		ids, looked := looked(t, d, "Condition", c.raw, c.limit)
		if len(ids) != c.want || looked > c.rows {
			t.Errorf("%s: %d matches, want %d; looked at %d rows of %d, want at most %d", c.raw, len(ids), c.want,
				looked, n, c.rows)
		} else {
			t.Logf("%s: %d of %d rows", c.raw, looked, n)
		}
	}
	// A control: without an index, all documents of the patient are looked at.
	if _, rows := looked(t, d, "Condition", "patient=p1&code:text=none", 0); rows < uint64(n)*9/10 {
		t.Errorf("a search without an index looked at %d rows of %d", rows, n)
	}
}

// BenchmarkRowCount counts 50,000 Patients by rows alone and by their documents. The filter
// of "documents" permits all, but only after it has looked at each.
func BenchmarkRowCount(b *testing.B) {
	const n = 50_000
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for i := 0; i < n; i += 1000 {
		var batch store.Batch
		for j := i; j < i+1000; j++ {
			more := ""
			if j%100 == 0 {
				more = `,"deceasedDateTime":"2020-01-01"`
			}
			w := person(fmt.Sprintf("p%06d", j), fmt.Sprintf(`,"name":[{"family":"F%d"}],"gender":"%s",`+
				`"birthDate":"19%02d-01-01","managingOrganization":{"reference":"Organization/o%d"}%s`,
				j, []string{"male", "female"}[j%2], j%100, j%10, more))
			w.Vendor = "one"
			batch.Writes = append(batch.Writes, w)
		}
		if _, err := d.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
	looks := &access.Grant{AllPatients: true, Rules: []access.Rule{{Type: "*", May: access.Search, Vendor: "one"}}}
	for _, c := range []struct {
		name, raw string
		want      uint64
	}{
		{"all", "", n}, {"token", "gender=female", n / 2}, {"reference", "organization=Organization/o3", n / 10},
		{"references", "organization=Organization/o3,Organization/o4", n / 5},
		{"missing", "death-date:missing=false", n / 100}, {"common", "birthdate:missing=false", n},
	} {
		pairs, _ := search.Pairs(c.raw)
		q, err := search.Parse("Patient", pairs, search.ParseOptions{})
		if err != nil {
			b.Fatal(err)
		}
		for name, g := range map[string]*access.Grant{"rows": access.All(), "documents": looks} {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				for b.Loop() {
					got, err := d.Count(context.Background(), store.Find{Query: q, Filter: g.Filter(access.Search)})
					if err != nil || got != c.want {
						b.Fatal(got, err)
					}
				}
			})
		}
	}
}

// BenchmarkIntersection finds the Conditions of searches whose clauses each have many rows
// and few matches in common.
func BenchmarkIntersection(b *testing.B) {
	const n = 100_000
	d, err := Open(b.TempDir(), Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	for i := 0; i < n; i += 1000 {
		var batch store.Batch
		for j := i; j < i+1000; j++ {
			id := fmt.Sprintf("c%07d", j)
			batch.Writes = append(batch.Writes, store.Write{Resource: fhir.Resource{Type: "Condition", ID: id,
				JSON: []byte(fhir.Prefix("Condition", id) + fmt.Sprintf(
					`},"subject":{"reference":"Patient/p%d"},"code":{"coding":[{"system":"urn:c","code":"%d"}]},`+
						`"recordedDate":"2026-%02d-%02d","category":[{"coding":[{"system":"urn:k","code":"%d"}]}],`+
						`"clinicalStatus":{"coding":[{"system":"urn:s","code":"%s"}]}}`,
					j%10, j/10%20, 1+j/7%12, 1+j%28, j/13%30, []string{"active", "resolved"}[j/3%2]))}})
		}
		if _, err := d.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := d.Compact(context.Background()); err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct{ name, raw string }{
		{"patient-code", "patient=p3&code=urn:c|7"},
		{"patient-date", "patient=p3&recorded-date=ge2026-12-01"},
		{"patient-code-date", "patient=p3&code=urn:c|7&recorded-date=2026-03"},
		{"code-category", "code=urn:c|7&category=urn:k|4"},
		{"code-status", "code=urn:c|7&clinical-status=active"}, // half of the rows pass
		{"code", "code=urn:c|7"},                               // nothing to test
	} {
		pairs, _ := search.Pairs(c.raw)
		q, err := search.Parse("Condition", pairs, search.ParseOptions{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			got := 0
			for b.Loop() {
				got = 0
				if err := d.Find(context.Background(), store.Find{Query: q, Filter: access.All().Filter(access.Search)},
					func(*store.Found) bool { got++; return true }); err != nil || got == 0 {
					b.Fatal(got, err)
				}
			}
			b.ReportMetric(float64(got), "matches")
		})
	}
}

// BenchmarkCommitDocuments commits batches of 100 Conditions with all index rows.
func BenchmarkCommitDocuments(b *testing.B) {
	d, err := Open("s", Options{FS: vfs.NewMem()})
	if err != nil {
		b.Fatal(err)
	}
	defer d.Close()
	j := 0
	for b.Loop() {
		var batch store.Batch
		for range 100 {
			id := fmt.Sprintf("c%07d", j)
			batch.Writes = append(batch.Writes, store.Write{Resource: fhir.Resource{Type: "Condition", ID: id,
				JSON: []byte(fhir.Prefix("Condition", id) + fmt.Sprintf(
					`},"subject":{"reference":"Patient/p%d"},"code":{"coding":[{"system":"urn:c","code":"%d"},`+
						`{"system":"urn:d","code":"x%d"}],"text":"A condition"},"recordedDate":"2026-%02d-%02d"}`,
					j%10, j/10%20, j%30, 1+j/7%12, 1+j%28))}})
			j++
		}
		if _, err := d.Commit(context.Background(), &batch); err != nil {
			b.Fatal(err)
		}
	}
}
