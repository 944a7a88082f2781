package rest

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/fhir/wire"
)

// body reads the request's body within the limits, and returns it as JSON. It may be
// compressed.
func (s *Server) body(c *gin.Context) ([]byte, error) {
	const op = "rest.body"
	f, err := bodyFormat(c, op)
	if err != nil {
		return nil, err
	}
	b, err := s.readAll(c, op)
	if err != nil {
		return nil, err
	}
	return asJSON(c, f, b)
}

// bodyFormat returns the format that the Content-Type names.
func bodyFormat(c *gin.Context, op string) (format, error) {
	t, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || !version4(params) {
		t = ""
	}
	var f format
	switch t {
	case mimeFHIR, "application/json", "application/json+fhir", "text/json":
		f = formatJSON
	case mimeXML, "application/xml", "application/xml+fhir", "text/xml":
		f = formatXML
	default:
		return f, fhir.Errorf(fhir.Unsupported, op, "the body must be %s", acceptedFormats)
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return f, fhir.Errorf(fhir.Unsupported, op, "the charset must be UTF-8")
	}
	return f, nil
}

// asJSON converts a body to JSON.
func asJSON(c *gin.Context, f format, b []byte) ([]byte, error) {
	if f != formatXML {
		return b, nil
	}
	// The JSON is held in addition to the body.
	if err := budget.Of(c.Request.Context()).Grow(2 * int64(len(b))); err != nil {
		return nil, err
	}
	return wire.FromXML(b)
}

// parametersBody reads the body of an operation, which is small, and returns it as
// JSON.
func parametersBody(c *gin.Context, op string) ([]byte, error) {
	f, err := bodyFormat(c, op)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.Writer, c.Request.Body, maxParametersBody))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, fhir.Errorf(fhir.TooLarge, op, "the Parameters are larger than %d bytes", maxParametersBody)
	case err != nil:
		return nil, fhir.Errorf(fhir.Invalid, op, "the body could not be read to its end")
	}
	return asJSON(c, f, withoutMark(body))
}

// optionalParameters reads the body of an operation that may have none. Without a
// Content-Type, it is JSON.
func optionalParameters(c *gin.Context, op string) ([]byte, error) {
	if c.Request.ContentLength == 0 {
		return nil, nil
	}
	if c.GetHeader("Content-Type") == "" {
		c.Request.Header.Set("Content-Type", mimeFHIR)
	}
	return parametersBody(c, op)
}

// readAll reads the text of a body.
func (s *Server) readAll(c *gin.Context, op string) ([]byte, error) {
	b, err := s.readBytes(c, op)
	return withoutMark(b), err
}

// readBytes reads a body within the limits.
func (s *Server) readBytes(c *gin.Context, op string) ([]byte, error) {
	limits := s.Limits.withDefaults()
	tooLarge := fhir.Errorf(fhir.TooLarge, op, "the body is larger than this server takes")
	if c.Request.ContentLength > limits.Body {
		return nil, tooLarge
	}
	var r io.Reader = http.MaxBytesReader(c.Writer, c.Request.Body, limits.Body)
	limit, zipped := limits.Body, false
	counted := &countedReader{source: r}
	r = counted
	switch strings.ToLower(strings.TrimSpace(c.GetHeader("Content-Encoding"))) {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, fhir.Errorf(fhir.Invalid, op, "the body is not gzip")
		}
		r, limit = z, limits.Inflated
		zipped = true
	default:
		return nil, fhir.Errorf(fhir.Unsupported, op, "the content encoding must be gzip or none")
	}
	b, err := readBudgeted(io.LimitReader(r, limit+1), budget.Of(c.Request.Context()), func(n int64) error {
		if zipped && n > freeOfRatio && n > maxRatio*counted.count {
			return fhir.Errorf(fhir.TooLarge, op, "the body is compressed more than %d to 1", maxRatio)
		}
		return nil
	})
	var max *http.MaxBytesError
	var own *fhir.Error
	switch {
	case errors.As(err, &max) || int64(len(b)) > limit:
		return nil, tooLarge
	case errors.As(err, &own) && (own.Kind == fhir.TooLarge || own.Kind == fhir.Unavailable):
		return nil, own
	case err != nil:
		return nil, fhir.Errorf(fhir.Invalid, op, "the body could not be read to its end")
	}
	return b, nil
}

// withoutMark removes a byte order mark, which RFC 8259 section 8.1 lets a
// reader of JSON ignore.
func withoutMark(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) }

const (
	// maxRatio bounds the compression ratio of a body. Thousands of similar
	// Observations are compressed by less than 100 to 1.
	maxRatio = 200
	// freeOfRatio is the inflated size in bytes up to which maxRatio does not apply.
	freeOfRatio = 1 << 20
)

// countedReader counts the bytes before decompression.
type countedReader struct {
	source io.Reader
	count  int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.source.Read(p)
	c.count += int64(n)
	return n, err
}

// readBudgeted reads r to its end. Before its buffer grows, it reserves memory from
// the budget and calls check with the size so far.
func readBudgeted(r io.Reader, held *budget.Held, check func(n int64) error) ([]byte, error) {
	if held == nil {
		return io.ReadAll(r)
	}
	b := make([]byte, 0, budget.Small)
	for {
		if len(b) == cap(b) {
			if err := check(int64(len(b))); err != nil {
				return b, err
			}
			if err := held.Grow(budget.Factor * int64(cap(b))); err != nil {
				return b, err
			}
			b = append(make([]byte, 0, 2*cap(b)), b...)
		}
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err == io.EOF {
			return b, check(int64(len(b)))
		}
		if err != nil {
			return b, err
		}
	}
}

// prefers returns the value of one preference of the Prefer headers.
func prefers(r *http.Request, name string) string {
	for _, h := range r.Header.Values("Prefer") {
		for _, part := range strings.FieldsFunc(h, func(c rune) bool { return c == ',' || c == ';' }) {
			k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
			if strings.EqualFold(strings.TrimSpace(k), name) {
				return strings.Trim(strings.TrimSpace(v), `"`)
			}
		}
	}
	return ""
}

// worthZipping is the smallest body in bytes that is compressed. Smaller bodies fit
// into one packet.
const worthZipping = 1400

var zippers = sync.Pool{New: func() any {
	z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		return nil
	}
	return z
}}

var ( // read only
	typeFHIR = []string{mimeFHIR + "; charset=utf-8"}
	vary     = []string{"Accept, Accept-Encoding"}
)

// send writes parts, the JSON of a resource, as one body in the negotiated format. It is
// compressed if the client accepts that.
func send(c *gin.Context, status int, parts ...[]byte) {
	r := renderingOf(c)
	h := c.Writer.Header()
	h["Vary"] = vary
	if r.format != formatJSON || r.pretty {
		sendConverted(c, status, r, parts)
		return
	}
	total := 0
	for _, p := range parts {
		total += len(p)
	}
	if r.mime == mimeFHIR {
		h["Content-Type"] = typeFHIR
	} else {
		h.Set("Content-Type", r.mime+"; charset=utf-8")
	}
	sendBytes(c, status, total, parts)
}

// sendBytes writes parts as they are. The other headers have been set.
func sendBytes(c *gin.Context, status, total int, parts [][]byte) {
	h := c.Writer.Header()
	var w io.Writer = c.Writer
	if total >= worthZipping && takesGzip(c.Request) {
		if z, ok := zippers.Get().(*gzip.Writer); ok {
			h.Set("Content-Encoding", "gzip")
			z.Reset(c.Writer)
			defer func() {
				if err := z.Close(); err != nil {
					c.Abort() // the connection is closed
				}
				zippers.Put(z)
			}()
			w = z
		}
	} else {
		h.Set("Content-Length", strconv.Itoa(total)) // otherwise net/http uses chunks for a body larger than its buffer
	}
	c.Status(status)
	if c.Request.Method == http.MethodHead {
		c.Writer.WriteHeaderNow()
		return
	}
	for _, p := range parts {
		if _, err := w.Write(p); err != nil {
			c.Abort()
			return
		}
	}
}

func takesGzip(r *http.Request) bool {
	for _, part := range strings.Split(r.Header.Get("Accept-Encoding"), ",") {
		name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.TrimSpace(name) == "gzip" {
			q := strings.ReplaceAll(params, " ", "")
			return q != "q=0" && q != "q=0.0"
		}
	}
	return false
}
