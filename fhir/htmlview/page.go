package htmlview

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
	"net/url"
	"strings"

	"pulsegate/fhir/wire"
)

// Page describes a page.
type Page struct {
	// Base is the base URL of the FHIR API. URLs below it become links.
	Base string
	// Path is the path of the request, Query its query. They are shown, and the links to
	// other formats lead to them.
	Path, Query string
	Status      int
	XML         bool // show XML, otherwise JSON
	// Format is the value of _format that links on the page repeat, or empty if the
	// browser asks for HTML itself.
	Format string
	// Narrative is the XHTML of the resource's narrative, or empty. It must have been
	// validated.
	Narrative string
	// SignIn is the URL of the page for signing in, which is shown with status 401. It
	// may be empty.
	SignIn string
}

//go:embed style.css
var style string

// Policy is the Content-Security-Policy of a page.
var Policy = func() string { // read only
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}()

const head = `<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{.Title}} · Pulsegate</title>
<style>{{.Style}}</style>
</head>
<body>
<header><div><span class="brand"><svg viewBox="0 0 32 32" aria-hidden="true" focusable="false"><rect class="mark" width="32" height="32" rx="9"/><path class="line" d="M4.5 17h5l2.5-7 5 13 3-8.5 1.5 2.5h6"/></svg>Pulsegate FHIR</span>
<nav aria-label="Format"><a href="{{.JSON}}"{{if not .XML}} aria-current="true"{{end}}>JSON</a><a href="{{.AsXML}}"{{if .XML}} aria-current="true"{{end}}>XML</a><a href="{{.RawJSON}}">Raw JSON</a><a href="{{.RawXML}}">Raw XML</a></nav></div></header>
<main>
<h1>{{.Title}}</h1>
{{if ne .Status 200}}<p class="status">Status {{.Status}}</p>
{{end}}{{if eq .Status 401}}<div class="note"><p>This address is part of the FHIR API, for apps and programs. A request needs an access token in the header <code>Authorization</code>, which a browser does not send by itself. This server takes tokens neither from URLs nor from cookies.</p>
<p>{{if .SignIn}}To see who has access to your data and to connect apps, <a href="{{.SignIn}}">sign in to your account</a>. {{end}}To use the API, connect an app with SMART App Launch; <a href="{{.Metadata}}">the CapabilityStatement</a> and its description of security need no token.</p></div>
{{end}}`

// The narrative is between these two, escaped as the value of an attribute.
const (
	openNarrative  = `<details open><summary>Narrative</summary><iframe title="Narrative" sandbox srcdoc="`
	closeNarrative = "\"></iframe></details>\n"
)

const begin = `<pre tabindex="0"><code>`

const foot = `</code></pre>
</main>
</body>
</html>
`

var headTemplate = template.Must(template.New("head").Parse(head))

// title returns the path below the base URL, without a leading slash.
func (p *Page) title() string {
	t := p.Path
	if u, err := url.Parse(p.Base); err == nil {
		t = strings.TrimPrefix(t, u.Path)
	}
	if t = strings.TrimPrefix(t, "/"); t == "" {
		return "FHIR"
	}
	return t
}

// in returns the URL of the same request in another format.
func (p *Page) in(format string) string {
	var kept []string
	for part := range strings.SplitSeq(p.Query, "&") {
		name, _, _ := strings.Cut(part, "=")
		if n, err := url.QueryUnescape(name); part != "" && (err != nil || n != "_format") {
			kept = append(kept, part)
		}
	}
	return p.Path + "?" + strings.Join(append(kept, "_format="+format), "&")
}

// Write writes the page for a resource in parts.
func (p *Page) Write(w io.Writer, parts ...[]byte) error {
	err := headTemplate.Execute(w, map[string]any{
		"Title": p.title(), "Status": p.Status, "XML": p.XML, "SignIn": p.SignIn,
		// The stylesheet is a constant of this package.
		"Style": template.CSS(style),
		"JSON":  p.in("html"), "AsXML": p.in("html/xml"), "RawJSON": p.in("json&_pretty=true"),
		"RawXML": p.in("xml&_pretty=true"), "Metadata": p.Base + "/metadata",
	})
	if err != nil {
		return err
	}
	t := painter{dest: w}
	if p.Narrative != "" {
		t.out = append(t.out, openNarrative...)
		t.escape([]byte(p.Narrative))
		t.out = append(t.out, closeNarrative...)
	}
	t.out = append(t.out, begin...)
	if err := t.flush(); err != nil {
		return err
	}
	l := linker{base: p.Base, format: p.Format}
	if p.XML {
		x := &xmlPainter{painter: painter{dest: w, linker: l}}
		if err := wire.ToXML(x, true, parts...); err != nil {
			return err
		}
		err = x.flush()
	} else {
		j := &jsonPainter{painter: painter{dest: w, linker: l}}
		x := wire.NewIndenter(j)
		for _, part := range parts {
			if _, err := x.Write(part); err != nil {
				return err
			}
		}
		if err := x.Close(); err != nil {
			return err
		}
		err = j.close()
	}
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, foot)
	return err
}
