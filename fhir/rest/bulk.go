package rest

import (
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/interaction"
)

// Bulk serves the export operations:
//
//	GET, POST   /$export, /Patient/$export, /Group/:id/$export
//	GET, DELETE /$export-status/:job
//	GET         /$export-file/:job/:file
type Bulk struct {
	Exporter *bulk.Exporter
	// Base is the FHIR base URL without a trailing slash.
	Base string
	// Service records failed requests. If it is nil, none are recorded.
	Service *interaction.Service
	// StepUp returns an error if the caller must sign in again. It may be nil.
	StepUp func(*access.Principal) error
}

// refuse records a failed request and answers it.
func refuse(c *gin.Context, s *interaction.Service, ref fhir.Ref, err error) {
	if s != nil {
		err = s.Refused(c.Request.Context(), requestOf(c), "operation", ref, err)
	}
	fail(c, err)
}

// maxParametersBody bounds the body of a kick-off by POST, in bytes.
const maxParametersBody = 64 << 10

// Mount adds the routes below the FHIR base.
func (h Bulk) Mount(r gin.IRouter) {
	for _, m := range []string{http.MethodGet, http.MethodPost} {
		r.Handle(m, "/$export", h.kickOff(bulk.System))
		r.Handle(m, "/Patient/$export", h.kickOff(bulk.Patients))
		// The route cannot begin with /Group/: gin does not backtrack from a fixed
		// segment, so GET /Group/g1 would not be found.
		r.Handle(m, "/:type/:id/$export", h.kickOff(bulk.Group))
	}
	r.GET("/$export-status/:job", h.status)
	r.DELETE("/$export-status/:job", h.delete)
	r.GET("/$export-file/:job/:file", h.file)
}

// preferences parses the Prefer header. Names and values are in lower case.
func preferences(c *gin.Context) map[string]string {
	out := map[string]string{}
	for _, line := range c.Request.Header.Values("Prefer") {
		for part := range strings.FieldsFuncSeq(line, func(r rune) bool { return r == ',' || r == ';' }) {
			name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
			out[strings.ToLower(strings.TrimSpace(name))] = strings.ToLower(strings.Trim(strings.TrimSpace(value), `"`))
		}
	}
	return out
}

// accepts reports whether the Accept header allows one of the media types. Without
// the header, all are allowed.
func accepts(c *gin.Context, types ...string) bool {
	lines := c.Request.Header.Values("Accept")
	if len(lines) == 0 {
		return true
	}
	for part := range strings.SplitSeq(strings.Join(lines, ","), ",") {
		media, params, err := mime.ParseMediaType(strings.TrimSpace(part))
		if err != nil || params["q"] == "0" {
			continue
		}
		for _, t := range types {
			main, _, _ := strings.Cut(t, "/")
			if media == t || media == "*/*" || media == main+"/*" {
				return true
			}
		}
	}
	return false
}

func (h Bulk) kickOff(level bulk.Level) gin.HandlerFunc {
	return func(c *gin.Context) {
		const op = "rest.Bulk"
		if level == bulk.Group && c.Param("type") != "Group" {
			refuse(c, h.Service, fhir.Ref{},
				fhir.Errorf(fhir.NotFound, op, "$export is offered for the system, Patient and Group/[id]"))
			return
		}
		// A page for browsers is of no use to who polls, so the answer is FHIR.
		if r := renderingOf(c); r.failed || r.format == formatHTML {
			notAcceptable(c, acceptedFormats)
			return
		}
		if h.StepUp != nil {
			if err := h.StepUp(principalOf(c)); err != nil {
				refuse(c, h.Service, fhir.Ref{}, err)
				return
			}
		}
		prefer := preferences(c)
		if _, ok := prefer["respond-async"]; !ok {
			refuse(c, h.Service, fhir.Ref{},
				fhir.Errorf(fhir.Invalid, op, "an export needs the header Prefer: respond-async"))
			return
		}
		params, err := url.ParseQuery(c.Request.URL.RawQuery)
		if err != nil {
			refuse(c, h.Service, fhir.Ref{}, fhir.Errorf(fhir.Invalid, op, "the query cannot be read"))
			return
		}
		self := h.Base + strings.TrimPrefix(c.Request.URL.Path, basePath(h.Base))
		if c.Request.Method == http.MethodPost {
			// According to the guide, a POST has its parameters only in the body.
			if params, err = postParameters(c); err != nil {
				refuse(c, h.Service, fhir.Ref{}, err)
				return
			}
		} else if c.Request.URL.RawQuery != "" {
			self += "?" + c.Request.URL.RawQuery
		}
		location, err := h.Exporter.KickOff(c.Request.Context(), callerOf(c), bulk.Request{
			Level: level, GroupID: c.Param("id"), URL: self, Params: params, Lenient: prefer["handling"] == "lenient",
		})
		if err != nil {
			if fhir.KindOf(err) == fhir.TooMany {
				c.Header("Retry-After", "10")
			}
			refuse(c, h.Service, fhir.Ref{}, err)
			return
		}
		c.Header("Content-Location", location)
		send(c, http.StatusAccepted,
			[]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","diagnostics":"The export was accepted; poll the Content-Location."}]}`))
	}
}

// basePath returns the path of the FHIR base URL.
func basePath(base string) string {
	u, err := url.Parse(base)
	if err != nil {
		return ""
	}
	return u.Path
}

func postParameters(c *gin.Context) (url.Values, error) {
	body, err := parametersBody(c, "rest.Bulk")
	if err != nil {
		return nil, err
	}
	return bulk.ParseParameters(body)
}

func (h Bulk) status(c *gin.Context) {
	s, err := h.Exporter.Status(c.Request.Context(), callerOf(c), c.Param("job"))
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	c.Header("Expires", s.Expires.UTC().Format(http.TimeFormat))
	if s.Manifest == nil {
		c.Header("X-Progress", s.Progress)
		c.Header("Retry-After", "1")
		c.Status(http.StatusAccepted)
		c.Writer.WriteHeaderNow()
		return
	}
	c.Data(http.StatusOK, "application/json", s.Manifest)
}

func (h Bulk) delete(c *gin.Context) {
	if err := h.Exporter.Delete(c.Request.Context(), callerOf(c), c.Param("job")); err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Status(http.StatusAccepted)
	c.Writer.WriteHeaderNow()
}

func (h Bulk) file(c *gin.Context) {
	if !accepts(c, "application/fhir+ndjson", "application/ndjson", "application/x-ndjson") {
		notAcceptable(c, "application/fhir+ndjson")
		return
	}
	f, err := h.Exporter.Open(c.Request.Context(), callerOf(c), c.Param("job"), c.Param("file"))
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	w := &fileWriter{context: c, coding: contentCoding(c.GetHeader("Accept-Encoding"))}
	err = f.WriteTo(c.Request.Context(), w)
	if err == nil {
		err = w.close()
	}
	if err == nil {
		return
	}
	if !w.begun {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	// The status line has been sent. An aborted connection is the only way left to
	// report the error; clients cannot mistake it for the end of the file.
	w.abort()
}

// contentCoding chooses zstd, gzip or none.
func contentCoding(header string) string {
	offered := map[string]bool{}
	for part := range strings.SplitSeq(header, ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if v, ok := strings.CutPrefix(strings.TrimSpace(q), "q="); ok {
			if f, err := strconv.ParseFloat(v, 64); err != nil || f == 0 {
				continue
			}
		}
		offered[strings.ToLower(strings.TrimSpace(name))] = true
	}
	switch {
	case offered["zstd"]:
		return "zstd"
	case offered["gzip"]:
		return "gzip"
	}
	return ""
}

// fileWriter sends the header with the first byte, so that earlier errors can still
// be reported with a status.
type fileWriter struct {
	context *gin.Context
	coding  string
	begun   bool
	writer  io.Writer
	end     io.Closer
}

func (w *fileWriter) begin() error {
	w.begun = true
	h := w.context.Writer.Header()
	h.Set("Content-Type", "application/fhir+ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	w.writer = w.context.Writer
	switch w.coding {
	case "zstd":
		z, err := zstd.NewWriter(w.context.Writer, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1))
		if err != nil {
			return fhir.Wrap("rest.Bulk", err)
		}
		w.writer, w.end = z, z
		h.Set("Content-Encoding", w.coding)
	case "gzip":
		z, err := gzip.NewWriterLevel(w.context.Writer, gzip.BestSpeed)
		if err != nil {
			return fhir.Wrap("rest.Bulk", err)
		}
		w.writer, w.end = z, z
		h.Set("Content-Encoding", w.coding)
	}
	w.context.Writer.WriteHeader(http.StatusOK)
	return nil
}

func (w *fileWriter) Write(b []byte) (int, error) {
	if !w.begun {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	return w.writer.Write(b)
}

func (w *fileWriter) close() error {
	if !w.begun {
		if err := w.begin(); err != nil {
			return err
		}
	}
	if w.end != nil {
		if err := w.end.Close(); err != nil {
			return fhir.Wrap("rest.Bulk", err)
		}
	}
	w.context.Writer.WriteHeaderNow()
	return nil
}

// abort aborts the answer.
func (w *fileWriter) abort() {
	if err := cut(w.context); err != nil {
		w.context.Abort() // the compressed stream is incomplete
	}
}
