package searchparameter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/searchparameter"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// defining returns a SearchParameter of Patient by gender, with a code and a status.
func defining(id, code, status string) fhir.Resource {
	return fhir.Resource{Type: "SearchParameter", ID: id, JSON: []byte(fhir.Prefix("SearchParameter", id) +
		fmt.Sprintf(`},"url":"urn:test:%s","status":"%s","code":"%s","base":["Patient"],"type":"token",`+
			`"expression":"Patient.gender"}`, id, status, code))}
}

func codes(r *search.Registry) (out []string) {
	for _, p := range r.Params("Patient") {
		if p.Defined() {
			out = append(out, p.Code+" "+p.URL)
		}
	}
	return out
}

// opened opens a store whose parameters follow it.
func opened(t *testing.T, fs vfs.FS) (*pebblestore.DB, *searchparameter.Parameters, func()) {
	t.Helper()
	ps := searchparameter.New(nil)
	db, err := pebblestore.Open("", pebblestore.Options{FS: fs, CacheBytes: 8 << 20, Registry: ps.Registry})
	if err != nil {
		t.Fatal(err)
	}
	stop, err := ps.Follow(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	return db, ps, func() {
		stop()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}

func put(t *testing.T, db *pebblestore.DB, rs ...fhir.Resource) {
	t.Helper()
	b := &store.Batch{}
	for _, r := range rs {
		b.Writes = append(b.Writes, store.Write{Resource: r})
	}
	if _, err := db.Commit(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// TestFollow writes SearchParameters past the checks. The registry must follow the
// commits before they are answered, in the order of ids, and be the same after a restart.
func TestFollow(t *testing.T) {
	fs := vfs.NewMem()
	db, ps, end := opened(t, fs)
	if codes(ps.Registry()) != nil || codes((*searchparameter.Parameters)(nil).Registry()) != nil {
		t.Error("an empty store defines parameters")
	}
	steps := []struct {
		write []fhir.Resource
		want  []string
	}{
		{[]fhir.Resource{defining("b", "one", "active")}, []string{"one urn:test:b"}},
		{[]fhir.Resource{defining("c", "two", "draft")}, []string{"one urn:test:b"}},
		{[]fhir.Resource{defining("c", "one", "active"), defining("d", "two", "active")},
			[]string{"one urn:test:b", "two urn:test:d"}},
		{[]fhir.Resource{defining("a", "name", "active")}, []string{"one urn:test:b", "two urn:test:d"}},
		{[]fhir.Resource{defining("b", "one", "retired")}, []string{"one urn:test:c", "two urn:test:d"}},
	}
	for i, s := range steps {
		before := ps.Registry()
		put(t, db, s.write...)
		if got := codes(ps.Registry()); !slices.Equal(got, s.want) {
			t.Errorf("step %d: %v, want %v", i, got, s.want)
		}
		select {
		case <-ps.Changed():
		default:
			if before != ps.Registry() {
				t.Errorf("step %d: the change is not announced", i)
			}
		}
	}
	before := ps.Registry()
	put(t, db, fhir.Resource{Type: "Patient", ID: "p", JSON: []byte(fhir.Prefix("Patient", "p") + `},"gender":"male"}`)})
	if ps.Registry() != before {
		t.Error("another resource makes a new registry")
	}
	states(t, ps, db, "a:  not ready: this version of the server does not support the definition", "c: one not ready: ",
		"d: two not ready: ")
	for more := true; more; {
		var err error
		if more, err = db.Reindex(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"a:  not ready: this version of the server does not support the definition", "c: one ready: ",
		"d: two ready: "}
	states(t, ps, db, want...)
	end()
	db, ps, end = opened(t, fs)
	defer end()
	if got := codes(ps.Registry()); !slices.Equal(got, steps[len(steps)-1].want) {
		t.Errorf("after a restart: %v", got)
	}
	states(t, ps, db, want...)
	put(t, db, defining("e", "one", "active"))
	states(t, ps, db, append(want,
		"e: one not ready: Patient already has a search parameter of this code, by another SearchParameter")...)
	if _, err := db.Commit(t.Context(), &store.Batch{Writes: []store.Write{{Op: store.Remove,
		Resource: fhir.Resource{Type: "SearchParameter", ID: "c"}}}}); err != nil {
		t.Fatal(err)
	}
	if got := codes(ps.Registry()); !slices.Equal(got, []string{"one urn:test:e", "two urn:test:d"}) {
		t.Errorf("after a deletion: %v", got)
	}
}

func states(t *testing.T, ps *searchparameter.Parameters, index store.Indexer, want ...string) {
	t.Helper()
	list, err := ps.States(t.Context(), index)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range list {
		ready := map[bool]string{true: "ready", false: "not ready"}[s.Index.Ready]
		got = append(got, fmt.Sprintf("%s: %s %s: %s", s.ID, s.Code, ready, s.Problem))
	}
	if !slices.Equal(got, want) {
		t.Errorf("states:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// failing is a store that fails to read while on is set.
type failing struct {
	store.Store
	on bool
}

func (f *failing) Read(ctx context.Context, ref fhir.Ref, at store.Seq) (r fhir.Resource, x *access.Facts, err error) {
	if f.on {
		return r, nil, errors.New("the disk fails")
	}
	return f.Store.Read(ctx, ref, at)
}

// TestFollowAfterFailure checks that a SearchParameter that could not be read takes effect
// later.
func TestFollowAfterFailure(t *testing.T) {
	ps := searchparameter.New(nil)
	db, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem(), CacheBytes: 8 << 20, Registry: ps.Registry})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	f := &failing{Store: db}
	stop, err := ps.Follow(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	f.on = true
	put(t, db, defining("a", "one", "active"))
	if got := codes(ps.Registry()); got != nil {
		t.Errorf("read in spite of the failure: %v", got)
	}
	f.on = false
	put(t, db, fhir.Resource{Type: "Patient", ID: "p", JSON: []byte(fhir.Prefix("Patient", "p") + `}}`)})
	if got := codes(ps.Registry()); !slices.Equal(got, []string{"one urn:test:a"}) {
		t.Errorf("after the failure: %v", got)
	}
}

// TestCheck refuses what cannot take effect beside the others.
func TestCheck(t *testing.T) {
	db, ps, end := opened(t, vfs.NewMem())
	defer end()
	put(t, db, defining("a", "one", "active"))
	for _, c := range []struct {
		next  fhir.Resource
		place string
	}{
		{defining("a", "one", "active"), ""},
		{defining("a", "two", "active"), ""},
		{defining("b", "two", "active"), ""},
		{defining("b", "one", "draft"), ""},
		{defining("b", "one", "active"), "SearchParameter.code"},
		{defining("b", "gender", "active"), "SearchParameter.code"},
	} {
		got, err := ps.Check(t.Context(), nil, &c.next, nil)
		var e *fhir.Error
		switch {
		case c.place == "" && (err != nil || got != &c.next):
			t.Errorf("%s: %v", c.next.JSON, err)
		case c.place != "" && (!errors.As(err, &e) || e.Kind != fhir.Unprocessable ||
			e.Issues[0].Expression[0] != c.place):
			t.Errorf("%s: %v", c.next.JSON, err)
		}
	}
	if got, err := ps.Check(t.Context(), nil, nil, &fhir.Resource{}); got != nil || err != nil {
		t.Errorf("a deletion: %v, %v", got, err)
	}
}
