package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk/submit"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
)

// heartRate returns a phone-made heart rate of a patient, the n-th of a series.
func heartRate(patient string, n int) string {
	at := time.Date(2026, 1, 5, 0, 0, n, 0, time.UTC)
	return strings.NewReplacer("59408-5", "8867-4", "OxygenSaturation", "HeartRate", `"%"`, `"/min"`,
		"2026-01-05T08:00:01+01:00", at.Format(time.RFC3339)).Replace(
		saturation(patient, fmt.Sprintf("AAAAAAAA-0000-4000-8000-%012X", n), fmt.Sprint(50+n%50), profiled))
}

// submissions is a Data Consumer of the app, with a Data Provider that offers lines.
type submissions struct {
	a        *phoneApp
	consumer *submit.Consumer
	provider *httptest.Server
	grant    func(context.Context, string, string) (*access.Grant, error)
	by       audit.Caller
}

// newSubmissions returns submissions of one file of Observations, which lines writes.
func newSubmissions(a *phoneApp, lines func(io.Writer)) *submissions {
	a.t.Helper()
	a.bulkSubmit.Close()
	s := &submissions{a: a}
	s.provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/manifest") {
			fmt.Fprintf(w, `{"output":[{"type":"Observation","url":"http://%s/o.ndjson"}]}`, r.Host)
			return
		}
		lines(w)
	}))
	a.t.Cleanup(s.provider.Close)
	s.grant = func(context.Context, string, string) (*access.Grant, error) {
		g := a.grant
		g.Recipient, g.Consents = "app", a.services.consents
		return &g, nil
	}
	g, err := s.grant(a.t.Context(), "", "")
	if err != nil {
		a.t.Fatal(err)
	}
	s.by = audit.Caller{Principal: &access.Principal{ClientID: "app", Grant: g}}
	s.consumer = s.start(a.fhir)
	return s
}

// start starts a consumer that stores by w.
func (s *submissions) start(w submit.Writer) *submit.Consumer {
	s.a.t.Helper()
	c, err := submit.New(s.a.t.Context(), submit.Options{Store: s.a.store, Writer: w, Audit: s.a.audit.recorder,
		Clock: s.a.now, Base: s.a.fhirBase(),
		Policy:   egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true},
		GrantFor: s.grant})
	if err != nil {
		s.a.t.Fatal(err)
	}
	s.a.t.Cleanup(c.Close)
	return c
}

// submit submits the file under a name and returns the id of the submission.
func (s *submissions) submit(name string) string {
	s.a.t.Helper()
	p := &submit.Params{Submitter: submit.Identifier{Value: "clinic"}, SubmissionID: name, Status: "completed",
		ManifestURL: s.provider.URL + "/manifest", Base: s.a.fhirBase()}
	if err := s.consumer.Submit(s.a.t.Context(), s.by, p); err != nil {
		s.a.t.Fatal(err)
	}
	u, err := s.consumer.StatusURL(s.a.t.Context(), s.by, p)
	if err != nil {
		s.a.t.Fatal(err)
	}
	return u[strings.LastIndexByte(u, '/')+1:]
}

// await waits for the end of a submission and returns its manifest.
func (s *submissions) await(id string) (manifest string) {
	s.a.t.Helper()
	eventually(s.a.t, "the submission", func() bool {
		st, err := s.consumer.Status(s.a.t.Context(), s.by, id)
		if err != nil {
			s.a.t.Fatal(err)
		}
		manifest = string(st.Manifest)
		return st.Progress == ""
	})
	return manifest
}

// TestBulkSubmitSamples submits phone-made samples in bulk, twice: they are repaired and become
// Observations of the vendor, each once.
func TestBulkSubmitSamples(t *testing.T) {
	a := newPhoneApp(t)
	a.may(access.Create|access.Read, false)
	s := newSubmissions(a, func(w io.Writer) {
		for i := range 250 {
			fmt.Fprintln(w, heartRate("ada", i))
		}
		fmt.Fprintln(w, saturation("eve", saturationID, "0.97", profiled)) // has no consent
	})
	for n := range 2 {
		if m := s.await(s.submit(fmt.Sprint(n))); !strings.Contains(m, `"count":1,`) {
			t.Errorf("%s", m)
		}
	}
	if got := a.observations("ada"); len(got) != 250 {
		t.Errorf("%d Observations", len(got))
	}
	if got := a.observations("eve"); len(got) != 0 {
		t.Errorf("without a consent: %v", got)
	}
}

// BenchmarkBulkSubmit prints how many phone-made samples per second a submission stores
// durably, of a file with samples only, and of one with a document after each tenth.
func BenchmarkBulkSubmit(b *testing.B) {
	for _, every := range []int{0, 10} {
		b.Run(fmt.Sprintf("documents=%d", every), func(b *testing.B) {
			a := newPhoneApp(b)
			a.may(access.Create|access.Read|access.Update, false)
			s := newSubmissions(a, func(w io.Writer) {
				for i := range b.N {
					if every > 0 && i%every == 0 {
						fmt.Fprintf(w, `{"resourceType":"Observation","id":"d%d","status":"final","code":{"text":"x"},`+
							`"subject":{"reference":"Patient/ada"},"valueString":"v"}`+"\n", i)
						continue
					}
					fmt.Fprintln(w, heartRate("ada", i))
				}
			})
			b.ResetTimer()
			m := s.await(s.submit("s"))
			b.StopTimer()
			if strings.Contains(m, `"count":`) {
				b.Fatal(m)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

// dying is a Writer whose process ends at one of its calls: before what the call stores, or
// after it.
type dying struct {
	submit.Writer
	mu    sync.Mutex
	calls int // until the end
	after bool
	ended chan struct{}
}

func (d *dying) call(ctx context.Context, fn func() error) error {
	d.mu.Lock()
	d.calls--
	last := d.calls == 0
	d.mu.Unlock()
	if !last {
		return fn()
	}
	if d.after {
		if err := fn(); err != nil {
			return err
		}
	}
	close(d.ended)
	<-ctx.Done()
	return ctx.Err()
}

func (d *dying) Bundle(ctx context.Context, rq *interaction.Request, body []byte,
	returns interaction.Return) (p *interaction.Page, err error) {
	err = d.call(ctx, func() error { p, err = d.Writer.Bundle(ctx, rq, body, returns); return err })
	return p, err
}

func (d *dying) ReceiveAll(ctx context.Context, rq *interaction.Request, list []*interaction.PhoneMade) error {
	return d.call(ctx, func() error { return d.Writer.ReceiveAll(ctx, rq, list) })
}

// TestBulkSubmitCrashes ends the process of a submission of samples, with documents and lines
// that fail between them, at one call after the other. Each time, the next process continues
// it. Every line is stored once and every failure reported once.
func TestBulkSubmitCrashes(t *testing.T) {
	const lines = 3300
	a := newPhoneApp(t)
	a.may(access.Create|access.Read|access.Update|access.Search, false)
	samples, documents, bad := 0, 0, 0
	for i := range lines {
		switch {
		case i%100 == 7:
			documents++
		case i%100 == 50:
			bad++
		default:
			samples++
		}
	}
	s := newSubmissions(a, func(w io.Writer) {
		for i := range lines {
			switch {
			case i%100 == 7:
				fmt.Fprintf(w, `{"resourceType":"Observation","id":"d%d","status":"final","code":{"text":"x"},`+
					`"subject":{"reference":"Patient/ben"},"valueString":"v"}`+"\n", i)
			case i%100 == 50:
				fmt.Fprintln(w, heartRate("eve", i)) // has no consent
			default:
				fmt.Fprintln(w, heartRate("ada", i))
			}
		}
	})
	s.consumer.Close()
	var id string
	died := 0
	for call := 1; ; call++ {
		d := &dying{Writer: a.fhir, calls: 1 + call%2, after: call%3 > 0, ended: make(chan struct{})}
		s.consumer = s.start(d)
		if id == "" {
			id = s.submit("s")
		}
		over := make(chan struct{})
		go func() {
			defer close(over)
			for p := " "; p != "" && t.Context().Err() == nil; {
				select {
				case <-d.ended:
					return
				case <-time.After(time.Millisecond):
				}
				st, err := s.consumer.Status(t.Context(), s.by, id)
				if err != nil {
					t.Error(err)
					return
				}
				p = st.Progress
			}
		}()
		<-over
		s.consumer.Close()
		select {
		case <-d.ended:
			died++
			continue
		default:
		}
		break
	}
	if died < 3 {
		t.Errorf("the process ended %d times", died)
	}
	s.consumer = s.start(a.fhir)
	if m := s.await(id); !strings.Contains(m, fmt.Sprintf(`"count":%d,`, bad)) {
		t.Errorf("%d lines fail: %s", bad, m)
	}
	var outcomes strings.Builder
	if err := s.consumer.WriteOutcomes(t.Context(), s.by, id, "0.ndjson", &outcomes); err != nil {
		t.Fatal(err)
	}
	for i := 50; i < lines; i += 100 {
		if n := strings.Count(outcomes.String(), fmt.Sprintf("line %d of file", i+1)); n != 1 {
			t.Errorf("line %d has %d outcomes", i+1, n)
		}
	}
	got := a.observations("ada")
	if len(got) != samples {
		t.Errorf("%d samples, want %d", len(got), samples)
	}
	for i := 7; i < lines; i += 100 {
		r, _, err := a.store.Read(t.Context(), fhir.Ref{Type: "Observation", ID: fmt.Sprintf("d%d", i)}, 0)
		if err != nil || r.Version != 1 {
			t.Errorf("document %d: version %d, %v", i, r.Version, err)
		}
	}
	for id, text := range got {
		if !strings.Contains(text, `"versionId":"1"`) {
			t.Errorf("%s was stored twice", id)
		}
	}
}

// TestBulkSubmitGroups compares what a submission stores of samples with what single creates
// store of them: repeated and changed ones, deletions, several channels, and what a client
// that may not update leaves as it is.
func TestBulkSubmitGroups(t *testing.T) {
	a, cases, text := newPhoneApp(t), 0, ""
	s := newSubmissions(a, func(w io.Writer) { _, _ = io.WriteString(w, text) })
	rapid.Check(t, func(rt *rapid.T) {
		cases++
		one, other := fmt.Sprint("one", cases), fmt.Sprint("other", cases)
		for _, id := range []string{one, other} {
			a.patientWithConsent(id)
		}
		may := access.Create | access.Read | access.Search
		if rapid.Bool().Draw(rt, "update") {
			may |= access.Update
		}
		a.may(may, false)
		var alone, together []string
		for range rapid.IntRange(1, 12).Draw(rt, "lines") {
			n, value := rapid.IntRange(0, 8).Draw(rt, "sample"), rapid.IntRange(50, 52).Draw(rt, "value")
			var change []string
			switch rapid.IntRange(0, 5).Draw(rt, "kind") {
			case 0:
				change = []string{`"status":"final"`, `"status":"entered-in-error"`}
			case 1:
				change = []string{`"unit":"/min"`, `"unit":"parsec"`, `"code":"/min"`, `"code":"parsec"`}
			case 2:
				change = []string{`"status":"final"`, `"status":"final","issued":"2026-02-01T00:00:0` +
					fmt.Sprint(value-50) + `Z"`}
			}
			for list, patient := range map[*[]string]string{&alone: one, &together: other} {
				line := strings.Replace(heartRate(patient, n), fmt.Sprintf(`"value":%d`, 50+n),
					fmt.Sprintf(`"value":%d`, value), 1)
				*list = append(*list, strings.NewReplacer(change...).Replace(line))
			}
		}
		for _, line := range alone {
			a.do("POST", "/Observation", line) // some are refused
		}
		text = strings.Join(together, "\n")
		id := s.submit(other)
		s.await(id)
		if err := s.consumer.Delete(t.Context(), s.by, id); err != nil {
			rt.Fatal(err)
		}
		facts := func(patient string) (out []string) {
			for _, text := range a.observations(patient) {
				var o struct {
					Meta              struct{ VersionID string }
					Status            string
					EffectiveDateTime string
					ValueQuantity     struct{ Value json.Number }
				}
				if err := json.Unmarshal([]byte(text), &o); err != nil {
					t.Fatal(err)
				}
				out = append(out, fmt.Sprint(o))
			}
			slices.Sort(out)
			return out
		}
		if want, got := facts(one), facts(other); !slices.Equal(got, want) {
			rt.Fatalf("one by one:\n%q\ntogether:\n%q", want, got)
		}
	})
}
