package interaction_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

// zeros is randomness that makes two answers alike.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// without permits what comes from all vendors but one.
type without string

func (v without) Permits(_ string, f *access.Facts) bool { return f.Vendor != string(v) }

// TestOperationsReadNoMoreThanTheyMust tests that the results of $lastn and $stats do
// not depend on how the store finds the documents: newest first by their kinds, or by
// reading all of them.
func TestOperationsReadNoMoreThanTheyMust(t *testing.T) {
	answers, parts := 0, 0
	property := func(t *rapid.T) {
		st, err := pebblestore.Open("s", pebblestore.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := st.Close(); err != nil {
				t.Fatal(err)
			}
		}()
		rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
			Observer: "https://pg.example"})
		if err != nil {
			t.Fatal(err)
		}
		w := &readWorld{t: t, st: st}
		now := func() time.Time { return benchSince.AddDate(1, 0, 0) }
		fast := &interaction.Service{Store: st, Audit: rec, Clock: now, Rand: zeros{}, Base: "https://pg.example/fhir"}
		slow := &interaction.Service{Store: struct{ store.Store }{st}, Audit: rec, Clock: now, Rand: zeros{},
			Base: "https://pg.example/fhir"}
		for range rapid.IntRange(2, 8).Draw(t, "rounds") {
			w.write()
			for range rapid.IntRange(1, 4).Draw(t, "questions") {
				what, ask := w.question()
				a, errA := ask(fast)
				b, errB := ask(slow)
				if string(a) != string(b) || fhir.KindOf(errA) != fhir.KindOf(errB) {
					t.Fatalf("%s: %v, %v\n%s\n%s", what, errA, errB, a, b)
				}
				answers++
				if strings.Contains(string(a), `"entry"`) || strings.Contains(string(a), "valueQuantity") {
					parts++
				}
			}
		}
	}
	rapid.Check(t, property)
	for round := 0; parts < 100; round++ { // few cases, or chance, may show little
		if round == 50 {
			t.Fatalf("%d answers, %d with something in them: the test shows nothing", answers, parts)
		}
		rapid.Check(t, property)
	}
}

type readWorld struct {
	t  *rapid.T
	st store.Store
	n  int // samples
}

func (w *readWorld) pick(what string, of ...string) string {
	return rapid.SampledFrom(of).Draw(w.t, what)
}

// write commits some documents and samples, changes and deletions.
func (w *readWorld) write() {
	var b store.Batch
	used := map[string]bool{}
	for range rapid.IntRange(0, 12).Draw(w.t, "documents") {
		id := w.pick("id", "o1", "o2", "o3", "o4", "o5", "o6", "o7", "o8", "o9", "o10", "o11", "o12", "o13", "o14",
			"o15", "o16", w.sampleID(3), w.sampleID(8))
		if used[id] {
			continue
		}
		used[id] = true
		if rapid.IntRange(0, 7).Draw(w.t, "delete") == 0 {
			b.Writes = append(b.Writes, store.Write{Op: store.Remove,
				Resource: fhir.Resource{Type: "Observation", ID: id}})
			continue
		}
		var codings []string
		for range rapid.SampledFrom([]int{1, 1, 1, 1, 2, 2, 3, 0}).Draw(w.t, "codings") {
			codings = append(codings, fmt.Sprintf(`{"system":%q,"code":%q,"display":%q}`,
				w.pick("system", "http://loinc.org", "http://loinc.org", "urn:v"),
				w.pick("code", "a", "a", "b", "8867-4"), w.pick("display", "x", "y")))
		}
		code := `"text":"` + w.pick("text", "t", "u") + `"`
		if len(codings) > 0 {
			code = `"coding":[` + strings.Join(codings, ",") + `]`
		}
		when := w.pick("when", "", "", fmt.Sprintf(`"effectivePeriod":{"start":%q,"end":%q},`, w.time(), w.time()),
			`"effectivePeriod":{"end":"2026-03-01"},`)
		if rapid.Bool().Draw(w.t, "instant") {
			when = fmt.Sprintf(`"effectiveDateTime":%q,`, w.time())
		}
		value := w.pick("value", "62", "61.5", "1e2", "-3", "70") + `,"unit":"` + w.pick("unit", "beats", "bpm") +
			`","system":"http://unitsofmeasure.org","code":"` + w.pick("ucum", "/min", "/min", "1") + `"`
		extra := w.pick("extra", "", "", "", `,"modifierExtension":[{"url":"urn:x"}]`,
			`,"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"b"}]},"valueQuantity":{"value":`+
				value+`}}]`)
		body := fhir.Prefix("Observation", id) + `},"status":"` +
			w.pick("status", "final", "final", "amended", "entered-in-error") +
			`","category":[{"coding":[{"code":"` + w.pick("category", "vital-signs", "vital-signs", "activity") +
			`"}]}],"code":{` +
			code + `},"subject":{"reference":"Patient/` +
			w.pick("patient", "samples", "samples", "samples", "other") + `"},` + when +
			`"valueQuantity":{"value":` + value + `}` + extra + `}`
		b.Writes = append(b.Writes, store.Write{Vendor: w.pick("vendor", "apple", "apple", "oura"),
			Resource: fhir.Resource{Type: "Observation", ID: id, JSON: []byte(body)}})
	}
	if n := rapid.IntRange(0, 6).Draw(w.t, "samples"); n > 0 && len(used) == 0 {
		c := &series.Columns{}
		for range n {
			s := w.sample(w.n)
			w.n++
			c.Append(&s, 1)
		}
		b.Series, b.Probed = []store.SeriesWrite{{Template: benchTemplate(), Columns: c}}, w.st.LastSeq()
	}
	if _, err := w.st.Commit(context.Background(), &b); err != nil && fhir.KindOf(err) != fhir.Conflict {
		w.t.Fatal(err)
	}
}

func (w *readWorld) time() string {
	return benchSince.Add(time.Duration(rapid.IntRange(0, 40).Draw(w.t, "at")) * time.Second).Format(time.RFC3339)
}

func (w *readWorld) sample(n int) series.Sample {
	s := series.Sample{Start: benchSince.UnixMicro() + int64(n)*7e5, End: series.NoEnd}
	s.Values[0] = series.Decimal{Mant: int64(60 + n%7)}
	return s
}

// sampleID returns the id of a sample, which may not exist.
func (w *readWorld) sampleID(n int) string {
	s := w.sample(n)
	k := benchTemplate().Key(&s)
	return k.ID()
}

func (w *readWorld) question() (string, func(*interaction.Service) ([]byte, error)) {
	params := []access.Param{}
	if rapid.IntRange(0, 3).Draw(w.t, "granular") == 0 {
		params = append(params, access.Param{Name: w.pick("granular by", "category", "code", "device"),
			Any: []access.Token{{Code: w.pick("granted", "vital-signs", "a")}}})
	}
	grant := &access.Grant{Recipient: "r", Consents: without(w.pick("denied", "", "oura", "apple")),
		Rules: []access.Rule{{Type: "*", May: access.Read | access.Search, Params: params}}}
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "r", Grant: grant}},
		Line: "GET"}
	if rapid.IntRange(0, 2).Draw(w.t, "buckets") == 0 {
		ps := []interaction.Parameter{{Name: "subject", Value: "Patient/samples"}, {Name: "coding",
			Value: w.pick("coding", "http://loinc.org|a", "b", "http://loinc.org|8867-4", "urn:v|a")}}
		if rapid.Bool().Draw(w.t, "fixed") {
			ps = append(ps, interaction.Parameter{Name: "minutes", Value: w.pick("minutes", "1", "7", "1440")})
		} else {
			ps = append(ps, interaction.Parameter{Name: "calendar", Value: w.pick("calendar", "hour", "day", "week", "year")},
				interaction.Parameter{Name: "zone", Value: w.pick("zone", "UTC", "Asia/Kolkata", "America/St_Johns")})
		}
		if rapid.Bool().Draw(w.t, "bounded") {
			ps = append(ps, interaction.Parameter{Name: w.pick("bound", "start", "end"), Value: w.time()})
		}
		return fmt.Sprintf("$time-buckets %v by %+v", ps, grant), func(s *interaction.Service) ([]byte, error) {
			page, err := s.TimeBuckets(context.Background(), rq, ps)
			if err != nil {
				return nil, err
			}
			return page.Bytes(), nil
		}
	}
	if rapid.Bool().Draw(w.t, "stats") {
		ps := []interaction.Parameter{{Name: "subject", Value: "Patient/samples"},
			{Name: "statistic", Value: "average,minimum,maximum,count,total-count,median,std-dev"}}
		for range rapid.IntRange(1, 2).Draw(w.t, "codes") {
			ps = append(ps, interaction.Parameter{Name: "coding",
				Value: w.pick("coding", "http://loinc.org|a", "b", "http://loinc.org|8867-4", "urn:v|a")})
		}
		if rapid.Bool().Draw(w.t, "bounded") {
			ps = append(ps, interaction.Parameter{Name: "period", Value: w.time() + "/"})
		}
		return fmt.Sprintf("$stats %v by %+v", ps, grant), func(s *interaction.Service) ([]byte, error) {
			return s.Stats(context.Background(), rq, ps)
		}
	}
	ps := []interaction.Parameter{{Name: "patient", Value: "samples"},
		{Name: "max", Value: w.pick("max", "1", "1", "2", "3")}}
	for range rapid.IntRange(1, 2).Draw(w.t, "clauses") {
		c := w.pick("clause", "code=a", "code=http://loinc.org|a", "code=a,b", "code:not=a", "category=vital-signs",
			"category:missing=false", "code:text=x", "code=8867-4")
		name, value, _ := strings.Cut(c, "=")
		ps = append(ps, interaction.Parameter{Name: name, Value: value})
	}
	if rapid.IntRange(0, 2).Draw(w.t, "more") == 0 {
		c := w.pick("another", "status=final", "status:not=entered-in-error", "date=lt"+w.time(),
			"date=ge"+w.time(), "value-quantity=gt62", "_id=o1,o2,o3")
		name, value, _ := strings.Cut(c, "=")
		ps = append(ps, interaction.Parameter{Name: name, Value: value})
	}
	return fmt.Sprintf("$lastn %v by %+v", ps, grant), func(s *interaction.Service) ([]byte, error) {
		page, err := s.LastN(context.Background(), rq, ps)
		if err != nil {
			return nil, err
		}
		return page.Bytes(), nil
	}
}

// TestLastNWhileWriting tests that a document of a new kind, written while the kinds
// are being learned, is found as soon as its writer is answered.
func TestLastNWhileWriting(t *testing.T) {
	st, err := pebblestore.Open("s", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	}()
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pg.example"})
	if err != nil {
		t.Fatal(err)
	}
	svc := &interaction.Service{Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader,
		Base: "https://pg.example/fhir"}
	rq := &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: "r",
		Grant: access.All()}}, Line: "GET"}
	ctx := context.Background()
	put := func(id, patient, system string, at int) error {
		body := fhir.Prefix("Observation", id) + `},"status":"final","code":{"coding":[{"system":"` + system +
			`","code":"a"}]},"subject":{"reference":"Patient/` + patient + `"},"effectiveDateTime":"` +
			benchSince.Add(time.Duration(at)*time.Hour).Format(time.RFC3339) + `"}`
		_, err := st.Commit(ctx, &store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: "Observation",
			ID: id, JSON: []byte(body)}}}})
		return err
	}
	last := func(patient string) (int, error) {
		page, err := svc.LastN(ctx, rq, []interaction.Parameter{{Name: "patient", Value: patient},
			{Name: "code", Value: "a"}})
		if err != nil {
			return 0, err
		}
		return strings.Count(string(page.Bytes()), `"fullUrl"`), nil
	}
	for i := range 150 {
		patient := fmt.Sprintf("p%d", i)
		for k := range 5 {
			if err := put(fmt.Sprintf("%s-%d", patient, k), patient, "urn:one", 100+k); err != nil {
				t.Fatal(err)
			}
		}
		wrote := make(chan error, 1)
		go func() { wrote <- put(patient+"-old", patient, "urn:two", 0) }()
		for done := false; !done; {
			select {
			case err := <-wrote:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
			n, err := last(patient)
			if err != nil || n < 1 || done && n != 2 {
				t.Fatalf("%s: %d Observations, written: %v; %v", patient, n, done, err)
			}
		}
	}
}
