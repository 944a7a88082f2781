package mirror_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/mirror"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/store/pebblestore/pebbletest"
	"pulsegate/fhir/store/sharedlog/mongolog/mongotest"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

type world struct {
	t  *testing.T
	st *pebblestore.DB
	db *mongo.Database
	m  *mirror.Mirror
	// clock is the clock of all mirrors.
	clock *clocktest.Clock
}

func newWorld(t *testing.T) *world {
	st := pebbletest.Open(t)
	w := &world{t: t, st: st, db: database(t), clock: clocktest.At(now)}
	w.m = w.mirror("source")
	return w
}

func database(t *testing.T) *mongo.Database {
	d := mongotest.New(t)
	o := options.Client().ApplyURI(d.URI)
	if o.Auth != nil {
		o.Auth.Password, o.Auth.PasswordSet = d.Password, true
	}
	c, err := mongo.Connect(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Disconnect(context.Background()); err != nil {
			t.Error(err)
		}
	})
	uri, _, _ := strings.Cut(d.URI, "?")
	return c.Database(uri[strings.LastIndexByte(uri, '/')+1:])
}

func (w *world) mirror(source string) *mirror.Mirror {
	m, err := mirror.New(mirror.Options{Store: w.st, DB: w.db, Source: source,
		Clock: w.clock.Now, Delay: time.Millisecond, Step: 3})
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) commit(b *store.Batch) {
	w.t.Helper()
	if _, err := w.st.Commit(context.Background(), b); err != nil {
		w.t.Fatal(err)
	}
}

func put(typ, id, rest string) store.Write {
	return store.Write{Resource: fhir.Resource{Type: typ, ID: id, JSON: []byte(fhir.Prefix(typ, id) + "}" + rest + "}")}}
}

func remove(typ, id string) store.Write {
	return store.Write{Op: store.Remove, Resource: fhir.Resource{Type: typ, ID: id}}
}

func (w *world) follow() {
	w.t.Helper()
	if err := w.m.Follow(context.Background()); err != nil {
		w.t.Fatal(err)
	}
}

// rate is a template of heart rates of a patient.
func rate(patient string) *series.Template {
	t := &series.Template{Patient: patient, Vendor: "oura", Values: 1, Class: series.Class(0),
		Slots: []series.Slot{series.SlotEffective, series.SlotValue}}
	copy(t.Identity[:], "hr-"+patient)
	for _, p := range []string{`},"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},` +
		`"subject":{"reference":"Patient/` + patient + `"},`, `,"valueQuantity":{"value":`,
		`,"unit":"beats/minute","system":"http://unitsofmeasure.org","code":"/min"}}`} {
		t.Parts = append(t.Parts, []byte(p))
	}
	return t
}

// samples returns a series write of one sample per minute.
func samples(t *series.Template, from time.Time, n int) store.SeriesWrite {
	c := &series.Columns{}
	for i := range n {
		c.Append(&series.Sample{Start: from.Add(time.Duration(i) * time.Minute).UnixMicro(), End: series.NoEnd,
			Values: [series.MaxValues]series.Decimal{{Mant: int64(60 + i)}}}, 1)
	}
	first := c.At(0)
	t.Class = first.Class()
	c.Sort(t)
	return store.SeriesWrite{Template: t, Columns: c}
}

// compare compares the mirror with the store: every current resource and sample is
// in it, and nothing else.
func (w *world) compare() {
	w.t.Helper()
	ctx := context.Background()
	want := map[string]string{}
	types := map[string]bool{"Patient": true, "Observation": true, "Device": true, "Consent": true}
	for typ := range types {
		q, err := search.Parse(typ, nil, search.ParseOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		f := store.Find{Query: q, Filter: access.All().Filter(access.Search)}
		err = w.st.Find(ctx, f, func(f *store.Found) bool {
			want[typ+"/"+f.Resource.ID] = string(f.Resource.JSON)
			return true
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	got := map[string]string{}
	for typ := range types {
		for _, d := range w.find(typ, bson.D{{Key: "_deletedAt", Value: nil}}) {
			got[typ+"/"+text(d, "_id")] = relaxed(w.t, without(d, "_id", "_commit", "_time"))
		}
		for _, d := range w.find(typ, bson.D{{Key: "_deletedAt", Value: bson.D{{Key: "$ne", Value: nil}}}}) {
			if len(d) != 3 {
				w.t.Errorf("the tombstone of %s/%s has content", typ, text(d, "_id"))
			}
		}
	}
	for _, d := range w.find("samples", bson.D{{Key: "_deletedAt", Value: nil}}) {
		w.expand(d, got)
	}
	if len(got) != len(want) {
		w.t.Errorf("the mirror has %d resources, the store %d", len(got), len(want))
	}
	for ref, text := range want {
		if g, ok := got[ref]; !ok || !equal(w.t, g, text) {
			w.t.Errorf("%s is %s, want %s", ref, g, text)
		}
	}
}

// expand adds the Observations for which the samples of a bucket stand.
func (w *world) expand(d bson.D, into map[string]string) {
	w.t.Helper()
	observation := relaxed(w.t, member(d, "observation").(bson.D))
	for _, s := range member(d, "samples").(bson.A) {
		at := member(s.(bson.D), "at").(bson.DateTime).Time()
		var o map[string]any
		if err := json.Unmarshal([]byte(observation), &o); err != nil {
			w.t.Fatal(err)
		}
		k := series.Key{Start: at.UnixMicro()}
		patient := strings.TrimPrefix(o["subject"].(map[string]any)["reference"].(string), "Patient/")
		copy(k.Identity[:], "hr-"+patient)
		r, _, err := w.st.Read(context.Background(), fhir.Ref{Type: "Observation", ID: k.ID()}, 0)
		if err != nil || r.Deleted || r.Version != 1 {
			w.t.Errorf("the mirror has a sample at %s that the store does not have: version %d, %v", at, r.Version, err)
			continue
		}
		// Times are compared as instants; the store's form of the rest must agree.
		var stored map[string]any
		if err := json.Unmarshal(r.JSON, &stored); err != nil {
			w.t.Fatal(err)
		}
		if v := member(s.(bson.D), "value"); v != stored["valueQuantity"].(map[string]any)["value"] {
			w.t.Errorf("the sample at %s has the value %v", at, v)
		}
		into["Observation/"+k.ID()] = string(r.JSON)
	}
}

func (w *world) find(collection string, filter bson.D) (out []bson.D) {
	w.t.Helper()
	c, err := w.db.Collection(collection).Find(context.Background(), filter)
	if err == nil {
		err = c.All(context.Background(), &out)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return out
}

func member(d bson.D, name string) any {
	i := slices.IndexFunc(d, func(e bson.E) bool { return e.Key == name })
	if i < 0 {
		return nil
	}
	return d[i].Value
}

func text(d bson.D, name string) string { s, _ := member(d, name).(string); return s }

func without(d bson.D, names ...string) bson.D {
	return slices.DeleteFunc(slices.Clone(d), func(e bson.E) bool { return slices.Contains(names, e.Key) })
}

func relaxed(t *testing.T, d bson.D) string {
	b, err := bson.MarshalExtJSON(d, false, false)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func equal(t *testing.T, a, b string) bool {
	var x, y any
	if json.Unmarshal([]byte(a), &x) != nil || json.Unmarshal([]byte(b), &y) != nil {
		t.Fatal("not JSON")
	}
	return fmt.Sprint(x) == fmt.Sprint(y)
}

// TestMirror checks that the mirror has what the store has after creates, updates,
// deletions and samples, including samples that become documents.
func TestMirror(t *testing.T) {
	w := newWorld(t)
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", `,"birthDate":"1980-01-02"`),
		put("Patient", "bob", `,"multipleBirthInteger":3`), put("Device", "d", `,"patient":{"reference":"Patient/ada"}`)}})
	w.commit(&store.Batch{Writes: []store.Write{put("Observation", "o",
		`,"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"29463-7"}]},`+
			`"subject":{"reference":"Patient/ada"},"effectiveDateTime":"2026-02-28T08:00:00+01:00",`+
			`"valueQuantity":{"value":72.50,"unit":"kg"}`)}})
	ada := samples(rate("ada"), now.Add(-13*time.Hour), 90)
	w.commit(&store.Batch{Series: []store.SeriesWrite{ada, samples(rate("bob"), now, 5)}})
	w.follow()
	w.compare()
	times := w.find("Observation", bson.D{{Key: "_time.start", Value: bson.D{{Key: "$gte",
		Value: time.Date(2026, 2, 28, 7, 0, 0, 0, time.UTC)}}}})
	if len(times) != 1 {
		t.Errorf("%d Observations by time", len(times))
	}
	if days := w.find("samples", bson.D{{Key: "observation.subject.reference", Value: "Patient/ada"}}); len(days) != 2 {
		t.Errorf("%d buckets for two days", len(days))
	}
	// An update, a deletion, and samples that become a document and are deleted.
	first := ada.Columns.At(0)
	second := ada.Columns.At(1)
	firstKey, secondKey := ada.Template.Key(&first), ada.Template.Key(&second)
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", `,"birthDate":"1981-01-02"`), remove("Device", "d"),
		put("Observation", firstKey.ID(), `,"status":"amended","code":{"coding":[{"system":"http://loinc.org",`+
			`"code":"8867-4"}]},"subject":{"reference":"Patient/ada"}`), remove("Observation", secondKey.ID())}})
	w.follow()
	w.compare()
	// All samples of a day leave it.
	var gone []store.Write
	bob := samples(rate("bob"), now, 5)
	for i := range bob.Columns.Len() {
		s := bob.Columns.At(i)
		k := bob.Template.Key(&s)
		gone = append(gone, remove("Observation", k.ID()))
	}
	w.commit(&store.Batch{Writes: append(gone, remove("Patient", "bob"))})
	w.follow()
	w.compare()
	// A second look at everything changes nothing.
	if err := w.m.Clear(context.Background()); err != nil {
		t.Fatal(err)
	}
	w.follow()
	w.compare()
}

// TestOtherSource checks that the mirror of another store is emptied.
func TestOtherSource(t *testing.T) {
	w := newWorld(t)
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", "")}})
	w.follow()
	if s, err := mirror.StatusOf(context.Background(), w.db); err != nil || s.Source != "source" || s.Commit != 1 {
		t.Fatal(s, err)
	}
	w.st = newWorld(t).st
	w.m = w.mirror("other")
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "eve", "")}})
	w.follow()
	w.compare()
}

// TestPurge tests that a process removes the old tombstones that another process has
// written, and keeps new ones.
func TestPurge(t *testing.T) {
	w := newWorld(t)
	tombstones := func(collection string) int64 {
		t.Helper()
		n, err := w.db.Collection(collection).CountDocuments(t.Context(), bson.D{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "p1", "")}})
	w.commit(&store.Batch{Writes: []store.Write{remove("Patient", "p1")}})
	w.follow()
	w.m = w.mirror("source") // of another process
	w.clock.Add(23 * time.Hour)
	w.commit(&store.Batch{Writes: []store.Write{put("Device", "d1", "")}})
	w.commit(&store.Batch{Writes: []store.Write{remove("Device", "d1")}})
	w.follow()
	if n := tombstones("Patient"); n != 1 {
		t.Errorf("%d tombstones after 23 hours", n)
	}
	w.clock.Add(2 * time.Hour)
	w.follow()
	if old, young := tombstones("Patient"), tombstones("Device"); old != 0 || young != 1 {
		t.Errorf("%d old and %d new tombstones", old, young)
	}
}

// TestLateWrite checks that a process that overslept its role brings nothing back:
// what it writes as of an earlier commit is left out.
func TestLateWrite(t *testing.T) {
	w := newWorld(t)
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", `,"birthDate":"1980-01-02"`),
		put("Patient", "bob", "")}})
	w.follow()
	late := map[string]bson.D{}
	for _, d := range w.find("Patient", bson.D{}) {
		late[text(d, "_id")] = d
	}
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", `,"birthDate":"1981-01-02"`),
		remove("Patient", "bob")}})
	w.follow()
	for id, d := range late {
		if err := mirror.WriteLate(w.m, "Patient", id, d); err != nil {
			t.Fatal(err)
		}
	}
	w.compare()
}

// TestRun checks that the mirror follows commits while it runs, and ends.
func TestRun(t *testing.T) {
	w := newWorld(t)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { w.m.Run(ctx); close(done) }()
	w.commit(&store.Batch{Writes: []store.Write{put("Patient", "ada", "")}})
	deadline := time.Now().Add(2 * time.Minute)
	for {
		s, err := mirror.StatusOf(ctx, w.db)
		if err != nil {
			t.Fatal(err)
		}
		if s != nil && s.Commit == int64(w.st.LastSeq()) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the mirror does not follow")
		}
		time.Sleep(time.Millisecond)
	}
	stop()
	<-done
	w.compare()
}
