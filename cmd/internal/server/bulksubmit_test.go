package server

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk/submit"
	"pulsegate/fhir/egress"
)

// TestBulkSubmitSamples submits phone-made samples in bulk, twice: they are repaired and become
// Observations of the vendor, each once.
func TestBulkSubmitSamples(t *testing.T) {
	a := newPhoneApp(t)
	a.bulkSubmit.Close()
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/manifest") {
			fmt.Fprintf(w, `{"output":[{"type":"Observation","url":"http://%s/o.ndjson"}]}`, r.Host)
			return
		}
		for i := range 250 {
			id := fmt.Sprintf("AAAAAAAA-0000-4000-8000-%012X", i)
			line := strings.NewReplacer("59408-5", "8867-4", "OxygenSaturation", "HeartRate", `"%"`, `"/min"`,
				"08:00:01", fmt.Sprintf("08:%02d:%02d", i/60, i%60)).Replace(saturation("ada", id, "61", profiled))
			fmt.Fprintln(w, line)
		}
		fmt.Fprintln(w, saturation("eve", saturationID, "0.97", profiled)) // has no consent
	}))
	defer provider.Close()
	grant := func(context.Context, string, string) (*access.Grant, error) {
		g := a.grant
		g.Recipient, g.Consents = "app", a.services.consents
		return &g, nil
	}
	a.may(access.Create|access.Read, false)
	c, err := submit.New(t.Context(), submit.Options{Store: a.store, Writer: a.fhir, Audit: a.audit.recorder,
		Clock: a.now, Base: a.fhirBase(),
		Policy:   egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, AllowHTTP: true},
		GrantFor: grant})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	g, _ := grant(t.Context(), "", "")
	by := audit.Caller{Principal: &access.Principal{ClientID: "app", Grant: g}}
	for n := range 2 {
		p := &submit.Params{Submitter: submit.Identifier{Value: "clinic"}, SubmissionID: fmt.Sprint(n), Status: "completed",
			ManifestURL: provider.URL + "/manifest", Base: a.fhirBase()}
		if err := c.Submit(t.Context(), by, p); err != nil {
			t.Fatal(err)
		}
		u, err := c.StatusURL(t.Context(), by, p)
		if err != nil {
			t.Fatal(err)
		}
		id := u[strings.LastIndexByte(u, '/')+1:]
		eventually(t, "the submission", func() bool {
			s, err := c.Status(t.Context(), by, id)
			if err != nil {
				t.Fatal(err)
			}
			if s.Progress == "" && !strings.Contains(string(s.Manifest), `"count":1,`) {
				t.Errorf("%s", s.Manifest)
			}
			return s.Progress == ""
		})
	}
	if got := a.observations("ada"); len(got) != 250 {
		t.Errorf("%d Observations", len(got))
	}
	if got := a.observations("eve"); len(got) != 0 {
		t.Errorf("without a consent: %v", got)
	}
}
