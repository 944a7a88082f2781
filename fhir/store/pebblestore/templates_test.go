package pebblestore

import (
	"bytes"
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/mod/sumdb/tlog"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/keys"
	"pulsegate/fhir/store/pebblestore/internal/rows"
)

var update = flag.Bool("update", false, "write the golden files")

// auditEvent returns the write of an event, with or without a template.
func auditEvent(id string, n int, formed bool) store.Write {
	const head = `},"recorded":"2026-01-01T00:00:`
	b := []byte(fhir.Prefix("AuditEvent", id) + head)
	from := len(fhir.Prefix("AuditEvent", id))
	cuts := []int{len(b)}
	b = fmt.Appendf(b, "%02d", n)
	cuts = append(cuts, len(b))
	b = append(b, `.000Z","entity":[{"what":{"reference":"Patient/p"}},{"what":{"reference":"`...)
	cuts = append(cuts, len(b))
	b = fmt.Appendf(b, "Observation/o%d", n)
	cuts = append(cuts, len(b))
	b = append(b, `"}}]}`...)
	w := store.Write{Op: store.Put, Expect: store.Fresh, Resource: fhir.Resource{Type: "AuditEvent", ID: id, JSON: b}}
	if formed {
		w.Template, w.Cuts = store.NewTemplate(b, from, cuts), cuts
	}
	return w
}

// trail returns a store with five events: one without a template, then two batches
// with one.
func trail(t *testing.T, fs vfs.FS) *DB {
	t.Helper()
	clock := func() time.Time { return time.Unix(1767225600, 0) }
	d, err := Open("s", Options{FS: fs, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, size := range []int{1, 3, 1} {
		var b store.Batch
		for range size {
			b.Writes = append(b.Writes, auditEvent(fmt.Sprintf("a%d", n), n, n > 0))
			b.Leaves = append(b.Leaves, fmt.Appendf(nil, "leaf %d", n))
			n++
		}
		if _, err := d.Commit(context.Background(), &b); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func sound(t *testing.T, d *DB) {
	t.Helper()
	if err := d.Check(context.Background(), func(p string) { t.Error(p) }); err != nil {
		t.Error(err)
	}
}

// rendered returns everything that the store returns about the events and its log.
func rendered(t *testing.T, d *DB) string {
	t.Helper()
	ctx := context.Background()
	var out strings.Builder
	for i := range d.Log().Size() {
		l, err := d.Log().Leaf(i)
		if err != nil {
			t.Fatal(err)
		}
		h, err := d.Log().Hashes([]int64{tlog.StoredHashIndex(0, int64(i))})
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Log().Root(i + 1)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %x %x\n", l, h, r)
	}
	for n := range d.Log().Size() {
		r, f, err := d.Read(ctx, fhir.Ref{Type: "AuditEvent", ID: fmt.Sprintf("a%d", n)}, 0)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s %s\n", r.JSON, f.Patient)
		if n > 0 && bytes.Count(r.JSON, []byte(`"versionId":"1"`)) != 1 {
			t.Errorf("not stamped: %s", r.JSON)
		}
	}
	for _, q := range []string{"entity=Patient/p", "patient=p", "entity=Observation/o3",
		"entity=Patient/p,Observation/o1", "patient=p&_sort=-date", "_sort=date&date=ge2026-01-01T00:00:02Z",
		"_id=a0,a4"} {
		var pairs [][2]string
		for _, p := range strings.Split(q, "&") {
			k, v, _ := strings.Cut(p, "=")
			pairs = append(pairs, [2]string{k, v})
		}
		x, err := search.Parse("AuditEvent", pairs, search.ParseOptions{})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&out, "%s:", q)
		seen := map[string]bool{}
		err = d.Find(ctx, store.Find{Query: x, Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
			if seen[f.Resource.ID] {
				t.Errorf("%s: %s twice", q, f.Resource.ID)
			}
			seen[f.Resource.ID] = true
			fmt.Fprintf(&out, " %s %d", f.Resource.ID, len(f.Resource.JSON))
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		out.WriteByte('\n')
	}
	return out.String()
}

// dump returns the rows of the tables that hold the trail, in order.
func dump(t *testing.T, d *DB) string {
	t.Helper()
	var out strings.Builder
	for _, tab := range []byte{keys.TableDocument, keys.TableTemplate, keys.TableID, keys.TableLog, keys.TableIndex} {
		it, err := d.pdb.NewIter(&pebble.IterOptions{LowerBound: []byte{tab}, UpperBound: []byte{tab + 1}})
		if err != nil {
			t.Fatal(err)
		}
		for ok := it.First(); ok; ok = it.Next() {
			fmt.Fprintf(&out, "%s = %s\n", hex.EncodeToString(it.Key()), hex.EncodeToString(it.Value()))
		}
		if err := it.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// TestTrailGolden compares the rows byte by byte.
func TestTrailGolden(t *testing.T) {
	d := trail(t, vfs.NewMem())
	defer d.Close()
	const file = "testdata/trail.txt"
	got := dump(t, d) + rendered(t, d)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || got != string(want) {
		t.Errorf("rows differ from %s (%v):\n%s", file, err, got)
	}
	sound(t, d)
}

// TestTemplateFaults checks that a write that does not fit its template is refused,
// and that a lost or changed template causes an error, never other bytes.
func TestTemplateFaults(t *testing.T) {
	ctx := context.Background()
	d := trail(t, vfs.NewMem())
	defer d.Close()
	w, other := auditEvent("b", 1, true), auditEvent("b", 1, true)
	other.Resource.JSON = bytes.Replace(bytes.Clone(other.Resource.JSON), []byte("entity"), []byte("entitx"), 1)
	if _, err := d.Commit(ctx, &store.Batch{Writes: []store.Write{other}}); fhir.KindOf(err) != fhir.Invalid {
		t.Errorf("JSON that does not fit its template: %v", err)
	}
	// The second write of the group changes a templated document of the first.
	a, b := &request{batch: &store.Batch{Writes: []store.Write{w}}},
		&request{batch: &store.Batch{Writes: []store.Write{{Op: store.Remove, Resource: w.Resource}}}}
	for _, r := range []*request{a, b} {
		p, err := d.prepare(r.batch)
		if err != nil {
			t.Fatal(err)
		}
		*r = *p
	}
	d.in <- a
	d.in <- b
	<-a.done
	<-b.done
	if a.err != nil || b.err != nil {
		t.Fatal(a.err, b.err)
	}
	if r, _, err := d.ReadVersion(ctx, w.Resource.Ref(), 1); err != nil ||
		!bytes.Contains(r.JSON, []byte("Observation/o1")) {
		t.Errorf("the version before: %s %v", r.JSON, err)
	}
	sound(t, d)
	k := keys.TemplateKey(w.Template.ID)
	for _, v := range [][]byte{nil, []byte("\x01x"), {0xff}} {
		d.templates = rows.NewTemplates()
		set := d.pdb.Set(k, v, pebble.Sync)
		if v == nil {
			set = d.pdb.Delete(k, pebble.Sync)
		}
		if set != nil {
			t.Fatal(set)
		}
		if _, err := d.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: "x",
			Value: []byte("y")}}}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := d.Read(ctx, fhir.Ref{Type: "AuditEvent", ID: "a2"}, 0); err == nil {
			t.Error("a lost or changed template was read")
		}
		n := 0
		if err := d.Check(ctx, func(string) { n++ }); n == 0 && err == nil {
			t.Error("Check did not report a lost or changed template")
		}
	}
}
