package server

import (
	"net/http"
	"strings"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir/r4"
	"pulsegate/fhir/rest"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/pages"
)

// unsynced reports whether r is answered without the store.
func unsynced(r *http.Request) bool {
	switch r.URL.Path {
	case "/", "/favicon.ico", "/livez", "/readyz", openAPIPath, collectionPath, guidePath: // /readyz and / report the state of the store themselves
		return true
	}
	return pages.IsStatic(r)
}

// unavailable answers a request outside of /fhir while the store cannot confirm that it
// is up to date: a browser with a page, a delivery with an OperationOutcome, and any
// other client as an OAuth endpoint does (RFC 6749 5.2).
func (s *services) unavailable(c *gin.Context, err error) {
	at := c.Request.URL.Path
	if strings.HasPrefix(at, "/auth/") || at == authorize.Path {
		s.pages.Unavailable(c.Writer, c.Request, err)
		return
	}
	s.log.Error("request failed", "error", err, "request_id", rest.RequestID(c))
	if strings.HasPrefix(at, "/ingest/") {
		c.Data(http.StatusServiceUnavailable, "application/fhir+json; charset=utf-8", r4.OutcomeJSON(err))
		return
	}
	c.Header("Access-Control-Allow-Origin", "*")
	c.Header("Cache-Control", "no-store")
	c.JSON(http.StatusServiceUnavailable, gin.H{"error": "temporarily_unavailable", "error_description": "try again"})
}
