package bulk

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

const base = "https://pulse.example.org/fhir"

// consents permits everything except the data of withdrawn patients.
type consents struct {
	mu        sync.Mutex
	withdrawn map[string]bool
}

func (c *consents) Permits(_ string, f *access.Facts) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.withdrawn[f.Patient]
}

type world struct {
	t        *testing.T
	st       store.Store
	exporter *Exporter
	opts     Options
	consents *consents
	clock    *clocktest.Clock
}

func newWorld(t *testing.T) *world {
	t.Helper()
	st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, st: st, consents: &consents{withdrawn: map[string]bool{}}, clock: clocktest.At(time.Now())}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	w.opts = Options{Store: st, Audit: rec, Clock: w.clock.Now, Rand: rand.Reader, Base: base,
		GrantFor: func(context.Context, string, string) (*access.Grant, error) {
			return w.caller("ehr").Principal.Grant, nil
		}}
	w.start()
	t.Cleanup(func() {
		w.exporter.Close()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (w *world) start() {
	e, err := New(context.Background(), w.opts)
	if err != nil {
		w.t.Fatal(err)
	}
	w.exporter = e
}

func (w *world) caller(client string, types ...string) audit.Caller {
	if len(types) == 0 {
		types = []string{"*"}
	}
	g := &access.Grant{Recipient: client, Consents: w.consents}
	for _, t := range types {
		g.Rules = append(g.Rules, access.Rule{Type: t, May: access.Read | access.Search})
	}
	return audit.Caller{Principal: &access.Principal{ClientID: client, Grant: g, TokenID: "t", Scope: "system/*.rs"},
		RemoteIP: "192.0.2.1", RequestID: "r"}
}

func (w *world) put(typ, id, rest string) {
	w.t.Helper()
	_, err := w.st.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: typ, ID: id,
			JSON: []byte(fhir.Prefix(typ, id) + "}" + rest + "}")}}}})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) observation(id, patient string) {
	w.put("Observation", id, `,"status":"final","code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"reference":"Patient/`+patient+`"},"effectiveDateTime":"2026-03-01T10:00:00Z"`)
}

func (w *world) seed() {
	for _, p := range []string{"p1", "p2", "p3"} {
		w.put("Patient", p, `,"name":[{"family":"Invented"}]`)
		for i := range 3 {
			w.observation(fmt.Sprintf("%s-o%d", p, i), p)
		}
	}
	w.put("Organization", "h1", `,"name":"Invented"`)
	w.put("Group", "g1", `,"type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}},{"entity":{"reference":"Patient/p2"},"inactive":true},{"entity":{"reference":"Patient/p3"}}]`)
}

func (w *world) kick(c audit.Caller, r Request) string {
	w.t.Helper()
	loc, err := w.exporter.KickOff(context.Background(), c, r)
	if err != nil {
		w.t.Fatal(err)
	}
	id, ok := strings.CutPrefix(loc, base+"/$export-status/")
	if !ok {
		w.t.Fatalf("location %s", loc)
	}
	return id
}

func (w *world) manifest(c audit.Caller, id string) (m manifest) {
	w.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		s, err := w.exporter.Status(context.Background(), c, id, 0, Form3)
		if err != nil {
			w.t.Fatal(err)
		}
		if s.Progress != "" {
			continue
		}
		if err := json.Unmarshal(s.Manifest, &m); err != nil {
			w.t.Fatal(err)
		}
		return m
	}
	w.t.Fatal("timeout: the export is not complete")
	return m
}

func (w *world) file(c audit.Caller, item fileItem) []string {
	w.t.Helper()
	rest, ok := strings.CutPrefix(item.URL, base+"/$export-file/")
	if !ok {
		w.t.Fatalf("url %s is not absolute", item.URL)
	}
	id, name, _ := strings.Cut(rest, "/")
	f, err := w.exporter.Open(context.Background(), c, id, name)
	if err != nil {
		w.t.Fatal(err)
	}
	var buf bytes.Buffer
	if err := f.WriteTo(context.Background(), &buf); err != nil {
		w.t.Fatal(err)
	}
	var ids []string
	for line := range strings.Lines(buf.String()) {
		var r struct{ ResourceType, ID string }
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.ResourceType != item.Type {
			w.t.Fatalf("line of %s: %v", item.Type, err)
		}
		if r.ID == "" {
			r.ID = strings.TrimSpace(line)
		}
		ids = append(ids, r.ID)
	}
	slices.Sort(ids)
	return ids
}

func (w *world) export(c audit.Caller, r Request) map[string][]string {
	w.t.Helper()
	m := w.manifest(c, w.kick(c, r))
	out := map[string][]string{}
	for _, f := range m.Output {
		out[f.Type] = w.file(c, f)
	}
	return out
}

func TestLevels(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	sys := w.export(c, Request{Level: System})
	if len(sys["Observation"]) != 9 || len(sys["Patient"]) != 3 || len(sys["Organization"]) != 1 ||
		len(sys["Group"]) != 1 || sys["Device"] != nil || sys["AuditEvent"] != nil {
		t.Errorf("system: %v", sys)
	}
	pat := w.export(c, Request{Level: Patients})
	if len(pat["Observation"]) != 9 || len(pat["Patient"]) != 3 || len(pat) != 2 {
		t.Errorf("patient: %v", pat)
	}
	grp := w.export(c, Request{Level: Group, GroupID: "g1"})
	if !slices.Equal(grp["Patient"], []string{"p1", "p3"}) || len(grp["Observation"]) != 6 || len(grp) != 2 {
		t.Errorf("group: %v", grp)
	}
	only := w.export(c, Request{Level: System,
		Params: url.Values{"_type": {"Patient", "Observation,Patient"}, "_outputFormat": {"ndjson"}, "_since": {""},
			"unknown": {""}}})
	if len(only) != 2 {
		t.Errorf("_type: %v", only)
	}
	scoped := w.export(w.caller("ehr", "Patient"), Request{Level: System})
	if len(scoped) != 1 || len(scoped["Patient"]) != 3 {
		t.Errorf("scope: %v", scoped)
	}
}

// TestSnapshotSinceAndRestart checks that the files do not hold later changes, also
// after a restart, and that the next export with _since holds all of them.
func TestSnapshotSinceAndRestart(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: System, Params: url.Values{"_type": {"Observation"}}})
	w.observation("later", "p1")
	w.observation("p1-o0", "p1") // a second version
	if _, err := w.st.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Op: store.Remove,
			Resource: fhir.Resource{Type: "Observation", ID: "p2-o1"}}}}); err != nil {
		t.Fatal(err)
	}
	w.exporter.Close()
	w.start()
	m := w.manifest(c, id)
	if got := w.file(c, m.Output[0]); len(got) != 9 || slices.Contains(got, "later") {
		t.Errorf("snapshot: %v", got)
	}
	m = w.manifest(c, w.kick(c, Request{Level: System,
		Params: url.Values{"_type": {"Observation"},
			"_since": {strings.Replace(m.TransactionTime, "Z", " 00:00", 1)}}}))
	if len(m.Output) != 1 || len(m.Deleted) != 1 {
		t.Fatalf("since: %+v", m)
	}
	got := w.file(c, m.Output[0])
	if !slices.Contains(got, "later") || !slices.Contains(got, "p1-o0") || slices.Contains(got, "p2-o1") {
		t.Errorf("since: %v", got)
	}
	del := w.file(c, m.Deleted[0])
	if len(del) != 1 || !strings.Contains(del[0], `"type":"transaction"`) ||
		!strings.Contains(del[0], `{"request":{"method":"DELETE","url":"Observation/p2-o1"}}`) {
		t.Errorf("deleted: %v", del)
	}
}

func TestWithdrawnConsent(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	id := w.kick(c, Request{Level: System, Params: url.Values{"_type": {"Observation"}}})
	m := w.manifest(c, id)
	withdraw := func(p string) {
		w.consents.mu.Lock()
		w.consents.withdrawn[p] = true
		w.consents.mu.Unlock()
		w.put("Consent", "c-"+p, `,"status":"inactive","patient":{"reference":"Patient/`+p+`"}`)
	}
	withdraw("p1")
	if got := w.file(c, m.Output[0]); len(got) != 6 || strings.Contains(strings.Join(got, " "), "p1-") {
		t.Errorf("after the withdrawal: %v", got)
	}
	// A block that is read before a withdrawal and written after it does not
	// contain the data of p3.
	f, err := w.exporter.Open(context.Background(), c, id, "Observation.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	out := &bytes.Buffer{}
	b := newBlock(f, out)
	walk, err := w.exporter.newWalk(t.Context(), f.job, []string{"Observation"}, c.Principal.Grant)
	if err != nil {
		t.Fatal(err)
	}
	err = walk.run(t.Context(), cursor{}, nil, func(it *item) bool {
		if err := b.add(t.Context(), it); err != nil {
			t.Error(err)
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	withdraw("p3")
	if err := b.flush(context.Background()); err != nil {
		t.Fatal(err)
	}
	if s := out.String(); strings.Contains(s, "Patient/p3") || strings.Count(s, "\n") != 3 ||
		strings.Count(s, "Patient/p2") != 3 {
		t.Errorf("written after the withdrawal: %q", s)
	}
}

// TestOwnershipDeletionExpiryLimits checks that clients cannot reach jobs of other
// clients, deleted jobs and expired jobs, and the limit on kept jobs.
func TestOwnershipDeletionExpiryLimits(t *testing.T) {
	w := newWorld(t)
	w.seed()
	ctx, c := context.Background(), w.caller("ehr")
	id := w.kick(c, Request{Level: System})
	w.manifest(c, id)
	other := w.caller("other")
	if _, err := w.exporter.Status(ctx, other, id, 0, Form3); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("another client polls: %v", err)
	}
	if err := w.exporter.Delete(ctx, other, id); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("another client deletes: %v", err)
	}
	if _, err := w.exporter.Open(ctx, w.caller("ehr", "Patient"), id,
		"Observation.ndjson"); fhir.KindOf(err) != fhir.Forbidden {
		t.Errorf("a token without the type: %v", err)
	}
	for _, name := range []string{"Device.ndjson", "../x", "AuditEvent.ndjson", deletedFile, errorFile, ""} {
		if _, err := w.exporter.Open(ctx, c, id, name); fhir.KindOf(err) != fhir.NotFound {
			t.Errorf("file %q: %v", name, err)
		}
	}
	if err := w.exporter.Delete(ctx, c, id); err != nil {
		t.Fatal(err)
	}
	if _, err := w.exporter.Status(ctx, c, id, 0, Form3); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("after the deletion: %v", err)
	}
	if _, err := w.exporter.Open(ctx, c, id, "Patient.ndjson"); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("a file after the deletion: %v", err)
	}
	id = w.kick(c, Request{Level: System})
	w.manifest(c, id)
	w.clock.Add(25 * time.Hour)
	if _, err := w.exporter.Status(ctx, c, id, 0, Form3); fhir.KindOf(err) != fhir.NotFound {
		t.Errorf("after a day: %v", err)
	}
	w.exporter.Close()
	w.opts.MaxKept = 2
	w.start()
	w.kick(c, Request{Level: System})
	w.kick(c, Request{Level: System})
	if _, err := w.exporter.KickOff(ctx, c, Request{Level: System}); fhir.KindOf(err) != fhir.TooMany {
		t.Errorf("over the limit: %v", err)
	}
}

func TestKickOffRejects(t *testing.T) {
	w := newWorld(t)
	w.seed()
	ctx := context.Background()
	for _, c := range []struct {
		r    Request
		who  audit.Caller
		want fhir.Kind
	}{
		{Request{Level: System, Params: url.Values{"_typeFilter": {"x"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"nonsense": {"x"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_outputFormat": {"csv"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_since": {"yesterday"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_since": {"2026-01-01"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_type": {"Nonsense"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_type": {"AuditEvent"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: Patients, Params: url.Values{"_type": {"Organization"}}}, w.caller("ehr"), fhir.Invalid},
		{Request{Level: System, Params: url.Values{"_type": {"Observation"}}}, w.caller("ehr", "Patient"),
			fhir.Forbidden},
		{Request{Level: System}, w.caller("ehr", "Nonsense"), fhir.Forbidden},
		{Request{Level: Group, GroupID: "absent"}, w.caller("ehr"), fhir.NotFound},
		{Request{Level: Group, GroupID: "g1"}, w.caller("ehr", "Patient"), fhir.Forbidden},
		{Request{Level: System}, audit.Caller{}, fhir.Unauthorized},
	} {
		if _, err := w.exporter.KickOff(ctx, c.who, c.r); err == nil || fhir.KindOf(err) != c.want {
			t.Errorf("%v: %v, want %d", c.r.Params, err, c.want)
		}
	}
	c := w.caller("ehr")
	m := w.manifest(c, w.kick(c, Request{Level: System, Lenient: true,
		Params: url.Values{"nonsense": {"x"}, "_type": {"Patient,Nonsense"}}}))
	if len(*m.Error) != 1 || len(m.Output) != 1 {
		t.Fatalf("lenient: %+v", m)
	}
	if lines := w.file(c, (*m.Error)[0]); len(lines) != 2 {
		t.Errorf("errors: %v", lines)
	}
}

// TestDisclosures checks that a download records one event per patient.
func TestDisclosures(t *testing.T) {
	w := newWorld(t)
	w.seed()
	c := w.caller("ehr")
	before := w.st.Log().Size()
	m := w.manifest(c, w.kick(c, Request{Level: Group, GroupID: "g1", Params: url.Values{"_type": {"Observation"}}}))
	if got := w.st.Log().Size() - before; got != 1 {
		t.Errorf("the kick-off has %d events", got)
	}
	w.file(c, m.Output[0])
	if got := w.st.Log().Size() - before; got != 3 {
		t.Errorf("kick-off and a download of two patients have %d events, want 3", got)
	}
}

func FuzzParseParameters(f *testing.F) {
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"},{"name":"_since","valueInstant":"2026-01-01T00:00:00Z"}]}`))
	f.Add([]byte(`{"resourceType":"Parameters","parameter":[{"name":"x","valueCoding":{"code":"y"}}]}`))
	f.Add([]byte(`{"parameter":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := ParseParameters(b)
		if (err == nil) == (v == nil) {
			t.Fatal("either both or neither of values and error returned")
		}
		if err == nil {
			r := Request{Level: System, Params: v}
			_, err := r.check(access.All(), search.ParseOptions{Base: base})
			if err != nil && fhir.KindOf(err) == fhir.Internal {
				t.Fatal(err)
			}
		}
	})
}
