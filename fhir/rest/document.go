package rest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
)

// Document serves a description of the server, such as its OpenAPI document, without
// authentication:
//
//	GET, HEAD {Path}
type Document struct {
	Path, ContentType string
	// Filename, if set, is the name under which a browser keeps the document.
	Filename string
	// Body returns the document. It must return the same slice as long as nothing has
	// changed, so that the compressed form can be kept. Its errors are *fhir.Error.
	Body func(*http.Request) ([]byte, error)
}

// Mount adds the routes.
func (d Document) Mount(r gin.IRouter) {
	kept := &preparations{}
	serve := func(c *gin.Context) {
		h := c.Writer.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		body, err := d.Body(c.Request)
		if err != nil {
			fail(c, err)
			return
		}
		h.Set("Content-Type", d.ContentType)
		h.Set("Cache-Control", "no-cache") // for every use, the client asks whether it has changed
		if d.Filename != "" {
			h.Set("Content-Disposition", `attachment; filename="`+d.Filename+`"`)
		}
		kept.of(body).send(c)
	}
	r.GET(d.Path, serve)
	r.HEAD(d.Path, serve)
}

// prepared is a body with its compressed form and its entity tag. It is immutable.
type prepared struct {
	body, zipped []byte
	tag          string
}

// prepare compresses a body once, so that requests need not.
func prepare(body []byte) *prepared {
	sum := sha256.Sum256(body)
	p := &prepared{body: body, tag: `W/"` + hex.EncodeToString(sum[:12]) + `"`}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write(body); err == nil && z.Close() == nil && b.Len() < len(body)*9/10 {
		p.zipped = b.Bytes()
	}
	return p
}

// send answers with the body, or with 304 if the client has it. The other headers have
// been set.
func (p *prepared) send(c *gin.Context) {
	h := c.Writer.Header()
	h["Vary"] = vary
	h.Set("ETag", p.tag)
	for tag := range strings.SplitSeq(strings.Join(c.Request.Header.Values("If-None-Match"), ","), ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || "W/"+strings.TrimPrefix(tag, "W/") == p.tag {
			h.Del("Content-Type")
			c.Status(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
			return
		}
	}
	body := p.body
	if p.zipped != nil && takesGzip(c.Request) {
		h.Set("Content-Encoding", "gzip")
		body = p.zipped
	}
	sendPlain(c, body)
}

// sendPlain writes a body of a known length as it is.
func sendPlain(c *gin.Context, body []byte) {
	c.Writer.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.Status(http.StatusOK)
	c.Writer.WriteHeaderNow()
	if c.Request.Method == http.MethodHead {
		return
	}
	if _, err := c.Writer.Write(body); err != nil {
		c.Abort() // the client has closed the connection
	}
}

// preparations keeps the prepared form of the last body. It is safe for concurrent use.
type preparations struct {
	mu   sync.Mutex
	last *prepared // guarded by mu
}

// of returns the prepared form of body, which is kept until another body is asked for.
func (p *preparations) of(body []byte) *prepared {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil || len(p.last.body) != len(body) || len(body) > 0 && &p.last.body[0] != &body[0] {
		p.last = prepare(body)
	}
	return p.last
}

// statement answers with the CapabilityStatement, or with the part of it that _summary
// and _elements select.
func (s *Server) statement(c *gin.Context) {
	body := s.Metadata()
	if r := renderingOf(c); c.Request.URL.RawQuery == "" && r.format == formatJSON && !r.pretty {
		c.Writer.Header().Set("Content-Type", r.mime+"; charset=utf-8")
		c.Writer.Header().Set("Cache-Control", "no-cache")
		s.statements.of(body).send(c)
		return
	}
	const typ = "CapabilityStatement"
	view, err := interaction.ParseView(typ, c.Request.URL.RawQuery)
	one := fhir.Resource{Type: typ, JSON: body}
	if err == nil {
		err = view.Narrow(&one)
	}
	if err != nil {
		fail(c, err)
		return
	}
	send(c, http.StatusOK, one.JSON)
}
