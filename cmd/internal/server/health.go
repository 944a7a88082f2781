package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir/store/pebblestore"
)

var errDraining = errors.New("draining")

// healthStore is the part of the store whose state health reports.
type healthStore interface {
	Get(ctx context.Context, key string) ([]byte, error)
	Ready() error
	Space() pebblestore.Space
}

// health answers whether the server takes requests.
type health struct {
	store    healthStore
	member   *member       // nil if this server is alone
	draining chan struct{} // closed when the server begins to drain
}

func (h *health) mount(e *gin.Engine) {
	e.GET("/livez", func(c *gin.Context) { c.String(http.StatusOK, "ok\n") })
	e.GET("/readyz", func(c *gin.Context) {
		if err := h.check(); err != nil {
			c.String(http.StatusServiceUnavailable, "%s\n", err)
			return
		}
		c.String(http.StatusOK, "ok\n")
	})
}

// check returns the reason why the server does not take requests, or nil.
func (h *health) check() error {
	select {
	case <-h.draining:
		return errDraining
	default:
	}
	// A stopped store fails every read.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if _, err := h.store.Get(ctx, "client/none"); err != nil {
		return errors.New("the store does not answer")
	}
	if h.member != nil {
		if err := h.member.ready(); err != nil {
			return err
		}
	}
	if err := h.store.Ready(); err != nil {
		return errors.New("the store cannot confirm that it is up to date")
	}
	return spaceError(h.store.Space())
}

// spaceError returns the error that /readyz shows for a full disk, or nil. The
// error names no directory; the log and `pulsegate store stat` do.
func spaceError(s pebblestore.Space) error {
	if !s.Full() {
		return nil
	}
	return fmt.Errorf("the disk is full: %d MiB are free, and the server keeps %d MiB in reserve", s.Free>>20,
		s.Reserve>>20)
}
