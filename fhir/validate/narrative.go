package validate

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
)

// Narrative is XHTML that applications show in a browser, so it is parsed as XML
// and everything that is not allowed explicitly is refused. The elements and
// attributes are the ones that invariant txt-1 allows (R4 narrative.html).
const (
	xhtmlNamespace = "http://www.w3.org/1999/xhtml"
	xmlNamespace   = "http://www.w3.org/XML/1998/namespace"

	// maxNarrative bounds the narratives of a resource and its contained
	// resources, in bytes.
	maxNarrative = 1 << 20
	// maxNarrativeDepth bounds the nesting of elements.
	maxNarrativeDepth = 100
	// maxAttributes bounds the attributes of one element.
	maxAttributes = 50
)

var (
	// read only
	narrativeElements = words("a abbr acronym address area b bdo big blockquote br caption cite code col colgroup dd dfn div dl dt em " +
		"h1 h2 h3 h4 h5 h6 hr i img kbd li map ol p pre q samp small span strong sub sup table tbody td tfoot th thead tr tt ul var")
	// read only
	narrativeAttributes = words("abbr accesskey align alt axis bgcolor border cellhalign cellpadding cellspacing cellvalign char charoff " +
		"charset cite class colspan compact coords dir frame headers height href hreflang hspace id ismap lang longdesc name nohref nowrap " +
		"rel rev rowspan rules scope shape span src start style summary tabindex title type usemap valign value vspace width")
	linkSchemes  = words("http https mailto tel urn ftp") // read only
	imageSchemes = words("http https")                    // read only
	// rasterImages lists the media types allowed in data URLs. SVG is not allowed,
	// because it can contain scripts.
	rasterImages = []string{"image/png", "image/jpeg", "image/jpg", "image/gif", "image/bmp", "image/webp"} // read only
)

const (
	notXHTML   = "narrative must be well-formed XHTML in one div of the namespace " + xhtmlNamespace + " (txt-1)"
	notAllowed = " that R4 does not allow in narrative (txt-1)"
)

// narrativeRule returns the rule that div breaks, or an empty string. It reads
// div once.
//
// Clients may pass narratives to an HTML parser, although R4 requires XHTML. So
// everything that HTML and XML parsers treat differently is refused: CDATA
// sections, markup in comments, processing instructions and document types.
func narrativeRule(div []byte) string {
	dec := xml.NewDecoder(bytes.NewReader(div))
	dec.Entity = xml.HTMLEntity
	depth, content, closed := 0, false, false
	for {
		from := dec.InputOffset()
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return notXHTML
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if closed || depth == 0 && t.Name.Local != "div" {
				return notXHTML
			}
			if depth++; depth > maxNarrativeDepth {
				return "narrative is nested too deeply"
			}
			if rule := checkElement(&t); rule != "" {
				return rule
			}
			content = content || t.Name.Local == "img"
		case xml.EndElement:
			depth--
			closed = depth == 0
		case xml.CharData:
			if bytes.HasPrefix(div[from:], []byte("<![CDATA[")) {
				return "narrative has a CDATA section" + notAllowed
			}
			blank := len(bytes.Trim(t, " \t\r\n")) == 0
			if depth == 0 && !blank {
				return notXHTML
			}
			content = content || !blank
		case xml.Comment:
			if endsEarly(t) {
				return "narrative has a comment that browsers read as markup" + notAllowed
			}
		default:
			return "narrative has a processing instruction or a document type" + notAllowed
		}
	}
	switch {
	case !closed:
		return notXHTML
	case !content:
		return "narrative must have text or an image (txt-2)"
	}
	return ""
}

// endsEarly reports whether a comment of XML is markup for a browser: HTML ends a comment at
// "<!-->" and "<!--->" (HTML 13.2.5.43 and 13.2.5.44), and old browsers read conditional
// comments. HTML also ends a comment at "--!>", but XML allows no "--" in a comment. Other
// markup in a comment is text; HL7's publisher writes such comments.
func endsEarly(comment []byte) bool {
	return bytes.HasPrefix(comment, []byte(">")) || bytes.HasPrefix(comment, []byte("->")) ||
		bytes.Contains(comment, []byte("--")) || bytes.HasPrefix(bytes.TrimSpace(comment), []byte("["))
}

func checkElement(t *xml.StartElement) string {
	if t.Name.Space != xhtmlNamespace {
		return notXHTML
	}
	name := t.Name.Local
	if !narrativeElements[name] {
		return "narrative has an element" + notAllowed
	}
	if len(t.Attr) > maxAttributes {
		return "narrative has an element with too many attributes"
	}
	hasSource := false
	for i := range t.Attr {
		a := &t.Attr[i]
		for j := range i {
			if t.Attr[j].Name == a.Name {
				return notXHTML // XML 1.0, section 3.1; encoding/xml does not check it
			}
		}
		if rule := checkAttribute(name, a); rule != "" {
			return rule
		}
		hasSource = hasSource || a.Name.Local == "src"
	}
	if name == "img" && !hasSource {
		return "an image in narrative needs a src (txt-2)"
	}
	return ""
}

func checkAttribute(element string, a *xml.Attr) string {
	name := a.Name.Local
	switch a.Name.Space {
	case "":
	case "xmlns":
		return "" // a prefix; elements and attributes with it are checked by namespace
	case xmlNamespace:
		if name == "lang" || name == "space" {
			return ""
		}
		return "narrative has an attribute" + notAllowed
	default:
		return "narrative has an attribute" + notAllowed
	}
	switch name {
	case "xmlns":
		return "" // the namespace of the element; checkElement checks it
	case "href":
		if element != "a" && element != "area" || !safeURL(a.Value, linkSchemes, false) {
			return "narrative has a link" + notAllowed
		}
		return ""
	case "src":
		if element != "img" || !safeURL(a.Value, imageSchemes, true) {
			return "narrative has an image source" + notAllowed
		}
		return ""
	case "cite", "longdesc", "usemap":
		if !safeURL(a.Value, linkSchemes, false) {
			return "narrative has a link" + notAllowed
		}
		return ""
	case "style":
		if !safeStyle(a.Value) {
			return "narrative has a style" + notAllowed
		}
		return ""
	}
	if !narrativeAttributes[name] {
		return "narrative has an attribute" + notAllowed
	}
	return ""
}

// safeURL reports whether a URL in narrative is safe: relative, a fragment, with
// one of the schemes, or, if image is set, a data URL with a raster image.
// Browsers remove control characters and leading spaces before they look for a
// scheme, so URLs with control characters are not safe.
func safeURL(s string, schemes map[string]bool, image bool) bool {
	s = strings.Trim(s, " \t\r\n")
	if strings.IndexFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\\' }) >= 0 &&
		!(image && isDataURL(s)) {
		return false
	}
	end := strings.IndexAny(s, ":/?#")
	if end < 0 || s[end] != ':' {
		return true
	}
	scheme := strings.ToLower(s[:end])
	if image && scheme == "data" {
		return rasterImage(s[end+1:])
	}
	return schemes[scheme]
}

func isDataURL(s string) bool { return len(s) >= 5 && strings.EqualFold(s[:5], "data:") }

// rasterImage reports whether s, a data URL without its scheme, is a raster image
// in base64.
func rasterImage(s string) bool {
	head, data, ok := strings.Cut(s, ",")
	media, encoding, _ := strings.Cut(head, ";")
	if !ok || !strings.EqualFold(strings.TrimSpace(encoding), "base64") {
		return false
	}
	known := false
	for _, m := range rasterImages {
		known = known || strings.EqualFold(strings.TrimSpace(media), m)
	}
	return known && strings.IndexFunc(data, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' ||
			strings.ContainsRune("+/=% \t\r\n", r))
	}) < 0
}

// safeStyle reports whether an inline style cannot run code: it has no
// expression, binding or import, and its URLs are safe for images. Comments and
// escapes are resolved first, as browsers do (CSS Syntax 3, section 4.3).
func safeStyle(s string) bool {
	s, ok := plainStyle(s)
	if !ok {
		return false
	}
	for _, word := range []string{"expression(", "javascript:", "vbscript:", "-moz-binding", "behavior:",
		"behaviour:", "@import", "<", "image-words("} {
		if strings.Contains(s, word) {
			return false
		}
	}
	for {
		_, rest, found := strings.Cut(s, "url(")
		if !found {
			return true
		}
		target, rest, closed := strings.Cut(rest, ")")
		if !closed || !safeURL(strings.Trim(target, `"'`), imageSchemes, true) {
			return false
		}
		s = rest
	}
}

// plainStyle returns a style in lower case, with escapes resolved and without
// comments and white space. It returns false if a comment or escape is
// incomplete.
func plainStyle(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case strings.HasPrefix(s[i:], "/*"):
			end := strings.Index(s[i+2:], "*/")
			if end < 0 {
				return "", false
			}
			i += end + 4
		case c == '\\':
			r, n := styleEscape(s[i+1:])
			if n == 0 {
				return "", false
			}
			b.WriteRune(r)
			i += 1 + n
		case c <= ' ' || c == 0x7f:
			i++
		default:
			b.WriteByte(c)
			i++
		}
	}
	return strings.ToLower(b.String()), true
}

// styleEscape decodes an escape after its backslash: up to six hexadecimal
// digits and one white space, or one character that stands for itself.
func styleEscape(s string) (r rune, n int) {
	for n < len(s) && n < 6 && hexDigit(s[n]) >= 0 {
		r = r<<4 | rune(hexDigit(s[n]))
		n++
	}
	switch {
	case n > 0 && n < len(s) && strings.IndexByte(" \t\r\n\f", s[n]) >= 0:
		return r, n + 1
	case n > 0:
		return r, n
	case s == "" || s[0] >= 0x80:
		return 0, 0
	}
	return rune(s[0]), 1
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
