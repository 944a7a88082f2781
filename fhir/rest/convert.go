package rest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir"
	"pulsegate/fhir/htmlview"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/wire"
)

// sendConverted writes a resource as XML, as a page or as indented JSON. It converts
// while it sends, so that it holds one entry of a Bundle at a time besides the JSON.
func sendConverted(c *gin.Context, status int, r *rendering, parts [][]byte) {
	h := c.Writer.Header()
	h.Set("Content-Type", r.mime+"; charset=utf-8")
	if r.format == formatHTML {
		h.Set("Content-Security-Policy", htmlview.Policy)
	}
	if c.Request.Method == http.MethodHead {
		c.Status(status)
		c.Writer.WriteHeaderNow()
		return
	}
	w := &converted{context: c, status: status}
	err := convert(c, w, status, r, parts)
	if err == nil {
		err = w.close()
	}
	switch {
	case err == nil:
		return
	case w.begun:
		// The connection is closed, so that the answer cannot be mistaken for a complete
		// one.
		c.Abort()
		if fhir.KindOf(err) == fhir.Internal && w.failed == nil {
			logger(c).ErrorContext(c.Request.Context(), "an answer could not be converted", "request_id",
				RequestID(c), "error", err)
			if err := cut(c); err != nil {
				logger(c).WarnContext(c.Request.Context(), "an answer could not be aborted", "request_id",
					RequestID(c), "error", err)
			}
		}
	default:
		c.Set(keyRendering, plain)
		h.Set("Content-Security-Policy", onFHIR.Get("Content-Security-Policy"))
		fail(c, err)
	}
}

// convert writes a resource in the negotiated format.
func convert(c *gin.Context, w io.Writer, status int, r *rendering, parts [][]byte) error {
	switch r.format {
	case formatXML:
		return wire.ToXML(w, r.pretty, parts...)
	case formatHTML:
		return pageOf(c, status, r, parts).Write(w, parts...)
	}
	x := wire.NewIndenter(w)
	for _, p := range parts {
		if _, err := x.Write(p); err != nil {
			return err
		}
	}
	return x.Close()
}

// maxNarrative bounds the size in bytes of a resource whose narrative a page shows.
const maxNarrative = 1 << 20

// pageOf describes the page for a resource.
func pageOf(c *gin.Context, status int, r *rendering, parts [][]byte) *htmlview.Page {
	p := &htmlview.Page{Path: c.Request.URL.Path, Query: c.Request.URL.RawQuery, Status: status,
		XML: r.source == formatXML}
	if s := serverOf(c); s != nil {
		p.Base, p.SignIn = s.Service.Base, s.SignIn
	}
	if wanted, _ := formatParameters(p.Query); wanted != "" {
		p.Format = "html"
		if p.XML {
			p.Format = "html/xml"
		}
	}
	if len(parts) == 1 && len(parts[0]) <= maxNarrative && bytes.Contains(parts[0], []byte(`"div"`)) {
		var x struct{ Text struct{ Div string } }
		if json.Unmarshal(parts[0], &x) == nil {
			p.Narrative = x.Text.Div
		}
	}
	return p
}

// sendError renders an error as an OperationOutcome in the negotiated format.
func sendError(c *gin.Context, status int, err error) {
	h := c.Writer.Header()
	h.Del("Content-Encoding")
	h.Del("Content-Length")
	send(c, status, r4.OutcomeJSON(err))
}

// converted is the body of an answer whose size is not known in advance. It sends short
// bodies with their length, and the others in chunks.
type converted struct {
	context *gin.Context
	status  int
	buf     []byte
	begun   bool
	zip     *gzip.Writer
	dest    io.Writer
	failed  error // of the connection
}

// maxBuffered is the size of a short body in bytes.
const maxBuffered = 64 << 10

// Write implements io.Writer.
func (w *converted) Write(b []byte) (int, error) {
	if !w.begun {
		if w.buf = append(w.buf, b...); len(w.buf) < maxBuffered {
			return len(b), nil
		}
		w.begin(true)
		if _, err := w.dest.Write(w.buf); err != nil {
			w.failed = err
			return 0, err
		}
		w.buf = nil
		return len(b), nil
	}
	n, err := w.dest.Write(b)
	if err != nil {
		w.failed = err
	}
	return n, err
}

// begin sends the header.
func (w *converted) begin(chunked bool) {
	w.begun = true
	c := w.context
	w.dest = c.Writer
	h := c.Writer.Header()
	if (chunked || len(w.buf) >= worthZipping) && takesGzip(c.Request) {
		if z, ok := zippers.Get().(*gzip.Writer); ok {
			h.Set("Content-Encoding", "gzip")
			z.Reset(c.Writer)
			w.zip, w.dest = z, z
		}
	}
	if !chunked && w.zip == nil {
		h.Set("Content-Length", strconv.Itoa(len(w.buf)))
	}
	c.Status(w.status)
}

// close sends the rest of the body.
func (w *converted) close() error {
	if !w.begun {
		w.begin(false)
		if _, err := w.dest.Write(w.buf); err != nil {
			w.failed = err
			return err
		}
	}
	if w.zip == nil {
		return nil
	}
	err := w.zip.Close()
	zippers.Put(w.zip)
	w.failed = err
	return err
}
