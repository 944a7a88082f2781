package pebblestore

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/store/pebblestore/internal/tier"
)

type kv struct{ k, v []byte }

// tamperer changes rows of an open store, as an attacker with access to the disk
// can, and restores them.
type tamperer struct {
	t    *testing.T
	d    *DB
	undo []kv // a nil value means that the row was absent
	skip int  // number of rows whose bytes are not flipped
}

// table returns the rows of a table that contain a type, or all rows if typ is "".
func (x *tamperer) table(tab byte, typ string) (out []kv) {
	x.t.Helper()
	it, err := x.d.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{tab}, UpperBound: []byte{tab + 1}})
	if err != nil {
		x.t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		if typ == "" || bytes.Contains(it.Key(), keys.AppendString(nil, typ)) {
			out = append(out, kv{bytes.Clone(it.Key()), bytes.Clone(it.Value())})
		}
	}
	if err := it.Close(); err != nil {
		x.t.Fatal(err)
	}
	if len(out) == 0 {
		x.t.Fatalf("no rows in %c", tab)
	}
	return out
}

func (x *tamperer) raw(k, v []byte) {
	x.t.Helper()
	var err error
	if v == nil {
		err = x.d.pdb.Delete(k, pebble.Sync)
	} else {
		err = x.d.pdb.Set(k, v, pebble.Sync)
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

// put sets a row, or deletes it if v is nil.
func (x *tamperer) put(k, v []byte) {
	x.t.Helper()
	old, err := rows.Get(x.d.pdb, k)
	if err != nil {
		x.t.Fatal(err)
	}
	x.undo = append(x.undo, kv{k, old})
	x.raw(k, v)
}

// show makes the store read its rows again, as after a restart.
func (x *tamperer) show() {
	x.t.Helper()
	x.d.templates = rows.NewTemplates()
	x.d.tier, _ = tier.New()
	if _, err := x.d.Commit(context.Background(),
		&store.Batch{State: []store.StateWrite{{Key: "k", Value: []byte{1}}}}); err != nil {
		x.t.Fatal(err)
	}
}

// restore undoes all changes.
func (x *tamperer) restore() {
	x.t.Helper()
	for _, r := range slices.Backward(x.undo) {
		x.raw(r.k, r.v)
	}
	x.undo = nil
	x.show()
}

// every calls try for each type of tampering with the rows of a table.
func (x *tamperer) every(rnd *rand.Rand, tab byte, typ string, try func(what string)) {
	x.t.Helper()
	rows := x.table(tab, typ)
	run := func(what string, puts ...kv) {
		for _, p := range puts {
			x.put(p.k, p.v)
		}
		x.show()
		try(fmt.Sprintf("%c: %s", tab, what))
		x.restore()
	}
	for i, r := range rows {
		if i < x.skip || i >= x.skip+2 { // flip bytes of two rows per round
			continue
		}
		for at := rnd.IntN(2); at < len(r.v); at += 1 + rnd.IntN(3) {
			v := bytes.Clone(r.v)
			v[at] ^= 1 << rnd.IntN(8)
			run(fmt.Sprintf("row %d, byte %d of %d flipped", i, at, len(v)), kv{r.k, v})
		}
		for at := 1 + rnd.IntN(4); at < len(r.k); at += 1 + rnd.IntN(7) {
			k := bytes.Clone(r.k)
			k[at] ^= 1 << rnd.IntN(8)
			run(fmt.Sprintf("row %d, byte %d of the key flipped", i, at), kv{r.k, nil}, kv{k, r.v})
			run(fmt.Sprintf("row %d again, byte %d of the key flipped", i, at), kv{k, r.v})
		}
		run(fmt.Sprintf("row %d cut", i), kv{r.k, r.v[:len(r.v)/2]})
	}
	for i, r := range rows {
		run(fmt.Sprintf("row %d deleted", i), kv{r.k, nil})
		if j := (i + 1) % len(rows); !bytes.Equal(r.v, rows[j].v) {
			run(fmt.Sprintf("rows %d and %d exchanged", i, j), kv{r.k, rows[j].v}, kv{rows[j].k, r.v})
			run(fmt.Sprintf("row %d overwritten with row %d", i, j), kv{r.k, rows[j].v})
		}
	}
}

// auditWorld returns a store with events as the server records them, with and
// without a template. Some name a patient.
func auditWorld(t *testing.T) (*DB, *audit.Recorder, *audit.Notary) {
	t.Helper()
	d := open(t, vfs.NewMem())
	rec, err := audit.NewRecorder(audit.Options{Store: d, Clock: time.Now, Rand: crand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	n, err := audit.OpenNotary(audit.NotaryOptions{Store: d, Dir: t.TempDir(), Rand: crand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		evs := []audit.Event{{Type: audit.Rest, Interaction: "read", Patient: "ada",
			Data: []audit.DataRef{{Ref: fhir.Ref{Type: "Observation", ID: fmt.Sprint("o", i)}, Version: 1}}},
			{Type: audit.AuditRead, Interaction: "search-type", Query: fmt.Sprint("GET AuditEvent?_count=", i)}}
		if err := rec.Record(context.Background(), evs[:1+i%2]...); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Sign(); err != nil {
		t.Fatal(err)
	}
	return d, rec, n
}

// TestVerifyFindsEveryTamperedRow changes the rows from which reads, searches and
// histories of AuditEvents are answered. Verify must find each change.
func TestVerifyFindsEveryTamperedRow(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 1))
	d, _, n := auditWorld(t)
	defer d.Close()
	x := &tamperer{t: t, d: d}
	verify := func() audit.Report {
		t.Helper()
		rep, err := audit.Verify(context.Background(), d, n.Checkpoint(), audit.VerifyOptions{Verifier: n.Verifier()})
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	if rep := verify(); !rep.OK || rep.Events != rep.Size || rep.Size == 0 {
		t.Fatalf("an untouched log: %+v", rep)
	}
	tried, harmless := 0, 0
	for _, tab := range []byte{keys.TableDocument, keys.TableID, keys.TableIndex, keys.TableTemplate, keys.TableLog,
		keys.TableUpdate, keys.TableDay} {
		typ := "AuditEvent"
		if tab == keys.TableTemplate || tab == keys.TableLog {
			typ = ""
		}
		x.every(rnd, tab, typ, func(what string) {
			if tried++; !verify().OK {
				return
			}
			if harmless++; !x.harmless() {
				t.Errorf("%s: not found", what)
			}
		})
	}
	if rep := verify(); !rep.OK {
		t.Fatalf("after all was put back: %+v", rep)
	}
	t.Logf("%d types of tampering, %d of them change no answer", tried, harmless)
}

// harmless reports whether every answer about AuditEvents is as before, except for
// meta.lastUpdated, which the leaves do not cover. Then a row was added that is
// never read, or a row was encoded differently.
func (x *tamperer) harmless() bool {
	now := x.answers()
	undo := x.undo
	tampered := make([]kv, len(undo))
	for i, r := range undo {
		v, err := rows.Get(x.d.pdb, r.k)
		if err != nil {
			x.t.Fatal(err)
		}
		tampered[i] = kv{r.k, v}
	}
	x.restore()
	was := x.answers()
	for _, r := range tampered {
		x.put(r.k, r.v)
	}
	x.show()
	return now == was
}

// answers returns all answers of searches and reads about AuditEvents.
func (x *tamperer) answers() string {
	var out bytes.Buffer
	ids := map[string]bool{}
	for _, q := range [][][2]string{{}, {{"patient", "ada"}}, {{"patient", "zoe"}}, {{"entity", "Observation/o1"}},
		{{"patient", "ada"}, {"_sort", "-date"}}, {{"_sort", "-_lastUpdated"}}, {{"_lastUpdated", "gt2020-01-01"}},
		{{"date", "gt2020-01-01"}, {"_sort", "-date"}}, {{"_sort", "date"}}} {
		p, err := search.Parse("AuditEvent", q, search.ParseOptions{})
		if err != nil {
			x.t.Fatal(err)
		}
		for _, at := range []store.Seq{0, 2, 4} {
			err = x.d.Find(context.Background(), store.Find{Query: p, Filter: all(), At: at},
				func(f *store.Found) bool {
					ids[f.Resource.ID] = true
					fmt.Fprintf(&out, "%d %s %s\n", at, blind(f.Resource.JSON), f.Facts.Author)
					return true
				})
			fmt.Fprintf(&out, "%v %v\n", q, err)
		}
	}
	sorted := make([]string, 0, len(ids))
	for id := range ids {
		sorted = append(sorted, id)
	}
	slices.Sort(sorted)
	for _, id := range sorted {
		err := x.d.History(context.Background(), fhir.Ref{Type: "AuditEvent", ID: id}, 0, 0,
			func(r fhir.Resource, _ *access.Facts) bool {
				fmt.Fprintf(&out, "%s\n", blind(r.JSON))
				return true
			})
		fmt.Fprintf(&out, "%s %v\n", id, err)
	}
	return out.String()
}

// blind removes meta.lastUpdated.
func blind(b []byte) []byte {
	const key = `"lastUpdated":"`
	i := bytes.Index(b, []byte(key))
	if i < 0 {
		return b
	}
	from := i + len(key)
	return append(bytes.Clone(b[:from]), b[from+len(fhir.InstantLayout):]...)
}

// TestCheckFindsEveryTamperedChange changes rows of the change log: entries of
// documents that were created, updated, deleted and recreated, and of samples, some
// of which have become documents. Check must find each change.
func TestCheckFindsEveryTamperedChange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	d := changed(t)
	defer d.Close()
	problems := func() (n int) {
		t.Helper()
		if err := d.Check(context.Background(), func(p string) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if err := d.Check(context.Background(), func(p string) { t.Error(p) }); err != nil || t.Failed() {
		t.Fatalf("an untouched store: %v", err)
	}
	x := &tamperer{t: t, d: d}
	was := x.changes()
	tried := 0
	for r := range 3 { // other rows in each round
		x.skip = 2 * r
		x.every(rand.New(rand.NewPCG(seed, uint64(r))), keys.TableChange, "", func(what string) {
			tried++
			if problems() > 0 {
				return
			}
			// The order of changes within a commit has no meaning.
			if now := x.changes(); !slices.Equal(now, was) {
				t.Errorf("%s: not found", what)
			}
		})
	}
	if n := problems(); n != 0 {
		t.Fatalf("after all was put back: %d problems", n)
	}
	t.Logf("%d types of tampering", tried)
}

// changes returns the change log, in order of commits.
func (x *tamperer) changes() (out []string) {
	err := x.d.Changes(context.Background(), 0, func(c *store.Change) bool {
		out = append(out, fmt.Sprintf("%06d %s %d %t %t %+v", c.Seq, c.Ref, c.Version, c.Created, c.Deleted,
			c.Facts.Tokens("code")))
		return true
	})
	slices.Sort(out)
	return append(out, fmt.Sprint(err))
}

// changed returns a store with every type of change.
func changed(t *testing.T) *DB {
	t.Helper()
	d := open(t, vfs.NewMem())
	commit := func(b store.Batch) {
		t.Helper()
		if _, err := d.Commit(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	body := func(typ, id, rest string) fhir.Resource {
		return fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + rest + "}")}
	}
	put := func(rs ...fhir.Resource) {
		t.Helper()
		var b store.Batch
		for _, r := range rs {
			b.Writes = append(b.Writes, store.Write{Resource: r, Vendor: "apple", Author: "me"})
		}
		commit(b)
	}
	put(body("Patient", "p1", ""), body("Patient", "p2", ""))
	put(body("Patient", "p1", `,"gender":"female"`), body("Device", "d", ""))
	commit(store.Batch{Writes: []store.Write{{Op: store.Remove, Resource: body("Device", "d", "")},
		auditEvent("a1", 1, true)}})
	put(body("Device", "d", ""))
	tpl := streamTemplate("p1", "8867-4", "d", series.Instant, 0)
	for part := range 2 {
		c := &series.Columns{}
		for i := range 5 {
			s := series.Sample{Start: 1767225600e6 + int64(5*part+i)*5e6, End: series.NoEnd}
			s.Values[0] = series.Decimal{Mant: 60 + int64(i)}
			c.Append(&s, 1)
		}
		commit(store.Batch{Series: []store.SeriesWrite{{Template: tpl, Columns: c}}, Probed: ^store.Seq(0)})
	}
	var ids []string
	if err := d.Changes(context.Background(), 4,
		func(c *store.Change) bool { ids = append(ids, c.Ref.ID); return true }); err != nil || len(ids) != 10 {
		t.Fatal(ids, err)
	}
	for _, id := range []string{ids[0], ids[7]} { // these stop being samples
		commit(store.Batch{Writes: []store.Write{{Op: store.Remove, Resource: body("Observation", id, "")}}})
	}
	return d
}
