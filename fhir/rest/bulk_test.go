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
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/bulk/submit"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/fhir/subscription"
)

type operations struct {
	t   testing.TB
	srv *httptest.Server
	st  store.Store

	audit     *audit.Recorder
	closeMore func()
}

// newOperations mounts the operations beside routes of the shape of the API,
// for the client that the header X-Client names.
func newOperations(t testing.TB) *operations {
	t.Helper()
	gin.SetMode(gin.ReleaseMode)
	st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := audit.NewRecorder(audit.Options{Store: st, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://pulse.example.org"})
	if err != nil {
		t.Fatal(err)
	}
	o := &operations{t: t, st: st, audit: rec}
	grant := &access.Grant{AllPatients: true, Rules: access.All().Rules}
	e := gin.New()
	o.srv = httptest.NewServer(e)
	base := o.srv.URL + "/fhir"
	x, err := bulk.New(context.Background(),
		bulk.Options{Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: base,
			GrantFor: func(context.Context, string, string) (*access.Grant, error) { return grant, nil }})
	if err != nil {
		t.Fatal(err)
	}
	eng, err := subscription.New(context.Background(),
		subscription.Options{Store: st, Audit: rec, Clock: time.Now, Rand: rand.Reader, Base: base,
			GrantFor: func(context.Context, string) (*access.Grant, error) { return grant, nil }})
	if err != nil {
		t.Fatal(err)
	}
	notary, err := audit.OpenNotary(audit.NotaryOptions{Store: st, Dir: t.TempDir(), Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		o.srv.Close()
		eng.Close()
		x.Close()
		o.closeMore()
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	g := e.Group("/fhir", func(c *gin.Context) {
		if client := c.GetHeader("X-Client"); client != "" {
			c.Set(keyPrincipal, &access.Principal{ClientID: client, TokenID: "t", Grant: grant})
		}
	})
	Bulk{Exporter: x, Base: base}.Mount(g)
	o.mountMoreBulk(g, base, grant)
	Subscriptions{Engine: eng}.Mount(g)
	Sockets{Engine: eng, Auth: tokens{"ehr": grant}}.Mount(g)
	(&AuditLog{Store: st, Recorder: rec, Notary: notary, Clock: time.Now}).Mount(g)
	for _, p := range []string{"/:type", "/:type/:id", "/:type/:id/_history"} {
		g.GET(p, func(c *gin.Context) { c.String(http.StatusOK, "plain "+c.Param("type")+" "+c.Param("id")) })
	}
	return o
}

// mountMoreBulk mounts $bulk-submit and $bulk-publish.
func (o *operations) mountMoreBulk(g gin.IRouter, base string, grant *access.Grant) {
	validator, err := r4.New(r4.Limits{})
	if err != nil {
		o.t.Fatal(err)
	}
	service := &interaction.Service{Store: o.st, Validator: validator, Audit: o.audit, Clock: time.Now,
		Rand: rand.Reader,
		Base: base}
	consumer, err := submit.New(o.t.Context(),
		submit.Options{Store: o.st, Writer: service, Audit: o.audit, Clock: time.Now,
			Base: base,
			Policy: egress.Policy{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
				AllowHTTP: true},
			GrantFor: func(context.Context, string, string) (*access.Grant, error) { return grant, nil }})
	if err != nil {
		o.t.Fatal(err)
	}
	publisher := bulk.NewPublisher(o.st, base)
	o.closeMore = func() { consumer.Close(); publisher.Close() }
	BulkSubmit{Consumer: consumer}.Mount(g)
	BulkPublish{Publisher: publisher}.Mount(g)
}

func (o *operations) put(typ, id, rest string) {
	o.t.Helper()
	if _, err := o.st.Commit(context.Background(),
		&store.Batch{Writes: []store.Write{{Resource: fhir.Resource{Type: typ, ID: id,
			JSON: []byte(fhir.Prefix(typ, id) + "}" + rest + "}")}}}}); err != nil {
		o.t.Fatal(err)
	}
}

func (o *operations) do(method, url, client, body string, header ...string) (*http.Response, []byte) {
	o.t.Helper()
	if strings.HasPrefix(url, "/") {
		url = o.srv.URL + "/fhir" + url
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		o.t.Fatal(err)
	}
	req.Header.Set("X-Client", client)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := (&http.Transport{DisableCompression: true}).RoundTrip(req)
	if err != nil {
		o.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		o.t.Fatal(err)
	}
	return resp, b
}

func TestBulkOverHTTP(t *testing.T) {
	o := newOperations(t)
	for i := range 200 {
		o.put("Patient", fmt.Sprintf("p%03d", i),
			`,"name":[{"family":"Invented","given":["`+strings.Repeat("x", 50)+`"]}]`)
	}
	o.put("Group", "g1", `,"type":"person","actual":true,"member":[{"entity":{"reference":"Patient/p001"}}]`)
	async := []string{"Prefer", "respond-async", "Accept", "application/fhir+json"}
	for _, c := range []struct {
		method, url, body string
		header            []string
		want              int
	}{
		{"GET", "/$export", "", []string{"Accept", "application/fhir+json"}, 400},
		{"GET", "/$export", "", []string{"Accept", "text/html", "Prefer", "respond-async"}, 406},
		{"GET", "/$export?x=1", "", async, 400},
		{"GET", "/Group/none/$export", "", async, 404},
		{"GET", "/Patient/p001/$export", "", async, 404},
		{"POST", "/$export", "{}", append([]string{"Content-Type", "application/fhir+json"}, async...), 400},
		{"POST", "/$export", "{}", append([]string{"Content-Type", "text/plain"}, async...), 415},
		{"GET", "/$export-status/none", "", nil, 404},
		{"DELETE", "/$export-status/none", "", nil, 404},
		{"GET", "/$export-file/none/Patient.ndjson", "", nil, 404},
	} {
		resp, body := o.do(c.method, c.url, "ehr", c.body, c.header...)
		if resp.StatusCode != c.want || !bytes.Contains(body, []byte("OperationOutcome")) {
			t.Errorf("%s %s %v: %d %s", c.method, c.url, c.header, resp.StatusCode, body)
		}
	}
	for _, path := range []string{"/Patient/p1", "/Group/g1", "/Subscription/s1", "/Group/g1/_history",
		"/Subscription/s1/_history", "/Subscription", "/Patient", "/AuditEvent/a1"} {
		if resp, body := o.do("GET", path, "ehr", ""); resp.StatusCode != 200 ||
			!strings.HasPrefix(string(body), "plain") {
			t.Errorf("%s is shadowed: %d", path, resp.StatusCode)
		}
	}
	for _, k := range [][3]string{
		{"GET", "/Patient/$export?_type=Patient&_outputFormat=application/fhir%2Bndjson", ""},
		{"POST", "/$export", `{"resourceType":"Parameters","parameter":[{"name":"_type","valueString":"Patient"}]}`},
		{"GET", "/Group/g1/$export", ""},
	} {
		resp, body := o.do(k[0], k[1], "ehr", k[2],
			append([]string{"Content-Type", "application/fhir+json"}, async...)...)
		if resp.StatusCode != 202 {
			t.Fatalf("%s %s: %d %s", k[0], k[1], resp.StatusCode, body)
		}
		o.fetch(resp.Header.Get("Content-Location"), k[1])
	}
}

func (o *operations) fetch(location, url string) {
	t := o.t
	t.Helper()
	var m struct {
		TransactionTime, Request string
		RequiresAccessToken      bool
		Output, Deleted, Error   []struct{ Type, URL string }
	}
	for {
		resp, body := o.do("GET", location, "ehr", "")
		if resp.StatusCode == 202 {
			if resp.Header.Get("X-Progress") == "" || resp.Header.Get("Retry-After") == "" {
				t.Fatal("no X-Progress or Retry-After")
			}
			continue
		}
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" ||
			resp.Header.Get("Expires") == "" {
			t.Fatalf("%d %v", resp.StatusCode, resp.Header)
		}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Fatal(err)
		}
		break
	}
	if len(m.Output) != 1 || m.Deleted == nil || m.Error == nil || !m.RequiresAccessToken ||
		m.Request != o.srv.URL+"/fhir"+url {
		t.Fatalf("manifest %+v", m)
	}
	want := 200
	if strings.HasPrefix(url, "/Group") {
		want = 1
	}
	plain := ""
	for _, coding := range []string{"", "gzip", "zstd"} {
		resp, body := o.do("GET", m.Output[0].URL, "ehr", "", "Accept", "application/fhir+ndjson",
			"Accept-Encoding", coding)
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/fhir+ndjson" ||
			resp.Header.Get("Content-Encoding") != coding {
			t.Fatalf("%q: %d %v", coding, resp.StatusCode, resp.Header)
		}
		var r io.Reader = bytes.NewReader(body)
		var err error
		switch coding {
		case "gzip":
			r, err = gzip.NewReader(r)
		case "zstd":
			var z *zstd.Decoder
			z, err = zstd.NewReader(r)
			r = z
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil || strings.Count(string(text), "\n") != want {
			t.Fatalf("%q: %d lines, %v", coding, strings.Count(string(text), "\n"), err)
		}
		if coding == "" {
			plain = string(text)
		} else if plain != string(text) {
			t.Errorf("%s is not the same file", coding)
		}
	}
	for _, c := range []struct {
		method, client string
		want           int
	}{{"GET", "other", 404}, {"GET", "", 404}, {"DELETE", "other", 404}, {"DELETE", "ehr", 202}, {"GET", "ehr", 404}} {
		if resp, _ := o.do(c.method, location, c.client, ""); resp.StatusCode != c.want {
			t.Errorf("%s by %q: %d", c.method, c.client, resp.StatusCode)
		}
	}
	if resp, _ := o.do("GET", m.Output[0].URL, "ehr", ""); resp.StatusCode != 404 {
		t.Errorf("a file after the deletion: %d", resp.StatusCode)
	}
}

func TestOperationsOverHTTP(t *testing.T) {
	o := newOperations(t)
	for _, c := range []struct {
		method, url, client, body string
		want                      int
		in                        string
	}{
		{"GET", "/Subscription/$status", "ehr", "", 200, `"searchset","total":0`},
		{"POST", "/Subscription/$status", "ehr",
			`{"resourceType":"Parameters","parameter":[{"name":"id","valueId":"s1"}]}`, 200, `"searchset"`},
		{"POST", "/Subscription/$status", "ehr", `{}`, 400, "Outcome"},
		{"GET", "/Subscription/$status?nonsense=1", "ehr", "", 400, "Outcome"},
		{"GET", "/Subscription/s1/$status", "ehr", "", 404, "Outcome"},
		{"GET", "/Subscription/s1/$status", "", "", 403, "Outcome"},
		{"GET", "/Subscription/s1/$events?eventsSinceNumber=x", "ehr", "", 400, "Outcome"},
		{"GET", "/Subscription/s1/$events", "ehr", "", 404, "Outcome"},
		{"GET", "/AuditEvent/$checkpoint", "ehr", "", 200, "pulsegate/audit\n"},
		{"GET", "/AuditEvent/$checkpoint", "", "", 403, "Outcome"},
		{"POST", "/AuditEvent/$verify", "ehr", "", 200, `"ok":true`},
		{"POST", "/AuditEvent/$verify", "ehr", "nonsense", 200, `"ok":false`},
	} {
		resp, body := o.do(c.method, c.url, c.client, c.body)
		if resp.StatusCode != c.want || !strings.Contains(string(body), c.in) {
			t.Errorf("%s %s: %d %s", c.method, c.url, resp.StatusCode, body)
		}
	}
}
