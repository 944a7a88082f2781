package rest

import (
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// AuditLog serves the tamper-evident log to auditors:
//
//	GET  /AuditEvent/$checkpoint   the latest signed checkpoint, to be kept
//	POST /AuditEvent/$verify       recomputes the log; the body may be an
//	                               older checkpoint to compare with
//
// Both need a scope that reads AuditEvent, and are recorded themselves.
type AuditLog struct {
	Store    store.Store
	Recorder *audit.Recorder
	Notary   *audit.Notary
	Clock    func() time.Time

	running sync.Mutex
}

// maxCheckpoint bounds the size of a client's checkpoint in bytes.
const maxCheckpoint = 16 << 10

// Mount adds the routes below the FHIR base.
func (h *AuditLog) Mount(r gin.IRouter) {
	r.GET("/AuditEvent/$checkpoint", h.checkpoint)
	r.POST("/AuditEvent/$verify", h.verify)
}

// allowed records the request and reports whether it is permitted.
func (h *AuditLog) allowed(c *gin.Context) bool {
	p := principalOf(c)
	ev := audit.Event{Type: audit.AuditRead, Interaction: "operation", Caller: callerOf(c),
		Query: c.Request.Method + " " + c.Request.URL.RequestURI()}
	ok := p != nil && p.Grant.MayAll(access.Read, "AuditEvent")
	if !ok {
		ev.Outcome, ev.Reason = audit.Serious, "scope does not cover AuditEvent"
	}
	if err := h.Recorder.Record(c.Request.Context(), ev); err != nil {
		fail(c, err)
		return false
	}
	if !ok {
		fail(c, fhir.Errorf(fhir.Forbidden, "rest.AuditLog", "the token's scopes do not cover reading AuditEvent"))
	}
	return ok
}

func (h *AuditLog) checkpoint(c *gin.Context) {
	if !h.allowed(c) {
		return
	}
	if err := h.Notary.Cover(c.Request.Context()); err != nil {
		fail(c, err)
		return
	}
	c.Header("Cache-Control", "no-store")
	c.Data(http.StatusOK, "text/plain; charset=utf-8", h.Notary.Checkpoint())
}

func (h *AuditLog) verify(c *gin.Context) {
	if !h.allowed(c) {
		return
	}
	older, err := io.ReadAll(io.LimitReader(c.Request.Body, maxCheckpoint+1))
	if err != nil || len(older) > maxCheckpoint {
		fail(c, fhir.Errorf(fhir.TooLarge, "rest.AuditLog", "the checkpoint could not be read within %d bytes",
			maxCheckpoint))
		return
	}
	// It reads the whole log, so only one may run in this process at a time.
	if !h.running.TryLock() {
		c.Header("Retry-After", "10")
		fail(c, fhir.Errorf(fhir.TooMany, "rest.AuditLog", "a verification is running already"))
		return
	}
	defer h.running.Unlock()
	opts := audit.VerifyOptions{Verifier: h.Notary.Verifier(), Clock: h.Clock}
	if len(older) > 0 {
		opts.Also = [][]byte{older}
	}
	report, err := audit.Verify(c.Request.Context(), h.Store, h.Notary.Checkpoint(), opts)
	if err != nil {
		fail(c, err)
		return
	}
	c.JSON(http.StatusOK, report)
}
