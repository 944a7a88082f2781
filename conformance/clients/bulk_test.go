package clients

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"pulsegate/conformance/blackbox"
)

// bulkClient sends the requests of smart-on-fhir/bulk-data-client as its sources have
// them (src/lib/BulkDataClient.ts, FileDownload.ts and request.ts), because it is no
// package of npm: the same paths, parameters, headers and claims, and the same checks of
// the answers.
type bulkClient struct {
	*backend
	fhirURL, tokenURL, token string
}

// userAgent is the header that the client sends with each request.
const userAgent = "Bulk Data Client <https://github.com/smart-on-fhir/bulk-data-client>"

// detect finds the token endpoint in the smart-configuration at the root of the host,
// where the client looks for it.
func (b *bulkClient) detect() {
	b.fhirURL = b.world.srv.Base + "/fhir/"
	var conf struct {
		Token string `json:"token_endpoint"`
	}
	_, body := b.send("GET", b.world.srv.Base+"/.well-known/smart-configuration", nil, "Accept", "application/json")
	b.world.must(json.Unmarshal(body, &conf))
	b.tokenURL = conf.Token
	resp, body := b.send("GET", b.fhirURL+"metadata", nil, "Accept", "application/json")
	if resp.StatusCode != 200 || !bytes.Contains(body, []byte("CapabilityStatement")) {
		b.world.t.Errorf("metadata: %d", resp.StatusCode)
	}
}

// authorize requests a token for the scope that the client has by default, in the form
// of SMART 1.
func (b *bulkClient) authorize() {
	b.world.t.Helper()
	b.token = ""
	assertion, err := b.Assertion(hex.EncodeToString([]byte(blackbox.NewJTI())[:10]))
	b.world.must(err)
	form := url.Values{"scope": {"system/*.read"}, "grant_type": {"client_credentials"},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion":      {assertion}}
	resp, body := b.send("POST", b.tokenURL, []byte(form.Encode()), "Content-Type",
		"application/x-www-form-urlencoded", "Accept", "application/json")
	var tok struct {
		Access  string `json:"access_token"`
		Expires int    `json:"expires_in"`
	}
	b.world.must(json.Unmarshal(body, &tok))
	if resp.StatusCode != 200 || tok.Access == "" || tok.Expires == 0 {
		b.world.t.Fatalf("token: %d %s", resp.StatusCode, body)
	}
	b.token = tok.Access
}

// send sends a request and returns the answer, decompressed.
func (b *bulkClient) send(method, u string, body []byte, header ...string) (*http.Response, []byte) {
	b.world.t.Helper()
	r, err := http.NewRequest(method, u, bytes.NewReader(body))
	b.world.must(err)
	r.Header.Set("User-Agent", userAgent)
	r.Header.Set("Accept-Encoding", "gzip, deflate, br")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if b.token != "" {
		r.Header.Set("Authorization", "Bearer "+b.token)
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	b.world.must(err)
	in := io.Reader(resp.Body)
	switch encoding := resp.Header.Get("Content-Encoding"); encoding {
	case "gzip":
		in, err = gzip.NewReader(resp.Body)
		b.world.must(err)
	case "", "identity":
	default:
		b.world.t.Fatalf("%s: Content-Encoding %s", u, encoding)
	}
	out, err := io.ReadAll(in)
	b.world.must(err)
	b.world.must(resp.Body.Close())
	return resp, out
}

// kickOff starts an export and returns the status endpoint. With a body, it is a POST of
// Parameters.
func (b *bulkClient) kickOff(path string, query url.Values, parameters ...map[string]any) string {
	b.world.t.Helper()
	header := []string{"Accept", "application/fhir+json", "Prefer", "respond-async, handling=lenient"}
	method, body := "GET", []byte(nil)
	if len(parameters) > 0 {
		var err error
		method = "POST"
		body, err = json.Marshal(map[string]any{"resourceType": "Parameters", "parameter": parameters})
		b.world.must(err)
		header = append(header, "Content-Type", "application/json")
	}
	u := b.fhirURL + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	resp, answer := b.send(method, u, body, header...)
	location := resp.Header.Get("Content-Location")
	if resp.StatusCode != 202 || location == "" {
		b.world.t.Fatalf("%s %s: %d %s", method, u, resp.StatusCode, answer)
	}
	return location
}

// file is an entry of a manifest.
type file struct {
	Type, URL string
	Count     *int
}

// manifest is the part of a manifest that the client reads.
type manifest struct {
	Output, Deleted, Error []file
	RequiresAccessToken    bool
}

// wait polls the status endpoint at the rate of the client until the export is complete.
func (b *bulkClient) wait(status string) (m manifest) {
	b.world.t.Helper()
	for {
		resp, body := b.send("GET", status, nil, "Accept", "application/json")
		switch resp.StatusCode {
		case http.StatusOK:
			b.world.must(json.Unmarshal(body, &m))
			if len(m.Output) == 0 {
				b.world.t.Fatalf("a manifest without files: %s", body)
			}
			return m
		case http.StatusAccepted:
			if resp.Header.Get("X-Progress") == "" {
				b.world.t.Error("no X-Progress")
			}
			after, err := strconv.Atoi(resp.Header.Get("Retry-After"))
			b.world.must(err)
			<-time.After(min(max(time.Duration(after)*time.Second/10, time.Second), 10*time.Second))
		default:
			b.world.t.Fatalf("status: %d %s", resp.StatusCode, body)
		}
	}
}

// download reads the files of a list, and returns the number of resources by type.
func (b *bulkClient) download(m manifest, files []file, line string) map[string]int {
	b.world.t.Helper()
	out := map[string]int{}
	token := b.token
	defer func() { b.token = token }()
	if !m.RequiresAccessToken {
		b.token = ""
	}
	for _, f := range files {
		want := line
		if want == "" {
			want = f.Type
		}
		resp, body := b.send("GET", f.URL, nil, "Accept-Encoding", "gzip, deflate, br, identity")
		if resp.StatusCode != 200 {
			b.world.t.Fatalf("%s: %d %s", f.URL, resp.StatusCode, body)
		}
		n := 0
		for lines := bufio.NewScanner(bytes.NewReader(body)); lines.Scan(); n++ {
			var r struct{ ResourceType string }
			if err := json.Unmarshal(lines.Bytes(), &r); err != nil || r.ResourceType != want {
				b.world.t.Fatalf("%s: line %d is %q, want %s: %v", f.URL, n+1, r.ResourceType, want, err)
			}
		}
		if f.Count != nil && *f.Count != n {
			b.world.t.Errorf("%s: %d lines, the manifest counts %d", f.URL, n, *f.Count)
		}
		out[f.Type] += n
	}
	return out
}

// export runs a whole export and deletes it.
func (b *bulkClient) export(path string, query url.Values, parameters ...map[string]any) string {
	b.world.t.Helper()
	b.authorize()
	status := b.kickOff(path, query, parameters...)
	m := b.wait(status)
	out := fmt.Sprint(b.download(m, m.Output, ""))
	b.download(m, m.Deleted, "Bundle")
	b.download(m, m.Error, "OperationOutcome")
	if resp, body := b.send("DELETE", status, nil, "Accept", "application/json"); resp.StatusCode != 202 {
		b.world.t.Errorf("DELETE: %d %s", resp.StatusCode, body)
	}
	if resp, _ := b.send("GET", status, nil, "Accept", "application/json"); resp.StatusCode != 404 {
		b.world.t.Errorf("after DELETE: %d", resp.StatusCode)
	}
	return out
}

// bulkExports exports as bulk-data-client does with its options.
func bulkExports(t *testing.T, w *world) {
	of := *w
	of.t = t
	b := &bulkClient{backend: of.backend("Bulk", everything)}
	b.detect()
	const visit = "Observation?encounter=Encounter/exported"
	w.visit("demo-ada", "exported")
	param := func(name, typ string, value any) map[string]any { return map[string]any{"name": name, typ: value} }
	for name, x := range map[string]struct {
		path       string
		query      url.Values
		parameters []map[string]any
		want       string
	}{
		"--global": {"$export", url.Values{"_type": {"Patient"}}, nil, "map[Patient:3]"},
		"all patients with an output format": {"Patient/$export",
			url.Values{"_type": {"Patient"}, "_outputFormat": {"application/fhir+ndjson"}, "_elements": {"id,birthDate"}}, nil,
			"map[Patient:3]"},
		"--_typeFilter": {"Patient/$export", url.Values{"_type": {"Patient,Observation"},
			"_typeFilter": {visit + ",Patient?_id=demo-ada"}}, nil, "map[Observation:1 Patient:1]"},
		"--_since in local time": {"Patient/$export",
			url.Values{"_type": {"Patient"}, "_since": {"2020-03-01T00:00:00+01:00"}}, nil, "map[Patient:3]"},
		"--patient": {"Patient/$export", nil, []map[string]any{
			param("_since", "valueInstant", "2020-03-01T00:00:00+01:00"), param("_type", "valueString", "Patient"),
			param("_type", "valueString", "Observation"),
			param("patient", "valueReference", map[string]string{"reference": "Patient/demo-ada"}),
			param("_typeFilter", "valueString", visit)}, "map[Observation:1 Patient:1]"},
		"--lenient, with an unknown parameter": {"Patient/$export",
			url.Values{"_type": {"Patient"}, "custom": {"1"}}, nil, "map[Patient:3]"},
	} {
		if got := b.export(x.path, x.query, x.parameters...); got != x.want {
			t.Errorf("%s: %s, want %s", name, got, x.want)
		}
	}
	b.attachment(t)
}

// attachment exports a DocumentReference, and downloads the Binary of its attachment.
func (b *bulkClient) attachment(t *testing.T) {
	status, binary, err := b.JSON("POST", "Binary", []byte("plain text"), "Content-Type", "text/plain")
	b.world.must(err)
	if status != 201 {
		t.Fatalf("Binary: %d %v", status, binary)
	}
	relative := fmt.Sprint("Binary/", binary["id"])
	status, out, err := b.JSON("POST", "DocumentReference", fmt.Appendf(nil, `{"resourceType":"DocumentReference","status":"current",
"subject":{"reference":"Patient/demo-ada"},"content":[{"attachment":{"contentType":"text/plain","url":%q}}]}`, relative))
	b.world.must(err)
	if status != 201 {
		t.Fatalf("DocumentReference: %d %v", status, out)
	}
	b.authorize()
	m := b.wait(b.kickOff("Patient/$export", url.Values{"_type": {"DocumentReference"}}))
	_, line := b.send("GET", m.Output[0].URL, nil)
	if !strings.Contains(string(line), relative) {
		t.Errorf("the export has no %s: %s", relative, line)
	}
	resp, body := b.send("GET", b.fhirURL+relative, nil, "Accept", "text/plain")
	if resp.StatusCode != 200 || string(body) != "plain text" {
		t.Errorf("attachment: %d %s", resp.StatusCode, body)
	}
}
