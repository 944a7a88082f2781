package rest

import (
	"bytes"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/bulk"
)

// BulkPublish serves $bulk-publish and its files, without authentication:
//
//	GET, HEAD /$bulk-publish
//	GET, HEAD /$bulk-publish-file/:file
//
// The parameter _since of earlier drafts is ignored, as they permit.
type BulkPublish struct {
	Publisher *bulk.Publisher
}

// Mount adds the routes below the FHIR base.
func (h BulkPublish) Mount(r gin.IRouter) {
	for _, m := range []string{http.MethodGet, http.MethodHead} {
		r.Handle(m, "/$bulk-publish", h.manifest)
		r.Handle(m, "/$bulk-publish-file/:file", h.file)
	}
}

func (h BulkPublish) manifest(c *gin.Context) {
	body, tag, err := h.Publisher.Manifest(c.Request.Context())
	if err != nil {
		fail(c, err)
		return
	}
	c.Header("Cache-Control", "public, max-age=10")
	sendTagged(c, "application/json", tag, body)
}

func (h BulkPublish) file(c *gin.Context) {
	body, err := h.Publisher.File(c.Request.Context(), c.Param("file"))
	if err == nil && body == nil {
		err = fhir.Errorf(fhir.NotFound, "rest.BulkPublish", "there is no such file")
	}
	if err != nil {
		fail(c, err)
		return
	}
	c.Header("Cache-Control", "public, max-age=31536000, immutable")
	sendTagged(c, "application/fhir+ndjson", c.Param("file"), body)
}

// sendTagged answers with a content that has an entity tag, with its conditions and ranges.
func sendTagged(c *gin.Context, contentType, tag string, body []byte) {
	c.Header("Content-Type", contentType)
	c.Header("ETag", `"`+tag+`"`)
	http.ServeContent(c.Writer, c.Request, "", time.Time{}, bytes.NewReader(body))
}
