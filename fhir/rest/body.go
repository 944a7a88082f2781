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
	"github.com/go-json-experiment/json/jsontext"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
)

// negotiate negotiates the format of the answer. Only JSON is supported.
func (s *Server) negotiate(c *gin.Context) {
	want := strings.Join(c.Request.Header.Values("Accept"), ",")
	// Parse the query only if necessary.
	if q := c.Request.URL.RawQuery; strings.Contains(q, "_format") || strings.Contains(q, "_pretty") ||
		strings.Contains(q, "%") {
		if f := c.Query("_format"); f != "" {
			want = strings.ReplaceAll(f, " ", "+") // an unescaped plus
		}
		if c.Query("_pretty") == "true" {
			c.Set(keyPretty, true)
		}
	}
	out, ok := acceptable(want)
	if !ok {
		notAcceptable(c, "application/fhir+json (FHIR version 4.0)")
		c.Abort()
		return
	}
	c.Set(keyMIME, out)
}

func acceptable(want string) (string, bool) {
	if want == mimeFHIR || strings.TrimSpace(want) == "" {
		return mimeFHIR, true
	}
	for _, part := range strings.Split(want, ",") {
		t, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || !version4(params) || params["q"] == "0" {
			continue
		}
		switch t {
		case mimeFHIR, "application/json+fhir", "*/*", "application/*", "json":
			return mimeFHIR, true
		case "application/json", "text/json":
			return "application/json", true
		}
	}
	return "", false
}

func version4(params map[string]string) bool {
	v := params["fhirversion"]
	return v == "" || v == "4.0" || v == "4.0.1"
}

// body reads the request's body within the limits. It is JSON and may be
// compressed.
func (s *Server) body(c *gin.Context) ([]byte, error) {
	const op = "rest.body"
	t, params, err := mime.ParseMediaType(c.GetHeader("Content-Type"))
	if err != nil || !version4(params) || t != mimeFHIR && t != "application/json" &&
		t != "application/json+fhir" && t != "text/json" {
		return nil, fhir.Errorf(fhir.Unsupported, op, "the body must be application/fhir+json, FHIR version 4.0")
	}
	if cs := params["charset"]; cs != "" && !strings.EqualFold(cs, "utf-8") {
		return nil, fhir.Errorf(fhir.Unsupported, op, "the charset must be UTF-8")
	}
	return s.readAll(c, op)
}

func (s *Server) readAll(c *gin.Context, op string) ([]byte, error) {
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
	return withoutMark(b), nil
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

// send writes parts as one body, compressed if the client accepts that.
func send(c *gin.Context, status int, parts ...[]byte) {
	if c.GetBool(keyPretty) {
		parts = [][]byte{pretty(parts)}
	}
	total := 0
	for _, p := range parts {
		total += len(p)
	}
	h := c.Writer.Header()
	t := c.GetString(keyMIME)
	if t == "" {
		t = mimeFHIR
	}
	if t == mimeFHIR {
		h["Content-Type"] = typeFHIR
	} else {
		h.Set("Content-Type", t+"; charset=utf-8")
	}
	h["Vary"] = vary
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

// pretty returns one indented JSON value.
func pretty(parts [][]byte) []byte {
	v := jsontext.Value(bytes.Join(parts, nil))
	if v.Indent(jsontext.WithIndent("  ")) != nil {
		return bytes.Join(parts, nil)
	}
	return v
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
