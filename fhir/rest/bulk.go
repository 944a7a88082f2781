package rest

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/bulk"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/limit"
)

// Bulk serves the export operations:
//
//	GET, POST   /$export, /Patient/$export, /Group/:id/$export
//	GET, DELETE /$export-status/:job
//	GET, HEAD   /$export-file/:job/:file
//
// A poll whose Accept has a parameter bulkdata of 4 or above, such as
// application/json;bulkdata=4.0, gets the manifest of Bulk Data 4.0.0.
type Bulk struct {
	Exporter *bulk.Exporter
	// Base is the FHIR base URL without a trailing slash.
	Base string
	// Service records failed requests. If it is nil, none are recorded.
	Service *interaction.Service
	// StepUp returns an error if the caller must sign in again. It may be nil.
	StepUp func(*access.Principal) error
	// Polls is the number of polls per second that a client may send while its exports are
	// in progress, and a fifth of the number that it may send at once. The default is 100.
	Polls int
	Clock func() time.Time // time.Now by default

	polls *limit.Buckets // set by Mount
}

// refuse records a failed request and answers it.
func refuse(c *gin.Context, s *interaction.Service, ref fhir.Ref, err error) {
	if s != nil {
		err = s.Refused(c.Request.Context(), requestOf(c), "operation", ref, err)
	}
	fail(c, err)
}

// maxParametersBody bounds the body of a kick-off by POST, in bytes.
const maxParametersBody = interaction.MaxParameters

// Mount adds the routes below the FHIR base.
func (h Bulk) Mount(r gin.IRouter) {
	if h.Polls <= 0 {
		h.Polls = 100
	}
	if h.Clock == nil {
		h.Clock = time.Now
	}
	h.polls = limit.NewBuckets(h.Polls, 5*h.Polls)
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
	r.HEAD("/$export-file/:job/:file", h.file)
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
		query := c.Request.URL.RawQuery
		params, err := url.ParseQuery(query)
		if err != nil {
			refuse(c, h.Service, fhir.Ref{}, fhir.Errorf(fhir.Invalid, op, "the query cannot be read"))
			return
		}
		self := h.Base + strings.TrimPrefix(c.Request.URL.Path, basePath(h.Base))
		if c.Request.Method == http.MethodPost {
			// According to the guide, a POST has its parameters in the body. @medplum/core
			// sends no body, but a query, which must not be ignored: the export would be
			// larger than the one requested.
			body, err := postParameters(c)
			if err != nil {
				refuse(c, h.Service, fhir.Ref{}, err)
				return
			}
			if body != nil {
				params, query = body, ""
			}
		}
		if query != "" {
			self += "?" + query
		}
		location, err := h.Exporter.KickOff(c.Request.Context(), callerOf(c), bulk.Request{
			Level: level, GroupID: c.Param("id"), URL: self, Params: params, Lenient: prefer["handling"] == "lenient",
			Post: c.Request.Method == http.MethodPost,
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

// postParameters returns the parameters in the body of a kick-off, or nil if it is empty.
func postParameters(c *gin.Context) (url.Values, error) {
	body, err := optionalParameters(c, "rest.Bulk")
	if err != nil {
		return nil, err
	}
	if len(body) == 0 {
		return nil, nil
	}
	return bulk.ParseParameters(body)
}

// manifestForm returns the form of manifest that the Accept header asks for.
func manifestForm(c *gin.Context) bulk.Form {
	for part := range strings.SplitSeq(strings.Join(c.Request.Header.Values("Accept"), ","), ",") {
		if _, params, err := mime.ParseMediaType(strings.TrimSpace(part)); err == nil {
			if v, err := strconv.ParseFloat(params["bulkdata"], 64); err == nil && v >= 4 {
				return bulk.Form4
			}
		}
	}
	return bulk.Form3
}

func (h Bulk) status(c *gin.Context) {
	page := 0
	if v := c.Query("page"); v != "" {
		var err error
		if page, err = strconv.Atoi(v); err != nil || page < 0 {
			refuse(c, h.Service, fhir.Ref{}, fhir.Errorf(fhir.NotFound, "rest.Bulk", "there is no such manifest"))
			return
		}
	}
	s, err := h.Exporter.Status(c.Request.Context(), callerOf(c), c.Param("job"), page, manifestForm(c))
	if err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	c.Header("Expires", s.Expires.UTC().Format(http.TimeFormat))
	if s.Progress == "" {
		c.Data(http.StatusOK, "application/json", s.Manifest)
		return
	}
	wait, ok := h.polls.Take(limit.Named(principalOf(c).ClientID), h.Clock(), 1)
	if !ok {
		// According to the guide, this does not mean that the export has failed.
		c.Header("Retry-After", strconv.Itoa(limit.RetryAfter(wait)))
		refuse(c, h.Service, fhir.Ref{}, &fhir.Error{Kind: fhir.TooMany, Op: "rest.Bulk",
			Issues: []fhir.Issue{{Code: "throttled", Diagnostics: "the client polls too often; the export continues"}}})
		return
	}
	c.Header("X-Progress", s.Progress)
	c.Header("Retry-After", "1")
	if s.Manifest != nil {
		c.Data(http.StatusAccepted, "application/json", s.Manifest)
		return
	}
	c.Status(http.StatusAccepted)
	c.Writer.WriteHeaderNow()
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
	w := &fileWriter{context: c, file: f, coding: contentCoding(c.GetHeader("Accept-Encoding"))}
	tag, size, tagged := f.Tag()
	if tagged {
		if matchesTag(c.GetHeader("If-None-Match"), tag) {
			c.Header("ETag", `"`+tag+`"`)
			c.Status(http.StatusNotModified)
			c.Writer.WriteHeaderNow()
			return
		}
		if !h.rangeOf(c, f, w, tag, size) {
			return
		}
	}
	if c.Request.Method == http.MethodHead {
		h.head(c, f, w)
		return
	}
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

// head answers a HEAD request. The size is that of the file as it was prepared; a download
// whose content has changed since has no entity tag.
func (h Bulk) head(c *gin.Context, f *bulk.File, w *fileWriter) {
	if err := f.RecordHead(c.Request.Context()); err != nil {
		refuse(c, h.Service, fhir.Ref{}, err)
		return
	}
	w.headers()
	if _, size, ok := f.Tag(); ok && w.coding == "" {
		c.Header("Content-Length", strconv.FormatInt(size, 10))
	}
	c.Status(http.StatusOK)
	c.Writer.WriteHeaderNow()
}

// matchesTag reports whether If-None-Match has a tag. The comparison is weak.
func matchesTag(header, tag string) bool {
	for v := range strings.SplitSeq(header, ",") {
		v = strings.TrimPrefix(strings.TrimSpace(v), "W/")
		if v == "*" || v == `"`+tag+`"` {
			return true
		}
	}
	return false
}

// rangeOf applies a Range header. It returns false if it has answered the request. A
// range applies to the bytes without a content coding, to one range, and only if If-Range
// has the current tag. Otherwise the whole file is the answer (RFC 9110 section 14.2).
func (h Bulk) rangeOf(c *gin.Context, f *bulk.File, w *fileWriter, tag string, size int64) bool {
	header := c.GetHeader("Range")
	if v := c.GetHeader("If-Range"); header == "" || c.Request.Method != http.MethodGet ||
		v != "" && v != `"`+tag+`"` {
		return true
	}
	from, to, ok := parseRange(header, size)
	if !ok {
		return true
	}
	if from >= to {
		c.Header("Content-Range", "bytes */"+strconv.FormatInt(size, 10))
		send(c, http.StatusRequestedRangeNotSatisfiable,
			[]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"value","diagnostics":"Range begins after the end of the file"}]}`))
		return false
	}
	w.coding, w.size = "", size
	f.SetRange(from, to)
	return true
}

// parseRange parses a Range header of one range of bytes. If the range cannot be
// satisfied, from is not less than to.
func parseRange(header string, size int64) (from, to int64, ok bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	first, last, dash := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !dash {
		return 0, 0, false
	}
	number := func(s string) int64 {
		n, err := strconv.ParseUint(s, 10, 62)
		if err != nil {
			ok = false
		}
		return int64(n)
	}
	if first == "" {
		n := number(last)
		return max(0, size-n), size, ok
	}
	from, to = number(first), size
	if last != "" {
		to = number(last) + 1
		if to <= from {
			return 0, 0, false
		}
	}
	return from, min(to, size), ok
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
	file    *bulk.File
	coding  string
	size    int64 // of the file, for a range
	begun   bool
	writer  io.Writer
	end     io.Closer
}

// headers sets the header of an answer with the file.
func (w *fileWriter) headers() {
	h := w.context.Writer.Header()
	h.Set("Content-Type", "application/fhir+ndjson")
	h.Set("Cache-Control", "no-store")
	h.Set("Vary", "Accept-Encoding")
	if w.coding != "" {
		h.Set("Content-Encoding", w.coding)
	}
	tag, _, ok := w.file.Tag()
	switch {
	case ok && w.coding == "":
		h.Set("ETag", `"`+tag+`"`)
		h.Set("Accept-Ranges", "bytes")
	case ok: // The bytes of a content coding are not promised to be the same each time.
		h.Set("ETag", `W/"`+tag+`"`)
	}
}

func (w *fileWriter) begin() error {
	w.begun = true
	w.headers()
	w.writer = w.context.Writer
	switch w.coding {
	case "zstd":
		z, err := zstd.NewWriter(w.context.Writer, zstd.WithEncoderLevel(zstd.SpeedFastest),
			zstd.WithEncoderConcurrency(1))
		if err != nil {
			return fhir.Wrap("rest.Bulk", err)
		}
		w.writer, w.end = z, z
	case "gzip":
		z, err := gzip.NewWriterLevel(w.context.Writer, gzip.BestSpeed)
		if err != nil {
			return fhir.Wrap("rest.Bulk", err)
		}
		w.writer, w.end = z, z
	}
	if from, to, ok := w.file.Range(); ok {
		h := w.context.Writer.Header()
		h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, w.size))
		h.Set("Content-Length", strconv.FormatInt(to-from, 10))
		w.context.Writer.WriteHeader(http.StatusPartialContent)
		return nil
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
