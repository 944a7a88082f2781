package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/gin-gonic/gin"

	"pulsegate/adapters"
	"pulsegate/fhir/access"
)

const loneHour = `{"data":{"metrics":[{"name":"step_count","units":"count","data":[{"date":"2026-04-07 00:00:00 +0200","qty":23,"source":"Band"}]},` +
	`{"name":"heart_rate","units":"count/min","data":[{"date":"2026-04-07 00:00:00 +0200","Min":49,"Avg":53,"Max":70,"source":"Band"}]}]}}`

// TestDeliveryHeaders checks that the headers of an automation tell what a row
// at midnight means, and that an average of heart rates is not coded as a heart
// rate.
func TestDeliveryHeaders(t *testing.T) {
	gin.SetMode(gin.TestMode)
	for _, c := range []struct {
		aggregation, steps, when string
	}{
		{"", "55423-8", `"effectiveDateTime":"2026-04-07T00:00:00+02:00"`},
		{"Hours", "55423-8", `"effectivePeriod":{"start":"2026-04-07T00:00:00+02:00","end":"2026-04-07T01:00:00+02:00"}`},
		{"Days", "41950-7", `"effectiveDateTime":"2026-04-07"`},
	} {
		w := newWorld(t)
		e := gin.New()
		who := &access.Principal{ClientID: "c",
			Grant: &access.Grant{Recipient: "c", Rules: []access.Rule{{Type: "Observation", May: access.Create}}}}
		(&Handler{Pipeline: w.pipeline, Auth: fixed{who}}).Mount(e)
		req := httptest.NewRequest("POST", "/ingest/apple/auto?patient=p1", strings.NewReader(loneHour))
		if c.aggregation != "" {
			req.Header.Set("Automation-Aggregation", c.aggregation)
			req.Header.Set("Automation-Name", "Band to clinic")
			req.Header.Set("Automation-Period", "Today")
			req.Header.Set("Session-Id", "F00")
		}
		rec := httptest.NewRecorder()
		e.ServeHTTP(rec, req)
		if rec.Code != 200 {
			t.Fatalf("%s: %d %s", c.aggregation, rec.Code, rec.Body)
		}
		all := w.all("Observation")
		if len(all) != 2 {
			t.Errorf("%q: %d Observations", c.aggregation, len(all))
		}
		for _, o := range all {
			body := string(o.JSON)
			if strings.Contains(body, "8867-4") || strings.Contains(body, "/heartrate") {
				t.Errorf("%q: an average coded as a heart rate: %s", c.aggregation, body)
			}
			if !strings.Contains(body, c.when) || strings.Contains(body, `"steps"`) &&
				!strings.Contains(body, c.steps) {
				t.Errorf("%q: %s", c.aggregation, body)
			}
		}
	}
}

// seekAdapter is an adapter with a format that is read from its end.
type seekAdapter struct{ feed }

func (seekAdapter) Formats() []adapters.Format { return []adapters.Format{{Name: "tail", Seek: true}} }

func (seekAdapter) Detect(string, []byte) (string, bool) { return "tail", true }

func (seekAdapter) Decode(_ context.Context, in adapters.Input, _ adapters.Sink) error {
	end := make([]byte, 3)
	if in.At == nil {
		return errors.New("no random access")
	}
	if _, err := in.At.ReadAt(end, in.Size-3); err != nil || string(end) != "end" {
		return fmt.Errorf("%s %w", end, err)
	}
	all, err := io.ReadAll(in.Body)
	if err != nil || int64(len(all)) != in.Size {
		return fmt.Errorf("%d of %d bytes: %w", len(all), in.Size, err)
	}
	return nil
}

// TestFormatThatSeeks checks that a format that needs random access gets it for
// payloads from streams and files.
func TestFormatThatSeeks(t *testing.T) {
	w := newWorld(t)
	w.pipeline.Adapters = []adapters.Adapter{seekAdapter{}}
	w.must("apple", "payload", strings.Repeat("x", 100_000)+"end")
}

// TestReadHead checks that the head of a body has the right length for reads of any
// size, and that the rest follows.
func TestReadHead(t *testing.T) {
	for _, n := range []int{0, 1, 4095, 4096, 4097, 16 << 10, headSize - 1, headSize, headSize + 1, 3 * headSize} {
		text := strings.Repeat("0123456789", n/10+1)[:n]
		for name, body := range map[string]io.Reader{"at once": strings.NewReader(text),
			"in pieces": iotest.HalfReader(strings.NewReader(text))} {
			head, whole, err := readHead(body)
			if err != nil || string(head) != text[:min(n, headSize)] || whole != (n < headSize) {
				t.Errorf("%d bytes %s: %d, %v, %v", n, name, len(head), whole, err)
			}
			rest, err := io.ReadAll(body)
			if err != nil || string(head)+string(rest) != text {
				t.Errorf("%d bytes %s: the rest has %d", n, name, len(rest))
			}
		}
	}
	broken := io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(io.ErrClosedPipe))
	if _, _, err := readHead(broken); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
}
