package rest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir/access"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/clocktest"
	"pulsegate/fhir/cluster/role/roletest"
)

// bulkFile is an item of a manifest.
type bulkFile struct {
	Type, URL string
	Count     int
	FileSize  int64
}

type bulkManifest struct {
	TransactionTime, Request        string
	RequiresAccessToken             bool
	Output, Deleted, Error, Outcome []bulkFile
}

// await polls an export until it is complete.
func (o *operations) await(location string, header ...string) (m bulkManifest) {
	o.t.Helper()
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		resp, body := o.do("GET", location, "ehr", "", header...)
		if resp.StatusCode == 202 || resp.StatusCode == 429 {
			continue
		}
		if err := json.Unmarshal(body, &m); err != nil || resp.StatusCode != 200 {
			o.t.Fatalf("%d %s %v", resp.StatusCode, body, err)
		}
		return m
	}
	o.t.Fatal("timeout")
	return m
}

// TestKickOffShapes checks the ways to start an export: by GET, by POST with Parameters
// or without a body, with repeated parameters and with lists.
func TestKickOffShapes(t *testing.T) {
	o := newOperations(t)
	o.put("Patient", "p1", "")
	o.put("Patient", "p2", "")
	o.put("Organization", "h1", "")
	param := func(ps ...string) string {
		return `{"resourceType":"Parameters","parameter":[` + strings.Join(ps, ",") + `]}`
	}
	for _, c := range []struct {
		method, url, body string
		header            []string
		want              string
	}{
		{"POST", "/$export", "", nil, "Organization 1 Patient 2 "},
		{"POST", "/Patient/$export", "", nil, "Patient 2 "},
		{"GET", "/$export?_type=Patient&_type=Organization", "", nil, "Organization 1 Patient 2 "},
		{"GET", "/$export?_type=Patient,Organization", "", nil, "Organization 1 Patient 2 "},
		{"POST", "/$export", param(`{"name":"_type","valueString":"Patient"}`,
			`{"name":"_type","valueCode":"Organization"}`),
			[]string{"Content-Type", "application/fhir+json"}, "Organization 1 Patient 2 "},
		{"POST", "/$export", param(`{"name":"_type","valueString":"Patient,Organization"}`),
			[]string{"Content-Type", "application/json"}, "Organization 1 Patient 2 "},
		{"POST", "/Patient/$export", param(`{"name":"patient","valueReference":{"reference":"Patient/p2"}}`,
			`{"name":"_since","valueInstant":"2020-01-01T00:00:00Z"}`,
			`{"name":"allowPartialManifests","valueBoolean":true}`,
			`{"name":"_typeFilter","valueString":"Patient?_id=p1,p2"}`,
			`{"name":"_until","valueInstant":"2099-01-01T00:00:00Z"}`),
			[]string{"Content-Type", "application/fhir+json"}, "Patient 1 "},
		// The query counts only without a body, as @medplum/core sends it.
		{"POST", "/$export?_type=Patient", "", nil, "Patient 2 "},
		{"POST", "/$export?_type=Patient", param(), []string{"Content-Type", "application/fhir+json"},
			"Organization 1 Patient 2 "},
	} {
		resp, body := o.do(c.method, c.url, "ehr", c.body, append(c.header, "Prefer", "respond-async")...)
		if resp.StatusCode != 202 {
			t.Errorf("%s %s: %d %s", c.method, c.url, resp.StatusCode, body)
			continue
		}
		got := ""
		for _, f := range o.await(resp.Header.Get("Content-Location")).Output {
			got += fmt.Sprintf("%s %d ", f.Type, f.Count)
		}
		if got != c.want {
			t.Errorf("%s %s %s: %s, want %s", c.method, c.url, c.body, got, c.want)
		}
		o.do("DELETE", resp.Header.Get("Content-Location"), "ehr", "")
	}
	resp, _ := o.do("GET", "/Patient/$export?patient=Patient/p1", "ehr", "", "Prefer", "respond-async")
	if resp.StatusCode != 400 {
		t.Errorf("patient in a GET: %d", resp.StatusCode)
	}
}

// TestFileRequests checks HEAD, entity tags and ranges of files.
func TestFileRequests(t *testing.T) {
	o := newOperations(t)
	for i := range 50 {
		o.put("Patient", fmt.Sprintf("p%03d", i), "")
	}
	resp, _ := o.do("GET", "/$export?_type=Patient", "ehr", "", "Prefer", "respond-async")
	m := o.await(resp.Header.Get("Content-Location"), "Accept", "application/json;bulkdata=4.0")
	if m.Request != "" || m.Outcome == nil || m.Error != nil {
		t.Errorf("4.0: %+v", m)
	}
	f := m.Output[0]
	resp, whole := o.do("GET", f.URL, "ehr", "")
	tag := resp.Header.Get("ETag")
	if int64(len(whole)) != f.FileSize || f.Count != 50 || tag == "" || resp.Header.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("%+v %v", f, resp.Header)
	}
	if resp, body := o.do("HEAD", f.URL, "ehr", ""); resp.StatusCode != 200 || len(body) != 0 ||
		resp.ContentLength != f.FileSize || resp.Header.Get("ETag") != tag {
		t.Errorf("HEAD: %d %v", resp.StatusCode, resp.Header)
	}
	if resp, _ := o.do("GET", f.URL, "ehr", "", "Accept-Encoding", "gzip"); resp.Header.Get("ETag") != "W/"+tag ||
		resp.Header.Get("Accept-Ranges") != "" {
		t.Errorf("gzip: %v", resp.Header)
	}
	if resp, _ := o.do("GET", f.URL, "ehr", "", "If-None-Match", "W/"+tag); resp.StatusCode != 304 {
		t.Errorf("If-None-Match: %d", resp.StatusCode)
	}
	size := len(whole)
	for _, c := range []struct {
		header   []string
		want     int
		from, to int
	}{
		{[]string{"Range", "bytes=0-0"}, 206, 0, 1},
		{[]string{"Range", "bytes=10-19"}, 206, 10, 20},
		{[]string{"Range", "bytes=100-"}, 206, 100, size},
		{[]string{"Range", "bytes=-7"}, 206, size - 7, size},
		{[]string{"Range", "bytes=5-999999"}, 206, 5, size},
		{[]string{"Range", "bytes=5-9", "If-Range", tag}, 206, 5, 10},
		{[]string{"Range", "bytes=5-9", "If-Range", `"other"`}, 200, 0, size},
		{[]string{"Range", "bytes=5-9", "If-Range", "W/" + tag}, 200, 0, size}, // needs a strong tag
		{[]string{"Range", "bytes=5-9,20-30"}, 200, 0, size},
		{[]string{"Range", "bytes=9-5"}, 200, 0, size},
		{[]string{"Range", "lines=1-2"}, 200, 0, size},
		{[]string{"Range", "bytes=x-"}, 200, 0, size},
		{[]string{"Range", "bytes=99999999-"}, 416, 0, 0},
	} {
		resp, body := o.do("GET", f.URL, "ehr", "", c.header...)
		if resp.StatusCode != c.want || c.want != 416 && !bytes.Equal(body, whole[c.from:c.to]) {
			t.Errorf("%v: %d, %d bytes", c.header, resp.StatusCode, len(body))
		}
		want := ""
		switch c.want {
		case 206:
			want = fmt.Sprintf("bytes %d-%d/%d", c.from, c.to-1, size)
		case 416:
			want = fmt.Sprintf("bytes */%d", size)
		}
		if got := resp.Header.Get("Content-Range"); got != want {
			t.Errorf("%v: Content-Range %q, want %q", c.header, got, want)
		}
	}
	for _, method := range []string{"HEAD", "GET"} {
		if resp, _ := o.do(method, f.URL, "other", "", "Range", "bytes=0-0", "If-None-Match",
			tag); resp.StatusCode != 404 {
			t.Errorf("%s by another client: %d", method, resp.StatusCode)
		}
	}
}

func TestParseRange(t *testing.T) {
	for header, want := range map[string]string{
		"bytes=0-": "0 10 true", "bytes=0-4": "0 5 true", "bytes=9-20": "9 10 true", "bytes=-3": "7 10 true",
		"bytes=-30": "0 10 true", "bytes=-0": "10 10 true", "bytes=10-": "10 10 true", "bytes=-": "10 10 false",
		"bytes=": "0 0 false", "": "0 0 false", "bytes=3": "0 0 false", "bytes=99999999999999999999-": "",
	} {
		from, to, ok := parseRange(header, 10)
		if got := fmt.Sprint(from, to, ok); got != want && want != "" || want == "" && ok {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=1-2", int64(5))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if from, to, ok := parseRange(header, max(0, size)); ok && (from < 0 || to < 0 || to > max(0, size)) {
			t.Fatal(from, to)
		}
	})
}

// TestPolling checks that a client that polls too often is told to wait, that this does
// not end the export, and that other clients are not concerned.
func TestPolling(t *testing.T) {
	o := newOperations(t)
	var x *bulk.Exporter
	roles := roletest.New(o.st)
	p := roles.Process()
	x, err := bulk.New(t.Context(), bulk.Options{Store: o.st, Audit: o.audit, Clock: time.Now, Rand: rand.Reader,
		Base: "http://h/fhir", Roles: p, GrantFor: func(context.Context, string, string) (*access.Grant, error) {
			return access.All(), nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	clock := clocktest.At(time.Now())
	e := gin.New()
	g := e.Group("/fhir", func(c *gin.Context) {
		c.Set(keyPrincipal, &access.Principal{ClientID: c.GetHeader("X-Client"), TokenID: "t", Grant: access.All()})
	})
	Bulk{Exporter: x, Base: "http://h/fhir", Polls: 2, Clock: clock.Now}.Mount(g)
	do := func(method, url, client string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, url, nil)
		r.Header.Set("X-Client", client)
		r.Header.Set("Prefer", "respond-async")
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		return w
	}
	poll := map[string]string{}
	for _, client := range []string{"a", "b"} {
		poll[client] = do("GET", "/fhir/$export", client).Header().Get("Content-Location")
	}
	for range 10 {
		if w := do("GET", poll["a"], "a"); w.Code != 202 {
			t.Fatal(w.Code)
		}
	}
	w := do("GET", poll["a"], "a")
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "throttled") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	if w := do("GET", poll["b"], "b"); w.Code != 202 {
		t.Errorf("another client: %d", w.Code)
	}
	clock.Add(time.Second)
	if w := do("GET", poll["a"], "a"); w.Code != 202 {
		t.Errorf("after a second: %d", w.Code)
	}
}

// TestBulkDataClient replays the requests of smart-on-fhir/bulk-data-client, header by
// header, and reads the answers as it does.
func TestBulkDataClient(t *testing.T) {
	o := newOperations(t)
	for i := range 3 {
		o.put("Patient", fmt.Sprintf("p%d", i), `,"active":true`)
	}
	o.put("Group", "g1", `,"type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p1"}}]`)
	// src/lib/BulkDataClient.ts: kickOff, buildKickOffQuery and buildKickOffPayload.
	since := "2020-01-01T00:00:00.000+00:00"
	query := "?_outputFormat=application%2Ffhir%2Bndjson&_since=" +
		strings.ReplaceAll(strings.ReplaceAll(since, ":", "%3A"), "+", "%2B") +
		"&_type=Patient&_elements=id%2Cactive&includeAssociatedData=LatestProvenanceResources&_typeFilter=Patient%3Factive%3Dtrue"
	payload := `{"resourceType":"Parameters","parameter":[{"name":"_since","valueInstant":"` + since + `"},` +
		`{"name":"_type","valueString":"Patient"},{"name":"_elements","valueString":"id,active"},` +
		`{"name":"patient","valueReference":{"reference":"Patient/p1"}},{"name":"patient","valueReference":{"reference":"Patient/p2"}},` +
		`{"name":"_typeFilter","valueString":"Patient?active=true"},{"name":"_outputFormat","valueString":"application/fhir+ndjson"}]}`
	// The configuration's requests.headers are part of every request.
	kick := []string{"Accept", "application/fhir+json", "Accept-Encoding", "gzip, deflate, br", "User-Agent", "got",
		"X-Custom", "of the configuration", "Pragma", "no-cache"}
	for _, c := range []struct {
		method, url, body, prefer string
		want                      int
	}{
		{"GET", "/$export" + query, "", "respond-async", 3},
		{"GET", "/Patient/$export" + query, "", "respond-async, handling=lenient", 3},
		{"GET", "/Group/g1/$export" + query, "", "respond-async", 1},
		{"POST", "/Patient/$export", payload, "respond-async", 2},
		{"POST", "/Patient/$export", `{"resourceType":"Parameters","parameter":[]}`, "respond-async", 3},
		{"GET", "/$export" + query + "&allowPartialManifests=true", "", "respond-async", 3},
		{"GET", "/$export?allowPartialManifests=true&_outputFormat=ndjson&includeAssociatedData=RelevantProvenanceResources" +
			"&_type=Patient", "", "respond-async", 3},
		{"POST", "/Patient/$export", `{"resourceType":"Parameters","parameter":[` +
			`{"name":"allowPartialManifests","valueBoolean":true},{"name":"includeAssociatedData",` +
			`"valueString":"LatestProvenanceResources"},{"name":"_type","valueString":"Patient"}]}`, "respond-async", 3},
	} {
		header := append(kick[:len(kick):len(kick)], "Prefer", c.prefer)
		if c.body != "" {
			header = append(header, "Content-Type", "application/json")
		}
		resp, body := o.do(c.method, c.url, "ehr", c.body, header...)
		location := resp.Header.Get("content-location")
		if resp.StatusCode != 202 || location == "" {
			t.Fatalf("%s %s: %d %s", c.method, c.url, resp.StatusCode, body)
		}
		m := o.await(location, "Accept", "application/json") // waitForExport
		if len(m.Output) == 0 {
			t.Fatal("The export manifest output contains no files")
		}
		n := 0
		for _, f := range m.Output { // FileDownload.run: no Accept header
			resp, body := o.do("GET", f.URL, "ehr", "", "Accept-Encoding", "gzip, deflate, br, identity")
			if resp.StatusCode != 200 {
				t.Fatal(resp.StatusCode)
			}
			text := inflated(t, resp, body)
			lines := 0
			for line := range strings.Lines(text) {
				var r struct{ ResourceType string }
				if err := json.Unmarshal([]byte(line), &r); err != nil || r.ResourceType != f.Type {
					t.Errorf("%s: %v", line, err)
				}
				lines++
			}
			if f.Count != lines { // ParseNDJSON: expectedCount
				t.Errorf("%d lines, count %d", lines, f.Count)
			}
			n += lines
		}
		if n != c.want {
			t.Errorf("%s %s: %d resources, want %d", c.method, c.url, n, c.want)
		}
		if resp, _ := o.do("DELETE", location, "ehr", ""); resp.StatusCode != 202 { // cancelExport
			t.Errorf("DELETE: %d", resp.StatusCode)
		}
	}
}

func inflated(t *testing.T, resp *http.Response, body []byte) string {
	t.Helper()
	if resp.Header.Get("Content-Encoding") == "" {
		return string(body)
	}
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
