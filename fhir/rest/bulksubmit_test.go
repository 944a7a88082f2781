package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
)

func submitParams(ps ...string) string {
	all := append([]string{`{"name":"submitter","valueIdentifier":{"system":"urn:x","value":"clinic"}}`}, ps...)
	return `{"resourceType":"Parameters","parameter":[` + strings.Join(all, ",") + `]}`
}

// TestBulkSubmitOverHTTP sends the requests of the guide, in its order.
func TestBulkSubmitOverHTTP(t *testing.T) {
	o := newOperations(t)
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Key") != "k" {
			w.WriteHeader(401)
			return
		}
		switch r.URL.Path {
		case "/manifest":
			fmt.Fprintf(w, `{"transactionTime":"2026-01-01T00:00:00Z","requiresAccessToken":false,"output":[{"type":"Patient","url":"http://%s/p.ndjson"}],"error":[]}`, r.Host)
		case "/p.ndjson":
			fmt.Fprint(w, `{"resourceType":"Patient","id":"a"}`+"\n"+
				`{"resourceType":"Patient","gender":"x","id":"b"}`+"\n")
		}
	}))
	defer provider.Close()
	kind := []string{"Content-Type", "application/fhir+json"}
	id := `{"name":"submissionId","valueString":"s1"}`
	manifest := `{"name":"manifestUrl","valueUrl":"` + provider.URL +
		`/manifest"},{"name":"fhirBaseUrl","valueUrl":"https://clinic.example/fhir"},` +
		`{"name":"fileRequestHeader","part":[{"name":"headerName","valueString":"X-Key"},{"name":"headerValue","valueString":"k"}]}`
	for _, c := range []struct {
		url, body string
		header    []string
		want      int
	}{
		{"/$bulk-submit", submitParams(id), kind, 400},
		{"/$bulk-submit", submitParams(id, manifest), nil, 415},
		{"/$bulk-submit", submitParams(id, manifest), append([]string{"Accept", "text/html"}, kind...), 406},
		{"/$bulk-submit", `{}`, kind, 400},
		{"/$bulk-submit", strings.Repeat(" ", maxParametersBody+1), kind, 413},
		{"/$bulk-submit-status", submitParams(id), kind, 404},
		{"/$bulk-submit", submitParams(id, strings.Replace(manifest, provider.URL, "https://10.0.0.1", 1)), kind, 400},
		{"/$bulk-submit", submitParams(id, manifest), kind, 200},
		{"/$bulk-submit", submitParams(id, manifest), kind, 400}, // twice the same
		{"/$bulk-submit", submitParams(id,
			`{"name":"submissionStatus","valueCoding":{"system":"http://hl7.org/fhir/event-status","code":"completed"}}`), kind, 200},
	} {
		resp, body := o.do("POST", c.url, "ehr", c.body, c.header...)
		if resp.StatusCode != c.want || !bytes.Contains(body, []byte("OperationOutcome")) {
			t.Errorf("%s %s: %d %s", c.url, c.body, resp.StatusCode, body)
		}
	}
	resp, body := o.do("POST", "/$bulk-submit-status", "ehr", submitParams(id),
		append([]string{"Prefer", "respond-async"}, kind...)...)
	location := resp.Header.Get("Content-Location")
	if resp.StatusCode != 202 || location == "" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	var m struct {
		SubmissionID, TransactionTime string
		Output                        []bulkFile
		Error                         []struct {
			URL, ManifestURL string
			Count            int
		}
	}
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("timeout")
		}
		resp, body := o.do("GET", location, "ehr", "", "Accept", "application/json")
		if resp.StatusCode == 202 {
			if resp.Header.Get("X-Progress") == "" || resp.Header.Get("Retry-After") == "" {
				t.Errorf("%v", resp.Header)
			}
			continue
		}
		if err := json.Unmarshal(body, &m); err != nil || resp.StatusCode != 200 {
			t.Fatalf("%d %s", resp.StatusCode, body)
		}
		break
	}
	if m.SubmissionID != "s1" || len(m.Error) != 1 || m.Error[0].ManifestURL != provider.URL+"/manifest" ||
		m.Error[0].Count != 1 {
		t.Errorf("%+v", m)
	}
	resp, body = o.do("GET", m.Error[0].URL, "ehr", "")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/fhir+ndjson" ||
		!bytes.Contains(body, []byte("https://clinic.example/fhir/Patient/b")) {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	for _, c := range []struct {
		method, url, client string
		want                int
	}{{"GET", location, "other", 404}, {"GET", m.Error[0].URL, "other", 404}, {"DELETE", location, "other", 404},
		{"GET", location, "", 404}, {"DELETE", location, "ehr", 202}, {"GET", location, "ehr", 404}} {
		if resp, _ := o.do(c.method, c.url, c.client, ""); resp.StatusCode != c.want {
			t.Errorf("%s %s by %q: %d", c.method, c.url, c.client, resp.StatusCode)
		}
	}
}

// TestBulkPublishOverHTTP reads the published files without a token.
func TestBulkPublishOverHTTP(t *testing.T) {
	o := newOperations(t)
	o.put("CodeSystem", "c1", `,"url":"`+fhir.Canonical+`/CodeSystem/c1","status":"active","content":"complete"`)
	o.put("Patient", "p1", "")
	resp, body := o.do("GET", "/$bulk-publish", "", "")
	var m bulkManifest
	if err := json.Unmarshal(body, &m); err != nil || resp.StatusCode != 200 ||
		resp.Header.Get("Content-Type") != "application/json" ||
		m.RequiresAccessToken || len(m.Output) != 1 || m.Output[0].Type != "CodeSystem" || m.Deleted == nil ||
		m.Error == nil {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if _, err := time.Parse(fhir.InstantLayout, m.TransactionTime); err != nil {
		t.Error(err)
	}
	if resp, _ := o.do("GET", "/$bulk-publish", "", "", "If-None-Match",
		resp.Header.Get("ETag")); resp.StatusCode != 304 {
		t.Errorf("If-None-Match: %d", resp.StatusCode)
	}
	resp, body = o.do("GET", m.Output[0].URL, "", "")
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/fhir+ndjson" ||
		!strings.Contains(resp.Header.Get("Cache-Control"), "immutable") || int64(len(body)) != m.Output[0].FileSize {
		t.Errorf("%d %v %s", resp.StatusCode, resp.Header, body)
	}
	if resp, part := o.do("GET", m.Output[0].URL, "", "", "Range", "bytes=2-5"); resp.StatusCode != 206 ||
		string(part) != string(body[2:6]) {
		t.Errorf("%d %s", resp.StatusCode, part)
	}
	if resp, _ := o.do("GET", "/$bulk-publish-file/Patient.ndjson", "", ""); resp.StatusCode != 404 {
		t.Errorf("%d", resp.StatusCode)
	}
}
