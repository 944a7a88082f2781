package r4_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
)

const ns = `xmlns="http://www.w3.org/1999/xhtml"`

// inside wraps content in the div of a narrative.
func inside(s string) string { return `<div ` + ns + `>` + s + `</div>` }

var allowedNarrative = map[string]string{ // read only
	"text":               inside("Heart rate 62/min"),
	"single quotes":      `<div xmlns='http://www.w3.org/1999/xhtml'>x</div>`,
	"white space around": "\n <div " + ns + ">x</div>\n",
	"prose about script": inside("Do not paste javascript: links; the onload and onclick handlers, &lt;script&gt; and onerror=1 are text."),
	"entities":           inside("&nbsp;&auml;&szlig;&copy;&#169;&#xA9;&amp;&lt;"),
	"table":              inside(`<table border="1" cellpadding="2" summary="s"><caption>c</caption><colgroup span="2"><col width="10"/></colgroup><thead><tr><th scope="col" abbr="a">h</th></tr></thead><tfoot><tr><td>f</td></tr></tfoot><tbody><tr><td colspan="2" rowspan="1" align="left" nowrap="nowrap">d</td></tr></tbody></table>`),
	"lists":              inside(`<ul><li>a</li></ul><ol start="2"><li value="2">b</li></ol><dl><dt>c</dt><dd>d</dd></dl>`),
	"inline":             inside(`<h1>a</h1><h6>b</h6><p class="c" id="d" title="t">a<br/><b>b</b><i>i</i><tt>t</tt><em>e</em><strong>s</strong><sub>1</sub><sup>2</sup><q cite="http://x.test/">q</q><code>c</code><samp>s</samp><kbd>k</kbd><var>v</var><dfn>d</dfn><cite>c</cite><abbr>a</abbr><acronym>a</acronym><bdo dir="rtl">b</bdo><big>b</big><small>s</small><span>s</span></p><hr/><pre>p</pre><blockquote>b</blockquote><address>a</address>`),
	"languages":          `<div ` + ns + ` lang="en" xml:lang="en" xml:space="preserve">x</div>`,
	"links":              inside(`<a href="http://x.test/a">1</a><a href="#p1">2</a><a href="Observation/1">3</a><a name="p1">4</a><a href="mailto:a@x.test">5</a><a href="tel:+1">6</a><a href="urn:uuid:53fefa32-fcbb-4ff8-8a92-55ee120877b7">7</a>`),
	"image alone":        inside(`<img src="http://x.test/i.png" alt="a" width="1" height="1"/>`),
	"image in data":      inside(`<img src="data:image/png;base64,aGVsbG8=" alt="a"/>`),
	"image contained":    inside(`<img src="#pic"/>`),
	"image map":          inside(`<img src="a.png" usemap="#m" ismap="ismap"/><map name="m"><area shape="rect" coords="0,0,1,1" href="#a" alt="a"/></map>`),
	"style":              inside(`<p style="color: red; background: url('http://x.test/b.png')">x</p>`),
	"comment":            inside(`<!-- made by a machine -->x`),
	"comment of HL7":     inside(`<!-- <h2>Title</h2> [1] <br/> -->x`),
	"nested":             inside(strings.Repeat("<div>", 90) + "x" + strings.Repeat("</div>", 90)),
	"prefixed namespace": `<h:div xmlns:h="http://www.w3.org/1999/xhtml"><h:p>x</h:p></h:div>`,
}

var refusedNarrative = map[string]string{ // read only
	"not an element":        `x`,
	"no namespace":          `<div>x</div>`,
	"wrong namespace":       `<div xmlns="http://www.w3.org/1999/xhtml/">x</div>`,
	"SVG namespace":         inside(`<p xmlns="http://www.w3.org/2000/svg">x</p>`),
	"undeclared prefix":     inside(`<h:p>x</h:p>`),
	"upper case":            `<DIV ` + ns + `>x</DIV>`,
	"other root":            `<p ` + ns + `>x</p>`,
	"two roots":             inside("x") + inside("y"),
	"text after":            inside("x") + "y",
	"closed early":          inside(`</div><p>x</p><div ` + ns + `>`),
	"unclosed":              `<div ` + ns + `><p>x</div>`,
	"truncated":             `<div ` + ns + `>x`,
	"misnested":             inside(`<b><i>x</b></i>`),
	"br in HTML":            inside(`x<br>y`),
	"unquoted attribute":    inside(`<p class=a>x</p>`),
	"attribute twice":       inside(`<p class="a" class="b">x</p>`),
	"bare ampersand":        inside(`a & b`),
	"unknown entity":        inside(`&colon;`),
	"empty":                 `<div ` + ns + `/>`,
	"blank":                 `<div ` + ns + ">  \n\t<p> </p></div>",
	"image without source":  inside(`<img alt="a"/>`),
	"script":                inside(`<script>alert(1)</script>`),
	"script in upper case":  inside(`<SCRIPT>alert(1)</SCRIPT>`),
	"style element":         inside(`<style>p{}</style>x`),
	"iframe":                inside(`<iframe src="http://x.test/">x</iframe>`),
	"object":                inside(`<object data="a">x</object>`),
	"embed":                 inside(`<embed src="a"/>x`),
	"applet":                inside(`<applet code="a">x</applet>`),
	"form":                  inside(`<form action="a">x</form>`),
	"input":                 inside(`<input value="a"/>x`),
	"button":                inside(`<button>x</button>`),
	"meta":                  inside(`<meta http-equiv="refresh" content="0"/>x`),
	"link":                  inside(`<link rel="stylesheet" href="a"/>x`),
	"base":                  inside(`<base href="http://x.test/"/>x`),
	"body":                  inside(`<body>x</body>`),
	"svg":                   inside(`<svg/onload=alert(1)>x`),
	"svg element":           inside(`<svg xmlns="http://www.w3.org/2000/svg" onload="a">x</svg>`),
	"math":                  inside(`<math><mtext>x</mtext></math>`),
	"font":                  inside(`<font color="red">x</font>`),
	"ins":                   inside(`<ins>x</ins>`),
	"video":                 inside(`<video src="a">x</video>`),
	"details":               inside(`<details open="open">x</details>`),
	"event":                 inside(`<p onmouseover="a">x</p>`),
	"event on root":         `<div ` + ns + ` onclick="a">x</div>`,
	"event after newline":   inside("<img src=\"x\"\nonerror=\"a\"/>"),
	"event in upper case":   inside(`<p ONCLICK="a">x</p>`),
	"new event":             inside(`<p onpointerrawupdate="a">x</p>`),
	"srcset":                inside(`<img src="a" srcset="b"/>`),
	"formaction":            inside(`<p formaction="a">x</p>`),
	"xlink":                 inside(`<a xmlns:xlink="http://www.w3.org/1999/xlink" xlink:href="javascript:a">x</a>`),
	"xml base":              inside(`<p xml:base="http://x.test/">x</p>`),
	"source of a paragraph": inside(`<p src="a">x</p>`),
	"link of a paragraph":   inside(`<p href="a">x</p>`),
	"javascript":            inside(`<a href="javascript:a">x</a>`),
	"javascript as entity":  inside(`<a href="java&#115;cript:a">x</a>`),
	"javascript in case":    inside(`<a href="JaVaScRiPt:a">x</a>`),
	"javascript after tab":  inside(`<a href="java&#9;script:a">x</a>`),
	"javascript after line": inside("<a href=\"java\nscript:a\">x</a>"),
	"javascript after NUL":  inside(`<a href="&#1;javascript:a">x</a>`),
	"javascript after gap":  inside(`<a href="  javascript:a">x</a>`),
	"javascript in area":    inside(`<map name="m"><area href="javascript:a" alt="a"/></map>x`),
	"javascript in cite":    inside(`<q cite="javascript:a">x</q>`),
	"javascript in image":   inside(`<img src="javascript:a"/>`),
	"vbscript":              inside(`<a href="vbscript:a">x</a>`),
	"data link":             inside(`<a href="data:text/html;base64,aGVsbG8=">x</a>`),
	"file link":             inside(`<a href="file:///etc/passwd">x</a>`),
	"blob link":             inside(`<a href="blob:http://x.test/1">x</a>`),
	"data image in HTML":    inside(`<img src="data:text/html;base64,aGVsbG8="/>`),
	"data image in SVG":     inside(`<img src="data:image/svg+xml;base64,aGVsbG8="/>`),
	"data image in text":    inside(`<img src="data:image/png,&lt;svg&gt;"/>`),
	"style expression":      inside(`<p style="width: expression(a)">x</p>`),
	"style with comment":    inside(`<p style="width: exp/**/ression(a)">x</p>`),
	"style with escape":     inside(`<p style="width: \65xpression(a)">x</p>`),
	"style with script":     inside(`<p style="background: url(javascript:a)">x</p>`),
	"style with binding":    inside(`<p style="-moz-binding: url(http://x.test/)">x</p>`),
	"style with behavior":   inside(`<p style="behavior: url(a.htc)">x</p>`),
	"style with import":     inside(`<p style="@import 'http://x.test/a.css'">x</p>`),
	"style unclosed":        inside(`<p style="background: url(http://x.test/">x</p>`),
	"CDATA":                 inside(`<![CDATA[x > <img src=x onerror=a>]]>`),
	"comment with markup":   inside(`<!--> <img src="x" onerror="a"> -->x`),
	"comment with a dash":   inside(`<!---> <img src="x" onerror="a"> -->x`),
	"comment that ends":     inside(`<!-- a --!> <img src="x" onerror="a"> -->x`),
	"conditional comment":   inside(`<!--[if IE]> <img src="x" onerror="a"> <![endif]-->x`),
	"comment unclosed":      inside(`<!-- x`),
	"processing":            inside(`<?php a ?>x`),
	"XML declaration":       `<?xml version="1.0"?>` + inside("x"),
	"DOCTYPE":               `<!DOCTYPE div [<!ENTITY a "b">]>` + inside("&a;"),
	"DOCTYPE inside":        inside(`<!ELEMENT a>x`),
	"too deep":              inside(strings.Repeat("<div>", 5000) + "x" + strings.Repeat("</div>", 5000)),
	"too long":              inside(strings.Repeat("x", 1<<20)),
	"too many attributes":   inside(`<p ` + strings.Repeat(`a="" `, 100) + `>x</p>`),
}

// carriers lists the elements that can contain a narrative.
var carriers = []struct{ name, typ, before, after string }{ // read only
	{"text", "Patient", `{"resourceType":"Patient","id":"o1","text":{"status":"generated","div":`, `}}`},
	{"text of another type", "Observation",
		`{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"c"},"text":{"status":"additional","div":`, `}}`},
	{"contained", "Patient", `{"resourceType":"Patient","id":"o1","contained":[{"resourceType":"Organization","id":"x","name":"n","text":{"status":"generated","div":`, `}}],"managingOrganization":{"reference":"#x"}}`},
	{"contained section", "Observation",
		`{"resourceType":"Observation","id":"o1","status":"final","code":{"text":"c"},"contained":[{"resourceType":"Composition","id":"x","status":"final","type":{"text":"t"},"date":"2026","title":"t","author":[{"reference":"Patient/a"}],"section":[{"text":{"status":"generated","div":`, `}}]}],"extension":[{"url":"http://x.test/e","valueReference":{"reference":"#x"}}]}`},
}

// TestNarrative validates both lists in each carrier.
func TestNarrative(t *testing.T) {
	for _, c := range carriers {
		body := func(div string) []byte {
			quoted, err := json.Marshal(div)
			if err != nil {
				t.Fatal(err)
			}
			return []byte(c.before + string(quoted) + c.after)
		}
		for name, div := range allowedNarrative {
			if _, err := validator().Resource(c.typ, body(div), "o1"); err != nil {
				t.Errorf("%s, %s: %s", c.name, name, r4.OutcomeJSON(err))
			}
		}
		for name, div := range refusedNarrative {
			_, err := validator().Resource(c.typ, body(div), "o1")
			var e *fhir.Error
			if !errors.As(err, &e) {
				t.Errorf("%s, %s: accepted", c.name, name)
				continue
			}
			if path := strings.Join(e.Issues[0].Expression, ""); e.Kind != fhir.Unprocessable ||
				!strings.HasSuffix(path, ".text") {
				t.Errorf("%s, %s: kind %d at %s: %v", c.name, name, e.Kind, path, err)
			}
		}
	}
}

// TestNarrativeBoundIsShared tests that the size limit applies to all narratives
// of a resource together.
func TestNarrativeBoundIsShared(t *testing.T) {
	div, err := json.Marshal(inside(strings.Repeat("x", 300<<10)))
	if err != nil {
		t.Fatal(err)
	}
	part := func(id string) string {
		return `{"resourceType":"Practitioner","id":"` + id + `","text":{"status":"generated","div":` +
			string(div) + `}}`
	}
	body := func(ids ...string) []byte {
		var parts, refs []string
		for _, id := range ids {
			parts = append(parts, part(id))
			refs = append(refs, `{"reference":"#`+id+`"}`)
		}
		return []byte(`{"resourceType":"Patient","id":"o1","contained":[` + strings.Join(parts, ",") +
			`],"generalPractitioner":[` + strings.Join(refs, ",") + `]}`)
	}
	if _, err := validator().Resource("Patient", body("a", "b", "c"), "o1"); err != nil {
		t.Errorf("900 KiB: %s", r4.OutcomeJSON(err))
	}
	if _, err := validator().Resource("Patient", body("a", "b", "c", "d"), "o1"); fhir.KindOf(err) != fhir.Unprocessable {
		t.Errorf("1,200 KiB: %v", err)
	}
}

func FuzzNarrative(f *testing.F) {
	for _, s := range allowedNarrative {
		f.Add(s)
	}
	for name, s := range refusedNarrative {
		if !strings.HasPrefix(name, "too ") {
			f.Add(s)
		}
	}
	f.Fuzz(func(t *testing.T, div string) {
		quoted, err := json.Marshal(div)
		if err != nil {
			t.Fatal(err) // strings can always be marshaled
		}
		body := carriers[0].before + string(quoted) + carriers[0].after
		if _, err := validator().Resource("Patient", []byte(body), "o1"); err != nil {
			return
		}
		// An accepted narrative has none of these, even for a reader without XML.
		low := strings.ToLower(div)
		for _, s := range []string{"<script", "<svg", "<iframe", "<object", "<![cdata", "<?", "<!doctype"} {
			if strings.Contains(low, s) {
				t.Errorf("accepted %q", div)
			}
		}
	})
}
