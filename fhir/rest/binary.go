package rest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"mime"
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/element"
	"pulsegate/fhir/wire"
)

// A Binary is read and written as a resource or as its content (R4 binary.html#rest).
// The content is an attachment in a sandbox, because it may be a page with scripts.

const (
	typeBinary      = "Binary"
	securityContext = "X-Security-Context"
	sandbox         = "default-src 'none'; sandbox; frame-ancestors 'none'"
	octetStream     = "application/octet-stream"
)

// binary holds the elements of a Binary that concern HTTP.
type binary struct {
	ResourceType    string
	ContentType     string
	SecurityContext struct{ Reference string }
	Data            []byte
}

// readsBinary reports whether a request reads a Binary or a version of one.
func readsBinary(c *gin.Context) bool {
	return c.Param("type") == typeBinary && forBrowsers(c.Request.Method) &&
		(strings.HasSuffix(c.FullPath(), "/:id") || strings.HasSuffix(c.FullPath(), "/:vid"))
}

// wantsContent reports whether the client wants the content of a Binary with a media
// type, and whether it accepts an answer at all.
//
// The content is sent unless the client names a FHIR media type or _format. If it names
// a generic type (application/json, text/xml, …), it gets the content if that has this
// format, and otherwise the resource. A page for browsers counts as no wish.
func wantsContent(c *gin.Context, contentType string) (content, ok bool) {
	r := renderingOf(c)
	query := c.Request.URL.RawQuery
	if wanted, pretty := formatParameters(query); wanted != "" || pretty || strings.Contains(query, "_summary") ||
		strings.Contains(query, "_elements") {
		return false, !r.failed
	}
	accept := strings.Join(c.Request.Header.Values("Accept"), ",")
	if strings.TrimSpace(accept) == "" {
		return true, true
	}
	all := ranges(accept)
	i := match(all, contentType)
	matches := i >= 0 && all[i].quality > 0
	switch {
	case r.failed:
		return matches, matches
	case r.named && r.format != formatHTML && (r.mime == mimeFHIR || r.mime == mimeXML):
		return false, true
	case r.named && r.format != formatHTML:
		return formatOf(contentType) == r.format && isGeneric(contentType), true
	}
	return true, true
}

// isGeneric reports whether a media type is JSON or XML.
func isGeneric(t string) bool {
	return strings.HasSuffix(t, "/json") || strings.HasSuffix(t, "+json") || strings.HasSuffix(t, "/xml") ||
		strings.HasSuffix(t, "+xml")
}

func formatOf(contentType string) format {
	if strings.HasSuffix(contentType, "xml") {
		return formatXML
	}
	return formatJSON
}

// sendBinary answers a read of a Binary. The headers of the version have been set.
func sendBinary(c *gin.Context, r *fhir.Resource) {
	var b binary
	if err := json.Unmarshal(r.JSON, &b); err != nil {
		fail(c, &fhir.Error{Kind: fhir.Internal, Op: "rest.sendBinary", Err: errBinary})
		return
	}
	t, params, err := mime.ParseMediaType(b.ContentType)
	contentType := octetStream
	if err == nil {
		contentType = mime.FormatMediaType(t, params)
	}
	content, ok := wantsContent(c, t)
	h := c.Writer.Header()
	if ref := b.SecurityContext.Reference; ref != "" && printable(ref) {
		h.Set(securityContext, ref)
	}
	switch {
	case !ok:
		notAcceptable(c, "the media type of the content, "+acceptedFormats)
		return
	case !content:
		if renderingOf(c).failed {
			c.Set(keyRendering, plain)
		}
		send(c, http.StatusOK, r.JSON)
		return
	}
	h["Vary"] = vary
	h.Set("Content-Type", contentType)
	h.Set("Content-Security-Policy", sandbox)
	h.Set("Content-Disposition", "attachment")
	sendBytes(c, http.StatusOK, len(b.Data), [][]byte{b.Data})
}

var errBinary = errors.New("a stored Binary is not valid")

func printable(s string) bool {
	return len(s) <= 1024 && strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// resourceBody reads the body of a create or an update.
func (s *Server) resourceBody(c *gin.Context, ref fhir.Ref) ([]byte, error) {
	if ref.Type != typeBinary {
		return s.body(c)
	}
	return s.binaryBody(c, ref.ID)
}

// binaryBody reads a Binary, or content that becomes one. As R4 requires, a body with a
// media type of FHIR is content too unless it is a Binary.
func (s *Server) binaryBody(c *gin.Context, id string) ([]byte, error) {
	const op = "rest.binaryBody"
	t, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || len(c.GetHeader("Content-Type")) > 255 {
		return nil, fhir.Errorf(fhir.Unsupported, op, "the content of a Binary needs a Content-Type")
	}
	b, err := s.readBytes(c, op)
	if err != nil {
		return nil, err
	}
	if f, err := bodyFormat(c, op); err == nil {
		if resource, ok := asBinary(c, f, b); ok {
			return resource, nil
		}
	}
	if len(b) == 0 {
		return nil, fhir.Errorf(fhir.Invalid, op, "the content of a Binary must not be empty")
	}
	if err := budget.Of(c.Request.Context()).Grow(2 * int64(len(b))); err != nil {
		return nil, err
	}
	out := make([]byte, 0, base64.StdEncoding.EncodedLen(len(b))+512)
	out = append(out, `{"resourceType":"Binary"`...)
	if id != "" {
		out = element.AppendString(append(out, `,"id":`...), id)
	}
	out = element.AppendString(append(out, `,"contentType":`...), mime.FormatMediaType(t, params))
	if ref := c.GetHeader(securityContext); ref != "" {
		out = element.AppendString(append(out, `,"securityContext":{"reference":`...), ref)
		out = append(out, '}')
	}
	out = base64.StdEncoding.AppendEncode(append(out, `,"data":"`...), b)
	return append(out, `"}`...), nil
}

// asBinary returns a body as JSON if it is the resource Binary.
func asBinary(c *gin.Context, f format, b []byte) ([]byte, bool) {
	b = withoutMark(b)
	if f == formatXML {
		if budget.Of(c.Request.Context()).Grow(2*int64(len(b))) != nil {
			return nil, false
		}
		var err error
		if b, err = wire.FromXML(b); err != nil {
			return nil, false
		}
	}
	var r struct{ ResourceType string }
	return b, json.Unmarshal(b, &r) == nil && r.ResourceType == typeBinary
}
