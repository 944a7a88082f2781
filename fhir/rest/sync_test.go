package rest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"pulsegate/fhir/store"
)

// confirmations is a store whose Sync succeeds a number of times.
type confirmations struct {
	store.Store
	left atomic.Int64
}

func (c *confirmations) Sync(context.Context) error {
	if c.left.Add(-1) < 0 {
		return errors.New("the log does not answer")
	}
	return nil
}

// TestLongAnswerNeedsSync reads a long answer while the store can confirm that it is up
// to date, and while it can do so only before the request or for the first parts. The
// answer must then end early, in a way that is no end of an answer.
func TestLongAnswerNeedsSync(t *testing.T) {
	st := &confirmations{Store: newModelStore(time.Now)}
	st.left.Store(1 << 30)
	w := newWorld(t, st)
	for i := range 4 {
		o := observation(fmt.Sprint("o", i), "p1", "vital-signs", 60)
		w.put(fmt.Sprint("Observation/o", i), strings.Replace(o, `"status"`,
			`"note":[{"text":"`+strings.Repeat("long ", askEvery/5)+`"}],"status"`, 1), 201)
	}
	read := func(confirmed int64) (status int, n int64, err error) {
		st.left.Store(confirmed)
		rq, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.srv.URL+"/fhir/Observation?patient=p1",
			nil)
		if err != nil {
			t.Fatal(err)
		}
		rq.Header.Set("Authorization", "Bearer all")
		rq.Header.Set("Accept-Encoding", "identity")
		resp, err := http.DefaultClient.Do(rq)
		if err != nil {
			return 0, 0, err
		}
		defer resp.Body.Close()
		n, err = io.Copy(io.Discard, resp.Body)
		return resp.StatusCode, n, err
	}
	if status, n, err := read(1 << 30); err != nil || status != http.StatusOK || n < 4*askEvery {
		t.Fatalf("status %d, %d bytes, %v", status, n, err)
	}
	if status, _, err := read(0); err != nil || status != http.StatusServiceUnavailable {
		t.Errorf("unconfirmed before the request: status %d, %v", status, err)
	}
	for _, parts := range []int64{1, 2, 3} { // confirmed before the request, and for parts-1 parts
		if status, n, err := read(parts); err == nil || n >= (parts+1)*askEvery {
			t.Errorf("confirmed %d times: status %d, %d bytes, %v", parts, status, n, err)
		}
	}
}
