package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/htmlview"
	"pulsegate/fhir/wire"
)

// TestNegotiation shows the answer's media type by Accept and _format, or 406.
func TestNegotiation(t *testing.T) {
	const browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
	for _, c := range []struct{ method, accept, query, want string }{
		{"GET", "", "", mimeFHIR},
		{"GET", " ", "", mimeFHIR},
		{"GET", "*/*", "", mimeFHIR},
		{"GET", "application/*", "", mimeFHIR},
		{"GET", "application/fhir+json", "", mimeFHIR},
		{"GET", "application/json", "", "application/json"},
		{"GET", "text/json", "", "text/json"},
		{"GET", "application/json+fhir", "", mimeFHIR},
		{"GET", "application/fhir+xml", "", mimeXML},
		{"GET", "Application/FHIR+XML ; Charset=UTF-8", "", mimeXML},
		{"GET", "application/xml", "", "application/xml"},
		{"GET", "text/xml", "", "text/xml"},
		{"GET", "application/xml+fhir", "", mimeXML},
		{"GET", "text/html", "", mimeHTML},
		{"GET", browser, "", mimeHTML},
		{"HEAD", browser, "", mimeHTML},
		{"POST", browser, "", "application/xml"},
		{"POST", "text/html", "", "406"},
		{"GET", "text/*", "", mimeHTML},
		{"POST", "text/*", "", "text/json"},
		// Qualities (RFC 9110 section 12.5.1).
		{"GET", "application/fhir+json;q=0.5, application/fhir+xml", "", mimeXML},
		{"GET", "application/fhir+xml;q=0.5, application/fhir+json;q=0.6", "", mimeFHIR},
		{"GET", "application/fhir+xml, application/fhir+json", "", mimeXML},
		{"GET", "*/*, application/fhir+xml", "", mimeXML},
		{"GET", "*/*;q=0.9, application/fhir+xml;q=0.1", "", mimeFHIR},
		{"GET", "*/*, application/fhir+json;q=0", "", mimeXML},
		{"GET", "application/*;q=0, */*", "", mimeHTML},
		{"GET", "application/fhir+json;q=0.000", "", "406"},
		{"GET", "application/fhir+json;q=2, application/fhir+xml;q=0.1", "", mimeXML},
		{"GET", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "", mimeHTML},
		{"POST", "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", "", mimeFHIR},
		// Versions and charsets.
		{"GET", "application/fhir+json; fhirVersion=4.0", "", mimeFHIR},
		{"GET", "application/fhir+xml; fhirVersion=4.0.1", "", mimeXML},
		{"GET", "application/fhir+json; fhirVersion=3.0", "", "406"},
		{"GET", "application/fhir+json; fhirVersion=5.0, application/fhir+xml; fhirVersion=4.0", "", mimeXML},
		{"GET", "application/fhir+json; charset=iso-8859-1", "", "406"},
		// Others.
		{"GET", "application/fhir+turtle", "", "406"},
		{"GET", "text/turtle, image/png", "", "406"},
		{"GET", "nonsense", "", "406"},
		{"GET", strings.Repeat("a/b,", 1000) + "application/fhir+json", "", "406"},
		// _format overrides Accept.
		{"GET", "application/fhir+json", "_format=xml", mimeXML},
		{"GET", "application/fhir+turtle", "_format=json", mimeFHIR},
		{"GET", browser, "a=b&_format=application/fhir%2Bxml", mimeXML},
		{"GET", "", "_format=application/fhir+xml", mimeXML},
		{"GET", "", "_format=application%2Ffhir%20xml", mimeXML},
		{"GET", "", "%5Fformat=XML", mimeXML},
		{"GET", "", "_format=text/xml", "text/xml"},
		{"GET", "", "_format=text/json", "text/json"},
		{"GET", "", "_format=application/json", "application/json"},
		{"GET", "", "_format=application/fhir%2Bjson;%20fhirVersion=4.0", mimeFHIR},
		{"GET", "", "_format=application/fhir%2Bjson;fhirVersion=5.0", "406"},
		{"GET", "", "_format=html", mimeHTML},
		{"GET", "", "_format=html/xml", mimeHTML},
		{"GET", "", "_format=text/html", mimeHTML},
		{"POST", "", "_format=html", "406"},
		{"GET", "", "_format=ttl", "406"},
		{"GET", "", "_format=*/*", "406"},
		{"GET", "application/fhir+xml", "_format=", mimeXML},
		{"GET", "application/fhir+xml", "_pretty=true", mimeXML},
		{"GET", "application/fhir+xml", "x=%zz&_format=%zz", "406"},
	} {
		q := &http.Request{Method: c.method, Header: http.Header{}}
		if c.accept != "" {
			q.Header.Set("Accept", c.accept)
		}
		r := negotiated(q, c.query)
		got := r.mime
		if r.failed {
			got = "406"
		}
		if got != c.want {
			t.Errorf("%s with Accept %.80q and ?%s: %s, want %s", c.method, c.accept, c.query, got, c.want)
		}
		if r.pretty != strings.Contains(c.query, "_pretty=true") {
			t.Errorf("?%s: pretty %v", c.query, r.pretty)
		}
	}
}

// steady removes what differs between two answers to the same request: the ids of
// Bundles, the links with the format, and the positions in a body.
func steady(v any) any {
	switch v := v.(type) {
	case map[string]any:
		if v["resourceType"] == "Bundle" {
			delete(v, "id")
			delete(v, "meta")
			delete(v, "link")
		}
		if v["severity"] != nil {
			delete(v, "extension")
			delete(v, "location")
		}
		for _, c := range v {
			steady(c)
		}
	case []any:
		for _, c := range v {
			steady(c)
		}
	}
	return v
}

// TestEverySurface asks for each kind of answer in JSON and in XML, by Accept and by
// _format. The two must be the same resource.
func TestEverySurface(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	w.put("Observation/o1", observation("o1", "p1", "vital-signs", 60), 201)
	w.put("Observation/o1", observation("o1", "p1", "vital-signs", 61), 200)
	w.put("Observation/o2", observation("o2", "p1", "vital-signs", 62), 201)
	const parameters = `{"resourceType":"Parameters","parameter":[{"name":"patient","valueString":"p1"},{"name":"category","valueString":"vital-signs"}]}`
	const batch = `{"resourceType":"Bundle","type":"batch","entry":[{"request":{"method":"GET","url":"Observation/o1"}},` +
		`{"request":{"method":"GET","url":"Observation?patient=p1"}},{"request":{"method":"GET","url":"Observation/none"}}]}`
	for _, c := range []struct {
		client, method, path, body string
		status                     int
	}{
		{"", "GET", "/metadata", "", 200},
		{"", "GET", "/OperationDefinition/ehr-bundle", "", 200},
		{"", "GET", "/OperationDefinition/none", "", 401},
		{"all", "GET", "/OperationDefinition/none", "", 404},
		{"", "GET", "/metadata?mode=wrong", "", 400},
		{"", "GET", "/Observation/o1", "", 401},
		{"", "POST", "/Observation", observation("", "p1", "vital-signs", 60), 401},
		{"", "GET", "/no/such/path", "", 401},
		{"all", "GET", "/no/such/path", "", 404},
		{"all", "PATCH", "/Observation/o1/_history/1", "", 405},
		{"all", "GET", "/Observation/o1", "", 200},
		{"all", "GET", "/Observation/o1?_elements=status", "", 200},
		{"all", "GET", "/Observation/none", "", 404},
		{"reader", "GET", "/Patient/p1", "", 403},
		{"all", "GET", "/Observation/o1/_history/1", "", 200},
		{"all", "GET", "/Observation/o1/_history", "", 200},
		{"all", "GET", "/Observation/o1/_history?_since=x", "", 400},
		{"all", "GET", "/Observation?patient=p1&_include=Observation:patient", "", 200},
		{"all", "GET", "/Observation?patient=p1&_count=1", "", 200},
		{"all", "GET", "/Observation?patient=p1&_summary=count", "", 200},
		{"all", "GET", "/Observation?wrong=1", "", 400},
		{"all", "GET", "/Observation/$lastn?patient=p1&category=vital-signs", "", 200},
		{"all", "POST", "/Observation/$lastn", parameters, 200},
		{"all", "POST", "/Observation/$lastn", `{"resourceType":"Patient"}`, 400},
		{"all", "GET", "/Observation/$stats?subject=Patient/p1&coding=http://loinc.org|8867-4&statistic=average",
			"", 200},
		{"all", "GET", "/Observation/$stats?subject=Patient/p1", "", 400},
		{"all", "GET", "/Patient/p2/$ehr-bundle", "", 200},
		{"all", "POST", "", batch, 200},
		{"all", "POST", "", `{"resourceType":"Bundle","type":"searchset"}`, 400},
		{"all", "PUT", "/Observation/o1", observation("o1", "nobody", "vital-signs", 60), 422},
		{"all", "PUT", "/Observation/o1",
			`{"resourceType":"Observation","id":"o1","status":"wrong","code":{"text":"a"}}`, 400},
	} {
		name := c.client + " " + c.method + " " + c.path
		var header []string
		xmlBody := c.body
		if c.body != "" {
			var b bytes.Buffer
			if err := wire.ToXML(&b, false, []byte(c.body)); err != nil {
				t.Fatal(err)
			}
			xmlBody, header = b.String(), []string{"Content-Type", "application/fhir+xml"}
		}
		inJSON := w.want(c.status, c.client, c.method, c.path, c.body)
		inXML := w.want(c.status, c.client, c.method, c.path, xmlBody,
			append(header, "Accept", "application/fhir+xml")...)
		sep := "?"
		if strings.Contains(c.path, "?") {
			sep = "&"
		}
		byParameter := w.want(c.status, c.client, c.method, c.path+sep+"_format=xml&_pretty=true", xmlBody, header...)
		if got := inJSON.header.Get("Content-Type"); got != "application/fhir+json; charset=utf-8" {
			t.Errorf("%s: %s", name, got)
		}
		for _, a := range []answer{inXML, byParameter} {
			if got := a.header.Get("Content-Type"); got != "application/fhir+xml; charset=utf-8" {
				t.Errorf("%s: %s", name, got)
			}
			if got := a.header.Get("Vary"); got != "Accept, Accept-Encoding" {
				t.Errorf("%s: Vary %q", name, got)
			}
			if !reflect.DeepEqual(steady(a.json), steady(inJSON.json)) {
				t.Errorf("%s: XML and JSON differ\n%v\n%v", name, a.json, inJSON.json)
			}
		}
		if !bytes.Contains(byParameter.body, []byte("?>\n<")) || bytes.Contains(inXML.body, []byte("\n")) {
			t.Errorf("%s: indented %.100s, not indented %.100s", name, byParameter.body, inXML.body)
		}
		if c.method != "GET" {
			continue
		}
		page := w.want(c.status, c.client, "GET", c.path, "", "Accept", "text/html")
		if page.header.Get("Content-Type") != "text/html; charset=utf-8" ||
			page.header.Get("Content-Security-Policy") != htmlview.Policy ||
			page.header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %v", name, page.header)
		}
		if rt, _ := inJSON.json["resourceType"].(string); !bytes.Contains(page.body, []byte(rt)) {
			t.Errorf("%s: %s", name, page.body)
		}
		signIn := bytes.Contains(page.body, []byte(`<a href="/auth/">sign in`))
		if signIn != (c.status == 401) {
			t.Errorf("%s: %s", name, page.body)
		}
	}
}

// TestWritesInXML writes and reads resources in XML.
func TestWritesInXML(t *testing.T) {
	onEveryStore(t, func(t *testing.T, w *world) {
		xml := func(s string) string {
			var b bytes.Buffer
			if err := wire.ToXML(&b, true, []byte(s)); err != nil {
				t.Fatal(err)
			}
			return b.String()
		}
		asXML := []string{"Content-Type", "application/fhir+xml; charset=utf-8", "Accept", "application/fhir+xml"}
		a := w.want(201, "all", "POST", "/Observation", xml(observation("", "p1", "vital-signs", 60)), asXML...)
		id := fmt.Sprint(a.json["id"])
		if a.header.Get("Content-Type") != "application/fhir+xml; charset=utf-8" ||
			!bytes.Contains(a.body, []byte(`<value value="60"/>`)) || !strings.Contains(a.header.Get("Location"), id) {
			t.Errorf("%v %s", a.header, a.body)
		}
		for _, media := range []string{"application/xml", "text/xml", "application/xml+fhir",
			"application/fhir+xml; fhirVersion=4.0"} {
			w.want(200, "all", "PUT", "/Observation/"+id, xml(observation(id, "p1", "vital-signs", 61)),
				"Content-Type", media)
		}
		a = w.want(200, "all", "PUT", "/Observation/"+id, xml(observation(id, "p1", "vital-signs", 62)),
			append(asXML, "Prefer", "return=OperationOutcome")...)
		if a.json["resourceType"] != "OperationOutcome" ||
			a.header.Get("Content-Type") != "application/fhir+xml; charset=utf-8" {
			t.Errorf("%s", a.body)
		}
		// The position of an error is that of the XML.
		body := strings.Replace(xml(observation(id, "p1", "vital-signs", 62)), `"final"`, `"wrong"`, 1)
		a = w.want(400, "all", "PUT", "/Observation/"+id, body, "Content-Type", "application/fhir+xml")
		if !bytes.Contains(a.body, []byte(`issue-line","valueInteger":4}`)) ||
			!bytes.Contains(a.body, []byte(`"Observation.status"`)) {
			t.Errorf("%s", a.body)
		}
		// A transaction, and in a batch one entry that is refused alone.
		for _, typ := range []string{"transaction", "batch"} {
			bundle := fmt.Sprintf(`{"resourceType":"Bundle","type":%q,"entry":[{"fullUrl":"urn:uuid:61ebe359-bfdc-4613-8bf2-c5e300945f0a","resource":%s,"request":{"method":"POST","url":"Observation"}},{"resource":%s,"request":{"method":"POST","url":"Observation"}}]}`,
				typ, observation("", "p1", "vital-signs", 60), observation("", "p1", "vital-signs", 61))
			a = w.want(200, "all", "POST", "", xml(bundle), asXML...)
			if bytes.Count(a.body, []byte(`<status value="201 Created"/>`)) != 2 {
				t.Errorf("%s: %s", typ, a.body)
			}
		}
		a = w.want(415, "all", "POST", "/Observation", "x", "Content-Type", "text/plain")
		if !bytes.Contains(a.body, []byte("application/fhir+json or application/fhir+xml")) {
			t.Errorf("%s", a.body)
		}
	})
}

// TestSearchFormFormat shows that _format and _pretty work in a form as in a query.
func TestSearchFormFormat(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	for _, query := range []string{"", "?_count=5"} {
		a := w.want(200, "all", "POST", "/Patient/_search"+query, "name=Muster&_format=xml&_pretty=true", form...)
		if a.header.Get("Content-Type") != "application/fhir+xml; charset=utf-8" ||
			!bytes.Contains(a.body, []byte("\n  <")) ||
			len(a.ids()) != 1 {
			t.Errorf("%v %s", a.header, a.body)
		}
	}
	w.want(200, "all", "POST", "/Patient/_search?_format=xml", "name=Muster", form...)
	w.want(406, "all", "POST", "/Patient/_search", "name=Muster&_format=ttl", form...)
	w.want(406, "all", "POST", "/Patient/_search?_format=ttl", "name=Muster", form...)
}

// TestPageIsSafe shows that nothing in a resource or a URL becomes markup of a page.
func TestPageIsSafe(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	w.put("Patient/evil", `{"resourceType":"Patient","id":"evil","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><b title=\"&quot;>\">bold &lt;script&gt;</b></div>"},"name":[{"family":"<script>alert(1)</script>\"'><img src=x>"}],"managingOrganization":{"display":"javascript:alert(1)"},"link":[{"other":{"reference":"Patient/p1"},"type":"seealso"}]}`, 201)
	for _, c := range []struct {
		status int
		path   string
	}{
		{200, "/Patient/evil"}, {200, "/Patient/evil?_format=html/xml"}, {400, "/Patient?x=%22%3E%3Cscript%3E"},
		{404, "/Patient/%3Cscript%3E"}, {200, "/Patient?_id=evil&_format=html"},
	} {
		page := string(w.want(c.status, "all", "GET", c.path, "", "Accept", "text/html").body)
		if strings.Contains(page, "<script") || strings.Contains(page, "<img") ||
			strings.Contains(page, `href="javascript`) ||
			strings.Contains(page, "Bearer") {
			t.Errorf("%s: %s", c.path, page)
		}
		if c.path == "/Patient/evil" && (!strings.Contains(page, `/fhir/Patient/p1">Patient/p1</a>`) ||
			!strings.Contains(page, `sandbox srcdoc="&lt;div xmlns=&#34;`) ||
			!strings.Contains(page, "&lt;script&gt;alert(1)")) {
			t.Errorf("%s", page)
		}
	}
	head := w.want(200, "all", "HEAD", "/Patient/evil", "", "Accept", "text/html")
	if head.header.Get("Content-Type") != "text/html; charset=utf-8" {
		t.Errorf("%v", head.header)
	}
}

// TestBrowserHasNoCookieAccess shows that a page needs the token that FHIR needs, and that
// a token in the URL is none.
func TestBrowserHasNoCookieAccess(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	for _, path := range []string{"/Patient/p1", "/Patient/p1?access_token=all", "/Patient/p1?token=all"} {
		page := w.want(401, "", "GET", path, "", "Accept", "text/html", "Cookie",
			"session=all; pulsegate=all; token=all")
		if bytes.Contains(page.body, []byte(canary)) || !bytes.Contains(page.body, []byte("Authorization")) {
			t.Errorf("%s", page.body)
		}
	}
}

// TestLongAnswersInXML shows that an answer larger than the buffer arrives whole, with and
// without compression, and that HEAD has the headers alone.
func TestLongAnswersInXML(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	for i := range 200 {
		id := fmt.Sprint("n", i)
		w.put("Observation/"+id, observation(id, "p1", "vital-signs", i), 201)
	}
	const path = "/Observation?patient=p1&_count=200&_format="
	for _, f := range []string{"xml", "html", "html/xml", "json&_pretty=true"} {
		a := w.want(200, "all", "GET", path+f, "")
		if len(a.body) < maxBuffered || !bytes.Contains(a.body, []byte("n199")) {
			t.Errorf("%s: %d bytes", f, len(a.body))
		}
		b := w.want(200, "all", "GET", path+f, "", "Accept-Encoding", "identity")
		if a.json != nil && !reflect.DeepEqual(steady(a.json), steady(b.json)) {
			t.Errorf("%s: compressed or not are two answers", f)
		}
		h := w.want(200, "all", "HEAD", path+f, "")
		if h.header.Get("Content-Type") != a.header.Get("Content-Type") {
			t.Errorf("%s: %v", f, h.header)
		}
	}
}

// TestUnconvertible shows that a fault of the server in the middle of a conversion is a 500
// in JSON, or an aborted answer, but never a complete one.
func TestUnconvertible(t *testing.T) {
	w := newWorld(t, newModelStore(time.Now))
	e := gin.New()
	wrong := []byte(`{"resourceType":"Patient","wrong":"` + canary + `"}`)
	long := [][]byte{[]byte(`{"resourceType":"Bundle","type":"batch","entry":[`)}
	for range 2000 {
		long = append(long, []byte(`{"resource":{"resourceType":"Patient","name":[{"family":"Muster"}]}},`))
	}
	long = append(long, []byte(`{"resource":`), wrong, []byte(`}]}`))
	e.GET("/fhir/short", func(c *gin.Context) { send(c, 200, wrong) })
	e.GET("/fhir/long", func(c *gin.Context) { send(c, 200, long...) })
	w.srv.Config.Handler = e
	a := w.want(500, "", "GET", "/short", "", "Accept", "application/fhir+xml")
	if a.header.Get("Content-Type") != "application/fhir+json; charset=utf-8" ||
		bytes.Contains(a.body, []byte(canary)) {
		t.Errorf("%v %s", a.header, a.body)
	}
	req, err := http.NewRequest("GET", w.srv.URL+"/fhir/long", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/fhir+xml")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var b bytes.Buffer
	if _, err := b.ReadFrom(resp.Body); err == nil {
		t.Errorf("a complete answer of %d bytes", b.Len())
	}
}

const storedBinary = `{"resourceType":"Binary","id":"b","contentType":"image/png","securityContext":{"reference":"Patient/p1"},"data":"AAH/"}`

// binaryWorld serves two Binaries, and echoes the resource of a POST. The function sends a
// request to it.
func binaryWorld(t *testing.T) func(method, path, accept, contentType, body string) (int, string, http.Header) {
	s := &Server{}
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	stored := []byte(storedBinary)
	json2 := []byte(`{"resourceType":"Binary","id":"j","contentType":"application/json","data":"e30="}`)
	e.GET("/fhir/:type/:id", s.negotiate, func(c *gin.Context) {
		body := stored
		if c.Param("id") == "j" {
			body = json2
		}
		r := binaryResource(body)
		s.resource(c, &r, nil)
	})
	e.POST("/fhir/:type", func(c *gin.Context) {
		b, err := s.resourceBody(c, refOf(c))
		if err != nil {
			fail(c, err)
			return
		}
		c.Data(200, mimeFHIR, b)
	})
	w := newWorld(t, newModelStore(time.Now))
	w.srv.Config.Handler = e
	return func(method, path, accept, contentType, body string) (int, string, http.Header) {
		t.Helper()
		req, err := http.NewRequest(method, w.srv.URL+"/fhir"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Accept", accept)
		req.Header.Set("Content-Type", contentType)
		if method == "POST" {
			req.Header.Set(securityContext, "Patient/p1")
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var b bytes.Buffer
		if _, err := b.ReadFrom(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, b.String(), resp.Header
	}
}

// TestBinary reads content and resources.
func TestBinary(t *testing.T) {
	do := binaryWorld(t)
	const resourceJSON, resourceXML = "application/fhir+json; charset=utf-8", "application/fhir+xml; charset=utf-8"
	for _, c := range []struct {
		path, accept string
		status       int
		media        string
	}{
		{"/Binary/b", "", 200, "image/png"},
		{"/Binary/b", "*/*", 200, "image/png"},
		{"/Binary/b", "image/png", 200, "image/png"},
		{"/Binary/b", "image/*", 200, "image/png"},
		{"/Binary/b", "text/html,*/*;q=0.8", 200, "image/png"},
		{"/Binary/b", "image/jpeg", 406, resourceJSON},
		{"/Binary/b", "image/jpeg, */*;q=0", 406, resourceJSON},
		{"/Binary/b", "application/fhir+json", 200, resourceJSON},
		{"/Binary/b", "application/fhir+xml", 200, resourceXML},
		{"/Binary/b", "application/json", 200, "application/json; charset=utf-8"},
		{"/Binary/b?_format=xml", "image/png", 200, resourceXML},
		{"/Binary/b?_summary=true", "*/*", 200, resourceJSON},
		{"/Binary/j", "application/json", 200, "application/json"},
		{"/Binary/j", "application/xml", 200, "application/xml; charset=utf-8"},
		{"/Binary/j", "application/fhir+json", 200, resourceJSON},
	} {
		status, body, h := do("GET", c.path, c.accept, "", "")
		if status != c.status || h.Get("Content-Type") != c.media {
			t.Errorf("%s as %q: %d %s %q, want %d %s", c.path, c.accept, status, h.Get("Content-Type"), body,
				c.status, c.media)
		}
		if c.media != "image/png" {
			continue
		}
		if body != "\x00\x01\xff" || h.Get("Content-Security-Policy") != sandbox ||
			h.Get("Content-Disposition") != "attachment" || h.Get(securityContext) != "Patient/p1" ||
			h.Get("ETag") != `W/"1"` {
			t.Errorf("%s: %q %v", c.path, body, h)
		}
	}
}

// TestBinaryWrites writes content and resources.
func TestBinaryWrites(t *testing.T) {
	do := binaryWorld(t)
	const written = `{"resourceType":"Binary","contentType":"%s","securityContext":{"reference":"Patient/p1"},"data":"%s"}`
	for _, c := range []struct{ media, body, want string }{
		{"image/png", "\x00\x01\xff", fmt.Sprintf(written, "image/png", "AAH/")},
		{"text/plain; charset=utf-8", "\xef\xbb\xbfa", fmt.Sprintf(written, "text/plain; charset=utf-8", "77u/YQ==")},
		{"application/json", "{}", fmt.Sprintf(written, "application/json", "e30=")},
		{"application/fhir+json", `{"resourceType":"Patient"}`,
			fmt.Sprintf(written, "application/fhir+json", "eyJyZXNvdXJjZVR5cGUiOiJQYXRpZW50In0=")},
		{"application/fhir+json", storedBinary, storedBinary},
		{"application/fhir+xml", `<Binary xmlns="http://hl7.org/fhir"><contentType value="image/png"/><data value="AAH/"/></Binary>`,
			`{"resourceType":"Binary","contentType":"image/png","data":"AAH/"}`},
	} {
		status, body, _ := do("POST", "/Binary", "", c.media, c.body)
		var got, want any
		if json.Unmarshal([]byte(body), &got) != nil || json.Unmarshal([]byte(c.want), &want) != nil ||
			status != 200 || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %d %s, want %s", c.media, status, body, c.want)
		}
	}
	if status, _, _ := do("POST", "/Binary", "", "", "a"); status != 415 {
		t.Errorf("no media type: %d", status)
	}
	if status, _, _ := do("POST", "/Binary", "", "image/png", ""); status != 400 {
		t.Errorf("no content: %d", status)
	}
}

func binaryResource(body []byte) fhir.Resource {
	return fhir.Resource{Type: "Binary", ID: "b", Version: 1, JSON: body}
}
