package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
)

var drivers = map[string]func(t *testing.T) store.Store{
	"model": func(*testing.T) store.Store { return newModelStore(time.Now) },
	"pebble": func(t *testing.T) store.Store {
		st, err := pebblestore.Open("", pebblestore.Options{FS: vfs.NewMem()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Check(context.Background(), func(p string) { t.Error("store:", p) }); err != nil {
				t.Error(err)
			}
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		return st
	},
}

func TestReadWrite(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		a := w.want(201, "all", "POST", "/Observation", observation("ignored", "p1", "vital-signs", 60))
		id := fmt.Sprint(a.json["id"])
		if loc := a.header.Get("Location"); !strings.HasSuffix(loc, "/fhir/Observation/"+id+"/_history/1") ||
			id == "ignored" {
			t.Errorf("Location %q, id %q", loc, id)
		}
		if a.header.Get("ETag") != `W/"1"` || a.header.Get("Last-Modified") == "" ||
			a.header.Get("Cache-Control") != "no-store" || a.header.Get("X-Request-Id") == "" {
			t.Errorf("headers %v", a.header)
		}
		path := "/Observation/" + id
		a = w.want(200, "all", "GET", path, "")
		if !bytes.Contains(a.body, []byte(`"value":60,`)) ||
			a.header.Get("Content-Type") != "application/fhir+json; charset=utf-8" {
			t.Errorf("read: %s %v", a.body, a.header)
		}
		w.want(304, "all", "GET", path, "", "If-None-Match", `W/"1"`)
		w.want(304, "all", "GET", path, "", "If-Modified-Since", a.header.Get("Last-Modified"))
		w.want(200, "all", "GET", path, "", "If-None-Match", `W/"2"`)
		w.want(200, "all", "HEAD", path, "")
		next := observation(id, "p1", "vital-signs", 61)
		w.want(412, "all", "PUT", path, next, "If-Match", `W/"7"`)
		w.want(400, "all", "PUT", path, next, "If-Match", `seven`)
		a = w.want(200, "all", "PUT", path, next, "If-Match", `W/"1"`)
		if a.header.Get("ETag") != `W/"2"` {
			t.Errorf("update: %v", a.header)
		}
		w.want(400, "all", "PUT", "/Observation/other", next)
		w.want(412, "all", "PUT", "/Observation/absent", observation("absent", "p1", "vital-signs", 1), "If-Match",
			`W/"1"`)
		if a = w.want(200, "all", "GET", path+"/_history/1", ""); !bytes.Contains(a.body, []byte(`"value":60,`)) {
			t.Errorf("vread: %s", a.body)
		}
		w.want(404, "all", "GET", path+"/_history/9", "")
		w.want(404, "all", "GET", path+"/_history/x", "")
		if a = w.want(200, "all", "GET", path+"/_history", ""); len(a.ids()) != 2 || a.json["total"] != 2.0 {
			t.Errorf("history: %s", a.body)
		}
		a = w.want(200, "all", "GET", path+"/_history?_count=1", "")
		if a = w.want(200, "all", "GET", a.link("next"), ""); len(a.ids()) != 1 || a.link("next") != "" {
			t.Errorf("second page of the history: %s", a.body)
		}
		w.want(204, "all", "DELETE", path, "")
		w.want(204, "all", "DELETE", path, "")
		w.want(410, "all", "GET", path, "")
		w.want(404, "all", "DELETE", "/Observation/never", "")
		if a = w.want(200, "all", "GET", path+"/_history", ""); len(a.ids()) != 3 {
			t.Errorf("history after delete: %s", a.body)
		}
		if a = w.want(201, "all", "PUT", path, next); a.header.Get("ETag") != `W/"4"` {
			t.Errorf("brought back: %v", a.header)
		}
		own := strings.Replace(observation("", "p1", "vital-signs", 1), "Patient/p1", w.srv.URL+"/fhir/Patient/p1", 1)
		if a = w.want(201, "all", "POST", "/Observation", own); !bytes.Contains(a.body,
			[]byte(`"reference":"Patient/p1"`)) {
			t.Errorf("reference below our own base: %s", a.body)
		}
		w.want(422, "all", "POST", "/Observation", strings.Replace(own, "Patient/p1", "Patient/nobody", 1))
		if a = w.want(201, "all", "POST", "/Observation", observation("", "p1", "vital-signs", 1), "Prefer",
			"return=minimal"); len(a.body) != 0 {
			t.Errorf("return=minimal: %s", a.body)
		}
		if a = w.want(201, "all", "POST", "/Observation", observation("", "p1", "vital-signs", 1), "Prefer",
			"return=OperationOutcome"); a.json["resourceType"] != "OperationOutcome" {
			t.Errorf("return=OperationOutcome: %s", a.body)
		}
	})
}

func TestRefusals(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o1", observation("o1", "p1", "vital-signs", 70), 201)
		o := observation("", "p1", "vital-signs", 60)
		for _, c := range []struct {
			status                     int
			client, method, path, body string
			header                     []string
		}{
			{401, "", "GET", "/Observation/o1", "", nil},
			{401, "nobody", "GET", "/Observation", "", nil},
			{401, "", "GET", "/no/such/path/at/all", "", nil},
			{404, "all", "GET", "/no/such/path/at/all", "", nil},
			{404, "all", "GET", "/Nonsense", "", nil},
			{404, "all", "POST", "/Nonsense", `{"resourceType":"Nonsense"}`, nil},
			{404, "all", "GET", "/Observation/does-not-exist", "", nil},
			{404, "all", "GET", "/Observation/not_an_id", "", nil},
			{403, "reader", "POST", "/Observation", o, nil},
			{403, "reader", "GET", "/Patient/p1", "", nil},
			{403, "reader", "DELETE", "/Observation/o1", "", nil},
			{403, "vitals", "POST", "/Observation", observation("", "p1", "activity", 60), nil},
			{405, "all", "PUT", "/AuditEvent/a", `{"resourceType":"AuditEvent","id":"a"}`, nil},
			{405, "all", "POST", "/AuditEvent", `{"resourceType":"AuditEvent"}`, nil},
			{405, "all", "DELETE", "/AuditEvent/a", "", nil},
			{400, "all", "PATCH", "/Observation/o1", "[]", nil},
			{415, "all", "PATCH", "/Observation/o1", "[]", []string{"Content-Type", "application/json"}},
			{400, "all", "GET", "/Observation?favourite=1", "", nil},
			{400, "all", "GET", "/Observation?code:above=1", "", nil},
			{400, "all", "GET", "/Observation?date=yesterday", "", nil},
			{400, "all", "GET", "/Observation?__t=999999999&__after=x", "", nil},
			{400, "all", "GET", "/Observation?__page=AAAA", "", nil},
			{400, "all", "GET", "/Observation/o1/_history?_since=" + canary, "", nil},
			{400, "all", "POST", "/Observation", `{"resourceType":"Observation","status":"final","x` + canary + `"`,
				nil},
			{400, "all", "POST", "/Observation",
				`{"resourceType":"Observation","status":"final","status":"final","code":{"text":"` + canary + `"}}`,
				nil},
			{400, "all", "POST", "/Observation", `{"resourceType":"Patient"}`, nil},
			{400, "all", "POST", "/Observation", o, []string{"Content-Type", "application/fhir+xml"}},
			{415, "all", "POST", "/Observation", o, []string{"Content-Type", "application/fhir+turtle"}},
			{415, "all", "POST", "/Observation", o, []string{"Content-Type", "application/fhir+json; fhirVersion=5.0"}},
			{415, "all", "POST", "/Observation", o,
				[]string{"Content-Type", "application/fhir+xml; charset=iso-8859-1"}},
			{415, "all", "POST", "/Observation", o, []string{"Content-Encoding", "br"}},
			{400, "all", "POST", "/Observation", o, []string{"Content-Encoding", "gzip"}},
			{406, "all", "GET", "/Observation/o1", "", []string{"Accept", "application/fhir+turtle"}},
			{406, "all", "GET", "/Observation/o1?_format=ttl", "", nil},
			{413, "all", "POST", "/Observation", strings.Repeat(" ", 1<<20+1), nil},
			{422, "all", "POST", "/Observation", observation("", "nobody", "vital-signs", 60), nil},
			{409, "all", "DELETE", "/Patient/p1", "", nil},
			{400, "all", "POST", "", `{"resourceType":"Bundle","type":"searchset"}`, nil},
		} {
			a := w.do(c.client, c.method, c.path, c.body, c.header...)
			if a.status != c.status {
				t.Errorf("%s %s as %q: %d, want %d: %.300s", c.method, c.path, c.client, a.status, c.status, a.body)
			}
		}
		a := w.do("", "GET", "/Observation", "")
		if a.header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("WWW-Authenticate: %q", a.header.Get("WWW-Authenticate"))
		}
		w.want(200, "", "GET", "/metadata", "")
		if a := w.do("", "OPTIONS", "/Observation", "", "Origin", "https://app.example"); a.status != 204 ||
			a.header.Get("Access-Control-Allow-Origin") != "*" {
			t.Errorf("preflight: %d %v", a.status, a.header)
		}
		w.want(204, "all", "DELETE", "/Patient/p2", "")
		// Gzip bodies, and a bomb.
		zip := func(b []byte) string {
			var buf bytes.Buffer
			z := gzip.NewWriter(&buf)
			if _, err := z.Write(b); err != nil {
				t.Fatal(err)
			}
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			return buf.String()
		}
		w.want(201, "all", "POST", "/Observation", zip([]byte(o)), "Content-Encoding", "gzip")
		w.want(413, "all", "POST", "/Observation", zip(make([]byte, 4<<20)), "Content-Encoding", "gzip")
		for what, text := range map[string]string{"log": w.log.String(), "errors": w.errors.String()} {
			for _, leak := range []string{canary, "o1", "does-not-exist", "jti-"} {
				if strings.Contains(text, leak) {
					t.Errorf("%s hold %q", what, leak)
				}
			}
		}
		if !strings.Contains(w.log.String(), "route=/fhir/:type/:id") {
			t.Errorf("no access log: %.500s", w.log.String())
		}
	})
}

// TestHidden tests that hidden and absent resources cannot be told apart.
func TestHidden(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		for i := range 4 {
			w.put(fmt.Sprintf("Observation/a%d", i), observation(fmt.Sprintf("a%d", i), "p1", "activity", 60+i), 201)
			w.put(fmt.Sprintf("Observation/v%d", i), observation(fmt.Sprintf("v%d", i), "p2", "vital-signs", 60+i), 201)
		}
		w.put("Observation/member", strings.Replace(observation("member", "p2", "vital-signs", 1), `"effective`,
			`"hasMember":[{"reference":"Observation/a0"},{"reference":"Observation/v1"}],"effective`, 1), 201)
		w.want(204, "all", "DELETE", "/Observation/a3", "")
		check := func(client string) {
			t.Helper()
			for _, path := range []string{"", "/_history/1", "/_history"} {
				hid := w.want(404, client, "GET", "/Observation/a0"+path, "")
				gone := w.want(404, client, "GET", "/Observation/a3"+path, "")
				none := w.want(404, client, "GET", "/Observation/zz"+path, "")
				if !bytes.Equal(hid.body, none.body) || !bytes.Equal(gone.body, none.body) {
					t.Errorf("%s: hidden %s, deleted %s, absent %s", path, hid.body, gone.body, none.body)
				}
			}
			if hid, none := w.do(client, "DELETE", "/Observation/a0", ""),
				w.do(client, "DELETE", "/Observation/zz", ""); hid.status != 404 || !bytes.Equal(hid.body, none.body) {
				t.Errorf("delete: hidden %d %s, absent %d %s", hid.status, hid.body, none.status, none.body)
			}
			a := w.want(200, client, "GET", "/Observation?_total=accurate&_count=2", "")
			if a.json["total"] != 5.0 {
				t.Errorf("total: %v", a.json["total"])
			}
			if a = w.want(200, client, "GET", "/Observation?_summary=count", ""); a.json["total"] != 5.0 ||
				a.json["entry"] != nil {
				t.Errorf("_summary=count: %s", a.body)
			}
			if a = w.want(200, client, "GET", "/Observation", ""); !slices.Equal(a.ids(),
				[]string{"Observation/member", "Observation/v0", "Observation/v1", "Observation/v2",
					"Observation/v3"}) {
				t.Errorf("search: %v", a.ids())
			}
			if a = w.want(200, client, "GET", "/Observation?_id=member&_include=Observation:has-member",
				""); !slices.Equal(a.ids(), []string{"Observation/member", "Observation/v1"}) {
				t.Errorf("include: %v", a.ids())
			}
			a = w.want(200, client, "POST", "/",
				`{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Observation/a0"}},{"request":{"method":"GET","url":"Observation?code=8867-4&_summary=count"}}]}`)
			if !bytes.Contains(a.body, []byte(`"status":"404"`)) || !bytes.Contains(a.body, []byte(`"total":5`)) {
				t.Errorf("batch: %s", a.body)
			}
		}
		check("vitals") // by scope
		w.consents.set("p1", true)
		check("all") // by consent
		w.want(422, "all", "POST", "/Observation", observation("", "p1", "activity", 60))
		w.consents.set("p1", false)
		w.want(200, "all", "GET", "/Observation/a0", "")
		w.want(410, "all", "GET", "/Observation/a3", "")
	})
}

func TestSearch(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		var want []string
		for i := range 25 {
			id := fmt.Sprintf("o%02d", i)
			w.put("Observation/"+id, observation(id, "p1", "vital-signs", i), 201)
			want = append(want, "Observation/"+id)
		}
		var got []string
		url := "/Observation?patient=p1&_sort=date&_count=4"
		for page := 0; url != ""; page++ {
			a := w.want(200, "all", "GET", url, "")
			got = append(got, a.ids()...)
			// Later pages show neither resources that were created meanwhile
			// nor resources that were deleted.
			w.want(201, "all", "POST", "/Observation", observation("", "p1", "vital-signs", page))
			w.want(204, "all", "DELETE", fmt.Sprintf("/Observation/o%02d", 24-page), "")
			url = a.link("next")
		}
		slices.Sort(got)
		if !slices.Equal(got, want[:20]) { // the last five are gone when their page comes
			t.Errorf("pages: %v", got)
		}
		a := w.want(200, "all", "POST", "/Observation/_search", "patient=Patient/p1&code=8867-4&_summary=count",
			"Content-Type", "application/x-www-form-urlencoded")
		b := w.want(200, "all", "GET", "/Observation?patient=p1&code=8867-4&_summary=count", "")
		if a.json["total"] != b.json["total"] || a.json["total"] != 25.0 {
			t.Errorf("POST _search %v, GET %v", a.json["total"], b.json["total"])
		}
		a = w.want(200, "all", "GET", "/Observation?favourite=1&patient=p1", "", "Prefer", "handling=lenient")
		if self := a.link("self"); strings.Contains(self, "favourite") || !strings.Contains(self, "patient=p1") {
			t.Errorf("self after lenient handling: %s", self)
		}
		if a = w.want(200, "all", "GET", "/Observation?_id=o01&_include=Observation:subject",
			""); !slices.Equal(a.ids(), []string{"Observation/o01", "Patient/p1"}) || a.json["total"] != 1.0 {
			t.Errorf("_include: %s", a.body)
		}
		zipped(t, w, "/Observation?_count=20")
		a = w.want(200, "all", "GET", "/Observation?_id=o01&_elements=status", "")
		if bytes.Contains(a.body, []byte("valueQuantity")) || !bytes.Contains(a.body, []byte("SUBSETTED")) {
			t.Errorf("_elements: %s", a.body)
		}
	})
}

// zipped asks for gzip by hand: the client's own way hides it.
func zipped(t *testing.T, w *world, path string) {
	t.Helper()
	req, err := http.NewRequest("GET", w.srv.URL+"/fhir"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer all")
	req.Header.Set("Accept-Encoding", "gzip")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	z, err := gzip.NewReader(resp.Body)
	if err != nil || resp.Header.Get("Content-Encoding") != "gzip" {
		t.Fatalf("not gzip: %v %v", err, resp.Header)
	}
	if b, err := io.ReadAll(z); err != nil || !json.Valid(b) {
		t.Errorf("gzip: %v %.100s", err, b)
	}
}

func TestConditionalCreate(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		body := func(v int) string {
			return strings.Replace(observation("", "p1", "vital-signs", v), `"status"`,
				`"identifier":[{"system":"urn:x","value":"k"}],"status"`, 1)
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		created := 0
		for i := range 16 {
			wg.Go(func() {
				a := w.do("all", "POST", "/Observation", body(i), "If-None-Exist", "identifier=urn:x|k")
				mu.Lock()
				defer mu.Unlock()
				switch a.status {
				case 201:
					created++
				case 200:
				default:
					t.Errorf("conditional create: %d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
		if created != 1 {
			t.Errorf("%d created", created)
		}
		w.want(201, "all", "POST", "/Observation", body(1))
		w.want(412, "all", "POST", "/Observation", body(2), "If-None-Exist", "identifier=urn:x|k")
		w.want(400, "all", "POST", "/Observation", body(2), "If-None-Exist", "nonsense=1")
		w.want(412, "all", "POST", "/Observation", body(2), "If-None-Exist", "_count=1")
	})
}

func TestConcurrentUpdates(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		w.put("Observation/o", observation("o", "p1", "vital-signs", 0), 201)
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				if a := w.do("all", "PUT", "/Observation/o",
					observation("o", "p1", "vital-signs", i+1)); a.status != 200 {
					t.Errorf("update: %d %s", a.status, a.body)
				}
			})
		}
		wg.Wait()
		for v := 1; v <= 13; v++ {
			if n := w.audited(fmt.Sprintf(`"Observation/o/_history/%d"`, v)); n != 1 {
				t.Errorf("version %d: %d events", v, n)
			}
		}
	})
}
