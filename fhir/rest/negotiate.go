package rest

import (
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
)

// format is a format of answers.
type format uint8

const (
	formatJSON format = iota
	formatXML
	formatHTML // for people with a browser
)

// Media types. R4 (http.html#mime-type) lets servers answer with the generic media type
// that the client names.
const (
	mimeFHIR = "application/fhir+json"
	mimeXML  = "application/fhir+xml"
	mimeHTML = "text/html"
)

// rendering is the negotiated form of an answer. It is immutable.
type rendering struct {
	format format
	mime   string
	pretty bool
	source format // of formatHTML: the format that the page shows
	// named is set if the client named the format and did not use a wildcard.
	named bool
	// failed is set if no format is acceptable. Errors are then in JSON.
	failed bool
}

// plain is the form of nearly all answers.
var plain = &rendering{mime: mimeFHIR} // read only

// media is a media type that the server offers.
type media struct {
	name   string
	format format
	mime   string // of the answer
}

// offers lists the media types that an Accept header may name, the preferred ones
// first. Wildcards stand for the first that they match.
var offers = []media{ // read only
	{mimeFHIR, formatJSON, mimeFHIR},
	{mimeXML, formatXML, mimeXML},
	{mimeHTML, formatHTML, mimeHTML},
	{"application/json", formatJSON, "application/json"},
	{"application/xml", formatXML, "application/xml"},
	{"text/json", formatJSON, "text/json"},
	{"text/xml", formatXML, "text/xml"},
	{"application/json+fhir", formatJSON, mimeFHIR}, // of DSTU 2
	{"application/xml+fhir", formatXML, mimeXML},
}

// names lists the short values of _format (R4 http.html#parameters). html/json and
// html/xml choose what the page shows; R4 leaves that open, and other servers use these
// names.
var names = map[string]rendering{ // read only
	"json":      {format: formatJSON, mime: mimeFHIR},
	"xml":       {format: formatXML, mime: mimeXML},
	"html":      {format: formatHTML, mime: mimeHTML},
	"html/json": {format: formatHTML, mime: mimeHTML},
	"html/xml":  {format: formatHTML, mime: mimeHTML, source: formatXML},
}

// acceptedFormats names the formats in errors.
const acceptedFormats = mimeFHIR + " or " + mimeXML + " (FHIR version 4.0)"

// renderingOf returns the form of the answer.
func renderingOf(c *gin.Context) *rendering {
	if v, ok := c.Get(keyRendering); ok {
		if r, ok := v.(*rendering); ok {
			return r
		}
	}
	r := negotiated(c.Request, c.Request.URL.RawQuery)
	c.Set(keyRendering, r)
	return r
}

// negotiated negotiates the form of the answer to a request with the given query. The
// parameter _format overrides the Accept header, as R4 requires.
func negotiated(q *http.Request, rawQuery string) *rendering {
	accept := q.Header.Values("Accept")
	// Parse the query only if necessary.
	if strings.Contains(rawQuery, "_format") || strings.Contains(rawQuery, "_pretty") ||
		strings.Contains(rawQuery, "%") {
		wanted, pretty := formatParameters(rawQuery)
		if wanted != "" || pretty {
			var r rendering
			if wanted != "" {
				r = ofParameter(q.Method, wanted)
			} else {
				r = ofAccept(q.Method, strings.Join(accept, ","))
			}
			r.pretty = pretty
			return &r
		}
	}
	switch {
	case len(accept) == 0:
		return plain
	case len(accept) == 1 && accept[0] == mimeFHIR:
		return &plainNamed
	case len(accept) == 1 && (accept[0] == "*/*" || accept[0] == ""):
		return plain
	}
	r := ofAccept(q.Method, strings.Join(accept, ","))
	return &r
}

var plainNamed = rendering{mime: mimeFHIR, named: true} // read only

// formatParameters returns _format and _pretty of a query. Of several, the first with a
// value counts.
func formatParameters(rawQuery string) (wanted string, pretty bool) {
	for part := range strings.SplitSeq(rawQuery, "&") {
		name, value, _ := strings.Cut(part, "=")
		switch unescaped(name) {
		case "_format":
			if wanted == "" {
				// A plus sign that is not escaped means itself here, not a space.
				wanted = strings.TrimSpace(unescaped(strings.ReplaceAll(value, "+", "%2B")))
			}
		case "_pretty":
			pretty = pretty || unescaped(value) == "true"
		}
	}
	return strings.ReplaceAll(wanted, " ", "+"), pretty
}

// unescaped decodes a part of a query, or returns it as it is if it is malformed.
func unescaped(s string) string {
	if u, err := url.QueryUnescape(s); err == nil {
		return u
	}
	return s
}

// ofParameter returns the form that _format names.
func ofParameter(method, wanted string) rendering {
	r, ok := names[strings.ToLower(wanted)]
	if !ok {
		t, params, err := mime.ParseMediaType(strings.ReplaceAll(wanted, ";+", ";"))
		if err != nil || !readable(params) {
			return rendering{mime: mimeFHIR, failed: true}
		}
		for _, o := range offers {
			if o.name == t {
				r, ok = rendering{format: o.format, mime: o.mime}, true
				break
			}
		}
	}
	if !ok || r.format == formatHTML && !forBrowsers(method) {
		return rendering{mime: mimeFHIR, failed: true}
	}
	r.named = true
	return r
}

// forBrowsers reports whether a request may be answered with a page: only what a link
// can request is.
func forBrowsers(method string) bool { return method == http.MethodGet || method == http.MethodHead }

// readable reports whether the parameters of a media type describe what the server
// writes and reads: FHIR 4.0 in UTF-8.
func readable(params map[string]string) bool {
	charset := params["charset"]
	return version4(params) && (charset == "" || strings.EqualFold(charset, "utf-8"))
}

func version4(params map[string]string) bool {
	v := params["fhirversion"]
	return v == "" || v == "4.0" || v == "4.0.1"
}

// accepted is one media range of an Accept header.
type accepted struct {
	name        string
	quality     float64
	specificity int // 0 for */*, 1 for type/*, 2 for a media type
}

// maxRanges bounds the media ranges of a request that are read.
const maxRanges = 64

// ranges parses an Accept header. It ignores ranges that are malformed or that ask for
// another version of FHIR or another charset.
func ranges(header string) []accepted {
	var out []accepted
	for part := range strings.SplitSeq(header, ",") {
		if len(out) == maxRanges {
			break
		}
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		if rest, ok := strings.CutPrefix(part, "*"); ok && (rest == "" || rest[0] == ';' || rest[0] == ' ') {
			part = "*/*" + rest // of old versions of Java
		}
		t, params, err := mime.ParseMediaType(part)
		if err != nil || !readable(params) {
			continue
		}
		a := accepted{name: t, quality: 1, specificity: 2}
		if q, ok := params["q"]; ok {
			a.quality, err = strconv.ParseFloat(q, 64)
			if err != nil || !(a.quality >= 0 && a.quality <= 1) {
				continue
			}
		}
		switch {
		case t == "*/*":
			a.specificity = 0
		case strings.HasSuffix(t, "/*"):
			a.specificity = 1
		}
		out = append(out, a)
	}
	return out
}

// match returns the most specific range that matches a media type (RFC 9110 section
// 12.5.1), or -1.
func match(all []accepted, name string) int {
	best := -1
	for i, a := range all {
		ok := a.specificity == 0 || a.name == name ||
			a.specificity == 1 && strings.HasPrefix(name, strings.TrimSuffix(a.name, "*"))
		if ok && (best < 0 || a.specificity > all[best].specificity) {
			best = i
		}
	}
	return best
}

// ofAccept returns the form that an Accept header prefers. Of media types of the same
// quality, those that are named precede those that match a wildcard, then the order of
// the header counts, and then the order of offers.
func ofAccept(method, header string) rendering {
	if strings.TrimSpace(header) == "" {
		return *plain
	}
	all := ranges(header)
	best, bestRange := -1, -1
	for i, o := range offers {
		if o.format == formatHTML && !forBrowsers(method) {
			continue
		}
		r := match(all, o.name)
		if r < 0 || all[r].quality == 0 {
			continue
		}
		if best < 0 || better(&all[r], &all[bestRange], r, bestRange) {
			best, bestRange = i, r
		}
	}
	if best < 0 {
		return rendering{mime: mimeFHIR, failed: true}
	}
	o := offers[best]
	return rendering{format: o.format, mime: o.mime, named: all[bestRange].specificity == 2}
}

func better(a, b *accepted, i, j int) bool {
	switch {
	case a.quality != b.quality:
		return a.quality > b.quality
	case a.specificity != b.specificity:
		return a.specificity > b.specificity
	}
	return i < j
}

// negotiate answers 406 if no format is acceptable. A read of a Binary is an exception,
// because its own media type may be acceptable.
func (s *Server) negotiate(c *gin.Context) { negotiate(c) }

func negotiate(c *gin.Context) {
	if renderingOf(c).failed && !readsBinary(c) {
		notAcceptable(c, acceptedFormats)
		c.Abort()
	}
}

// renegotiate applies _format and _pretty of a search form, which take effect like those
// of a query. It reports whether the answer has an acceptable format.
func renegotiate(c *gin.Context, raw string) bool {
	r := negotiated(c.Request, raw)
	c.Set(keyRendering, r)
	if r.failed {
		notAcceptable(c, acceptedFormats)
		c.Abort()
	}
	return !r.failed
}

// notAcceptable answers 406. No fhir.Kind stands for it.
func notAcceptable(c *gin.Context, what string) {
	send(c, http.StatusNotAcceptable,
		[]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"not-supported","diagnostics":"Accept must allow `+what+`"}]}`))
}
