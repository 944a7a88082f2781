package htmlview_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"html"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	chrome "pulsegate/conformance/browser"
	"pulsegate/fhir/htmlview"
)

const base = "https://pg.example/fhir"

// hostile has markup wherever a client can put text.
const hostile = `{"resourceType":"Patient","id":"evil","text":{"status":"generated","div":"<div xmlns=\"http://www.w3.org/1999/xhtml\"><p>Ada &amp; <b style=\"color: red\">Eve</b></p><img src=\"https://evil.example/x.png\" alt=\"x\"/><a href=\"https://evil.example\">out</a></div>"},"name":[{"family":"<script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>&amp;"}],"generalPractitioner":[{"reference":"Practitioner/dr-1"},{"reference":"javascript:alert(1)"},{"reference":"Practitioner/\"onmouseover=x"}],"multipleBirthInteger":-12,"active":true}`

const bundle = `{"resourceType":"Bundle","type":"searchset","link":[{"relation":"next","url":"https://pg.example/fhir/Patient?a=1&__page=x"},{"relation":"self","url":"https://evil.example/fhir/Patient"}],"entry":[{"fullUrl":"https://pg.example/fhir/Patient/1","resource":{"resourceType":"Patient","id":"1","managingOrganization":{"reference":"https://pg.example/fhir/Organization/o1"}}}]}`

func render(t testing.TB, p htmlview.Page, parts ...string) string {
	t.Helper()
	var all [][]byte
	for _, s := range parts {
		all = append(all, []byte(s))
	}
	var b bytes.Buffer
	if err := p.Write(&b, all...); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

var (
	markup = regexp.MustCompile(`<[^>]*>`)
	href   = regexp.MustCompile(`href="([^"]*)"`)
	code   = regexp.MustCompile(`(?s)<code>(.*)</code></pre>`)
)

// TestText shows that the page has the text of the resource, character by character, and
// that its tags are those of this package.
func TestText(t *testing.T) {
	long := `{"resourceType":"Binary","contentType":"<b>","data":"` + strings.Repeat("QUJD", 20_000) + `"}`
	for _, in := range []string{hostile, bundle, long, `{}`, `{"a":[],"b":{},"c":[1,-2.50e+7,null,"\"\\"]}`} {
		for _, asXML := range []bool{false, true} {
			if asXML && !strings.HasPrefix(in, `{"resourceType`) {
				continue
			}
			page := render(t, htmlview.Page{Base: base, Path: "/fhir/Patient", Status: 200, XML: asXML}, in)
			inside := code.FindStringSubmatch(page)
			if inside == nil {
				t.Fatal(page)
			}
			for _, tag := range markup.FindAllString(inside[1], -1) {
				switch {
				case tag == "</span>", tag == "</a>", strings.HasPrefix(tag, `<a href="https://pg.example/fhir`):
				case regexp.MustCompile(`^<span class="[ksna]">$`).MatchString(tag):
				default:
					t.Errorf("tag %s", tag)
				}
			}
			text := html.UnescapeString(markup.ReplaceAllString(inside[1], ""))
			if asXML {
				dec := xml.NewDecoder(strings.NewReader(text))
				for {
					if _, err := dec.Token(); errors.Is(err, io.EOF) {
						break
					} else if err != nil {
						t.Fatalf("%v in %.300s", err, text)
					}
				}
				continue
			}
			if got := strings.NewReplacer("\n", "", " ", "").Replace(text); got != strings.ReplaceAll(in, " ", "") {
				t.Errorf("text is\n%.300s\nwant\n%.300s", got, in)
			}
		}
	}
}

// TestLinks lists the links: to this server only, with the format that the page has.
func TestLinks(t *testing.T) {
	for _, asXML := range []bool{false, true} {
		for _, c := range []struct {
			in, format string
			want       []string
		}{
			{hostile, "", []string{base + "/Practitioner/dr-1"}},
			{bundle, "", []string{base + "/Patient?a=1&__page=x", base + "/Patient/1", base + "/Organization/o1"}},
			{bundle, "html", []string{base + "/Patient?a=1&__page=x&_format=html", base + "/Patient/1?_format=html",
				base + "/Organization/o1?_format=html"}},
		} {
			page := render(t, htmlview.Page{Base: base, Path: "/fhir/Patient", Status: 200, XML: asXML,
				Format: c.format}, c.in)
			var got []string
			for _, m := range href.FindAllStringSubmatch(code.FindString(page), -1) {
				got = append(got, html.UnescapeString(m[1]))
			}
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("%v\nwant\n%v", got, c.want)
			}
		}
	}
}

// TestFormats shows that the links to other formats keep the query.
func TestFormats(t *testing.T) {
	page := render(t, htmlview.Page{Base: base, Path: "/fhir/Patient", Query: "name=%22%3E&_format=html&_count=1",
		Status: 200}, `{}`)
	for _, want := range []string{`href="/fhir/Patient?name=%22%3E&amp;_count=1&amp;_format=html/xml"`,
		`href="/fhir/Patient?name=%22%3E&amp;_count=1&amp;_format=json&amp;_pretty=true"`} {
		if !strings.Contains(page, want) {
			t.Errorf("no %s in %s", want, page)
		}
	}
}

// FuzzPage checks that no resource adds a tag to a page.
func FuzzPage(f *testing.F) {
	f.Add(hostile, "/fhir/Patient", "a=b")
	f.Add(bundle, "/fhir/<script>", `"><script>`)
	f.Fuzz(func(t *testing.T, in, path, query string) {
		for _, asXML := range []bool{false, true} {
			var b bytes.Buffer
			p := htmlview.Page{Base: base, Path: path, Query: query, Status: 200, XML: asXML, Narrative: in}
			if p.Write(&b, []byte(in)) != nil {
				continue
			}
			page := strings.ToLower(b.String())
			if strings.Contains(page, "<script") || strings.Contains(page, "<img") ||
				strings.Count(page, "<iframe") > 1 {
				t.Fatal(b.String())
			}
		}
	})
}

// TestInBrowser opens pages in a browser: readable, accessible, and without any effect of
// what a resource contains.
func TestInBrowser(t *testing.T) {
	var asked []string
	srv := httptest.NewUnstartedServer(nil)
	srv.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		p := htmlview.Page{Base: srv.URL + "/fhir", Path: r.URL.Path, Query: r.URL.RawQuery, Status: 200,
			XML: r.URL.Query().Get("_format") == "html/xml", SignIn: "/auth/"}
		body := hostile
		switch r.URL.Path {
		case "/fhir/Patient/evil":
			p.Narrative = `<div xmlns="http://www.w3.org/1999/xhtml"><p>Ada &amp; Eve</p><img src="/image"/><script>parent.document.title='owned';fetch('/fetched')</script><a id="out" href="/out" target="_top">out</a></div>`
		case "/fhir/Patient":
			body = strings.ReplaceAll(bundle, base, srv.URL+"/fhir")
		case "/fhir/Observation/o1":
			p.Status, body = 401, `{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"login","diagnostics":"an access token is needed"}]}`
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", htmlview.Policy)
		w.WriteHeader(p.Status)
		if err := p.Write(w, []byte(body)); err != nil {
			t.Error(err)
		}
	})
	srv.Start()
	defer srv.Close()
	c := chrome.New(t, chrome.Options{Base: srv.URL})
	p := c.Person()
	p.Open("/fhir/Patient/evil")
	p.Wait("Practitioner/dr-1")
	p.Check("fhir-patient")
	if title := chrome.Eval[string](p, "document.title"); title != "Patient/evil · Pulsegate" {
		t.Errorf("title %q", title)
	}
	if n := chrome.Eval[int](p, `document.querySelectorAll("script, img").length`); n != 0 {
		t.Errorf("%d elements of the resource are in the page", n)
	}
	// The frame has an opaque origin, so the page cannot look into it.
	if chrome.Eval[bool](p, `document.querySelector("iframe").contentDocument !== null`) {
		t.Error("the narrative has the origin of the page")
	}
	p.Open("/fhir/Patient/evil?_format=html/xml")
	p.Wait("xmlns")
	p.Check("fhir-patient-xml")
	p.Open("/fhir/Patient")
	p.Wait("searchset")
	p.Check("fhir-bundle")
	p.Open("/fhir/Observation/o1")
	p.Wait("sign in to your account")
	p.Check("fhir-signin")
	for _, path := range asked {
		if !strings.HasPrefix(path, "/fhir/") && path != "/favicon.ico" {
			t.Errorf("the page asked for %s", path)
		}
	}
}
