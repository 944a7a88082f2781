package pebblestore

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
)

func person(id, rest string) store.Write {
	return store.Write{Resource: fhir.Resource{Type: "Patient", ID: id,
		JSON: []byte(fhir.Prefix("Patient", id) + "}" + rest + "}")}}
}

// looked runs a search and returns the ids it found and the rows it looked at.
func looked(t *testing.T, d *DB, typ, raw string, limit int) (ids []string, rows uint64) {
	t.Helper()
	pairs, err := search.Pairs(raw)
	if err != nil {
		t.Fatal(err)
	}
	q, err := search.Parse(typ, pairs, search.ParseOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return lookedFor(t, d, q, limit)
}

func lookedFor(t *testing.T, d *DB, q *search.Query, limit int) (ids []string, rows uint64) {
	t.Helper()
	before := d.search.RowsRead()
	err := d.Find(context.Background(), store.Find{Query: q, Limit: limit,
		Filter: access.All().Filter(access.Search)}, func(f *store.Found) bool {
		ids = append(ids, f.Resource.ID)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids, d.search.RowsRead() - before
}

// crowd returns a store with n Patients.
func crowd(t *testing.T, n int) *DB {
	t.Helper()
	d := open(t, vfs.NewMem())
	for i := 0; i < n; i += 500 {
		var b store.Batch
		for j := i; j < min(i+500, n); j++ {
			b.Writes = append(b.Writes, person(fmt.Sprintf("p%05d", j),
				fmt.Sprintf(`,"name":[{"family":"F%05d"}],"gender":"%s","birthDate":"%d-%02d-%02d","identifier":[{"value":"%d"}]`,
					j, []string{"male", "female"}[j%2], 1900+j%100, 1+j%12, 1+j%28, j)))
		}
		if _, err := d.Commit(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

// TestRowsLookedAt checks that each kind of search looks at few rows of many.
func TestRowsLookedAt(t *testing.T) {
	const n = 6000
	d := crowd(t, n)
	defer d.Close()
	for _, c := range []struct {
		raw         string
		limit, want int
		rows        uint64
	}{
		{"name=f00123", 0, 1, 10},
		{"family=f0012", 0, 10, 60},
		{"family:exact=F00123", 0, 1, 10},
		{"identifier=123", 0, 1, 10},
		{"gender=male&name=f0012", 0, 5, 60}, // the name drives, not the first clause
		{"gender=male&identifier=124", 0, 1, 30},
		{"birthdate=1950-03-23&gender=male", 0, n / 100 / 21 / 100, 400},
		{"birthdate=ge1950-03-01&birthdate=lt1951-01-01", 0, n / 100, 600},
		{"_sort=birthdate", 50, 50, 250},
		{"_sort=-birthdate,name", 20, 20, 250},
		{"_sort=-name", 20, 20, 60},
		{"_sort=_id", 20, 20, 60},
		{"_id=p00001,p00100,p05999", 0, 3, 10},
		{"gender=male&_sort=name", 20, 20, 1200}, // a probe, and twice the rows of the page
	} {
		ids, rows := looked(t, d, "Patient", c.raw, c.limit)
		if c.limit > 0 || c.want > 1 {
			if len(ids) != c.want {
				t.Errorf("%s: %d matches, want %d", c.raw, len(ids), c.want)
			}
		}
		if rows > c.rows {
			t.Errorf("%s looked at %d rows of %d, want at most %d", c.raw, rows, n, c.rows)
		}
	}
	// A control: without an index, all documents are looked at.
	if _, rows := looked(t, d, "Patient", "name:contains=0012", 0); rows < n {
		t.Errorf("a search without an index looked at %d rows of %d", rows, n)
	}
}

// within returns the clause for the Observations of a Patient's compartment.
func within(patient string) search.Clause {
	c := search.Clause{Param: search.AnyOf}
	for _, code := range []string{"subject", "performer"} {
		p, _ := search.Lookup("Observation", code)
		c.Any = append(c.Any, []search.Clause{{Param: p, Values: []search.Value{{RefType: "Patient", RefID: patient,
			Code: "https://pulsegate.test/fhir/Patient/" + patient}}}})
	}
	return c
}

// measured returns a store with n Observations of each of some patients. One in 100 of
// patient p1 was made by patient p0.
func measured(t testing.TB, patients, n int) *DB {
	t.Helper()
	d := open(t, vfs.NewMem())
	for p := range patients {
		for i := 0; i < n; i += 1000 {
			var b store.Batch
			for j := i; j < min(i+1000, n); j++ {
				id, more := fmt.Sprintf("o%d-%06d", p, j), ""
				if p == 1 && j%100 == 0 {
					more = `,"performer":[{"reference":"Patient/p0"}]`
				}
				b.Writes = append(b.Writes, store.Write{Resource: fhir.Resource{Type: "Observation", ID: id,
					JSON: []byte(fhir.Prefix("Observation", id) + fmt.Sprintf(
						`},"status":"final","code":{"coding":[{"system":"urn:c","code":"%d"}]},"subject":{"reference":"Patient/p%d"},`+
							`"effectiveDateTime":"2026-%02d-%02dT%02d:%02d:00Z","valueInteger":%d%s}`, j%5, p, 1+j/60%12, 1+j%28,
						j/7%24, j%60, j, more))}})
			}
			if _, err := d.Commit(context.Background(), &b); err != nil {
				t.Fatal(err)
			}
		}
	}
	return d
}

// TestCompartmentRows checks that a search in the compartment of a Patient, and one by
// performer, look at few rows of the other patients.
func TestCompartmentRows(t *testing.T) {
	const patients, n = 4, 1500
	d := measured(t, patients, n)
	defer d.Close()
	find := func(patient, raw string, limit int) (ids []string, rows uint64) {
		pairs, err := search.Pairs(raw)
		if err != nil {
			t.Fatal(err)
		}
		q, err := search.Parse("Observation", pairs, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if patient != "" {
			q.Clauses = append(q.Clauses, within(patient))
		}
		return lookedFor(t, d, q, limit)
	}
	for _, c := range []struct {
		patient, raw string
		limit, want  int
		rows         uint64
	}{
		{"p2", "", 0, n, n + 10},
		{"p2", "_sort=-date", 20, 20, 80},
		{"p2", "_sort=-_lastUpdated", 20, 20, 600}, // of one commit
		{"p2", "code=urn:c|3", 0, n / 5, n/5 + 20},
		{"p0", "", 0, n + n/100, n + n/100 + 20},
		{"p0", "_sort=-date", 20, 20, 80},
		{"p0", "_sort=date&code=urn:c|0", 20, 20, 80},
		{"", "performer=Patient/p0", 0, n / 100, n + n/100 + 20},
		{"", "performer=Practitioner/x", 0, 0, 10},
		{"", "encounter=Encounter/x&_sort=date", 0, 0, 10},
	} {
		ids, rows := find(c.patient, c.raw, c.limit)
		if len(ids) != c.want || rows > c.rows {
			t.Errorf("%s %q: %d matches, want %d; looked at %d rows, want at most %d", c.patient, c.raw, len(ids),
				c.want, rows, c.rows)
		}
	}
	// A control: a clause that rows cannot answer looks at all documents.
	if _, rows := find("", "performer:missing=false", 0); rows < patients*n {
		t.Errorf("a search without an index looked at %d rows", rows)
	}
}

// BenchmarkCompartment counts the Observations in the compartment of a Patient, and reads
// a page of the newest. The first of each pair has another clause that rows cannot answer
// in its place, which was the plan of all compartments before.
func BenchmarkCompartment(b *testing.B) {
	const patients, n = 20, 2000
	d := measured(b, patients, n)
	defer d.Close()
	scan := within("p2")
	has := search.Clause{Param: scan.Any[1][0].Param, Modifier: search.ModMissing}
	not := has
	not.Missing = true
	scan.Any = append(scan.Any, []search.Clause{has, not})
	for _, by := range []struct {
		name string
		c    search.Clause
	}{{"scan", scan}, {"rows", within("p2")}} {
		q := &search.Query{Type: "Observation", Clauses: []search.Clause{by.c}, Count: -1}
		b.Run("count/"+by.name, func(b *testing.B) {
			for b.Loop() {
				if got, err := d.Count(context.Background(), store.Find{Query: q,
					Filter: access.All().Filter(access.Search)}); err != nil || got != n {
					b.Fatal(got, err)
				}
			}
		})
		page := *q
		page.Sort = []search.SortKey{{Param: "date", Desc: true}}
		b.Run("newest/"+by.name, func(b *testing.B) {
			for b.Loop() {
				got := 0
				err := d.Find(context.Background(), store.Find{Query: &page, Limit: 20,
					Filter: access.All().Filter(access.Search)}, func(*store.Found) bool { got++; return true })
				if err != nil || got != 20 {
					b.Fatal(got, err)
				}
			}
		})
	}
}

// TestManyVersions checks that superseded versions do not slow a search.
func TestManyVersions(t *testing.T) {
	d := open(t, vfs.NewMem())
	defer d.Close()
	for i := range 500 {
		w := person("p", fmt.Sprintf(`,"name":[{"family":"Same"}],"active":true,"multipleBirthInteger":%d`, i))
		if _, err := d.Commit(context.Background(), &store.Batch{Writes: []store.Write{w, person(fmt.Sprint("q", i%3),
			`,"name":[{"family":"Same"}],"gender":"`+[]string{"male", "female"}[i%2]+`"`)}}); err != nil {
			t.Fatal(err)
		}
	}
	for raw, most := range map[string]uint64{"name=same&active=true": 100, "family=same": 50} {
		ids, rows := looked(t, d, "Patient", raw, 0)
		if slices.Sort(ids); len(ids) != 4 && len(ids) != 1 {
			t.Errorf("%s: %v", raw, ids)
		}
		if rows > most {
			t.Errorf("%s looked at %d rows", raw, rows)
		}
	}
}

// TestCheckFindsEveryTamperedIndexRow deletes, adds and changes index rows. Check and
// Inspect must find each change.
func TestCheckFindsEveryTamperedIndexRow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := open(t, vfs.NewMem())
	defer d.Close()
	for i := range 3 {
		for _, id := range []string{"a", "b"} {
			w := person(id, fmt.Sprintf(
				`,"name":[{"family":"Berg van","given":["Ann"]}],"birthDate":"198%d","gender":"male"`, i))
			if _, err := d.Commit(context.Background(), &store.Batch{Writes: []store.Write{w}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	problems := func() (checked, inspected int) {
		t.Helper()
		if err := d.Check(context.Background(), func(string) { checked++ }); err != nil {
			t.Fatal(err)
		}
		err := d.Inspect(context.Background(), "Patient", 0, func(*store.Row) {}, func(string, string) { inspected++ })
		if err != nil {
			t.Fatal(err)
		}
		return checked, inspected
	}
	if c, i := problems(); c+i > 0 {
		t.Fatalf("an untouched store: %d, %d", c, i)
	}
	x := &tamperer{t: t, d: d}
	tried := 0
	x.every(rand.New(rand.NewPCG(seed, 1)), keys.TableIndex, "Patient", func(what string) {
		tried++
		var row, at int
		if n, _ := fmt.Sscanf(what, "X: row %d again, byte %d of", &row, &at); n == 2 &&
			at < len("X")+len("Patient")+2 {
			if c, _ := problems(); c == 0 { // the row is now one of another type, which Inspect does not read
				t.Errorf("%s: not found", what)
			}
			return
		}
		if c, i := problems(); c == 0 || i == 0 {
			t.Errorf("%s: Check found %d problems, Inspect %d", what, c, i)
		}
	})
	t.Logf("%d types of tampering", tried)
}
