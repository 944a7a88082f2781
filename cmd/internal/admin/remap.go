package admin

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// Remap is the input of `pulsegate remap`.
type Remap struct {
	Vendor   string    `json:"vendor"`
	Patient  string    `json:"patient,omitempty"`
	Metrics  []string  `json:"metrics,omitempty"`
	Since    time.Time `json:"since,omitzero"`
	DryRun   bool      `json:"dryRun,omitempty"`
	Examples int       `json:"examples,omitempty"`
	Limit    int       `json:"limit,omitempty"`
}

// RemapJobs is the answer of `remap status`.
type RemapJobs struct {
	Jobs []ingest.RemapJob `json:"jobs"`
}

// VendorName is the input of an operation on the data of one vendor.
type VendorName struct {
	Vendor string `json:"vendor"`
}

// RemapOperations map stored samples again.
type RemapOperations interface {
	// Remap runs a job until it ends, and calls progress with its state. If ctx ends,
	// the job goes on, unless it is a dry run.
	Remap(ctx context.Context, op Operator, in Remap, progress func(ingest.RemapJob)) (ingest.RemapJob, error)
	RemapJobs(ctx context.Context, op Operator) (RemapJobs, error)
	CancelRemap(ctx context.Context, op Operator, in VendorName) (VendorName, error)
}

func remaps(m *mux, s *Server, o RemapOperations) {
	m.HandleFunc("POST /remap", func(w http.ResponseWriter, r *http.Request) { s.remap(w, r, o) })
	get(m, s, "remap", func(ctx context.Context, op Operator, _ *http.Request) (RemapJobs, error) {
		return o.RemapJobs(ctx, op)
	})
	post(m, s, "remap/cancel", o.CancelRemap)
}

// progressEvery is the shortest time between two states of a job that are sent.
const progressEvery = 500 * time.Millisecond

// remap answers with the states of the job, one JSON value per line. The last one is
// the job at its end, or a Failure.
func (s *Server) remap(w http.ResponseWriter, r *http.Request, o RemapOperations) {
	var in Remap
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&in); err != nil {
		s.answer(w, r, nil, fhir.Errorf(fhir.Invalid, "admin", "the body is not valid input for remap"))
		return
	}
	var sent time.Time
	enc, flush := json.NewEncoder(w), http.NewResponseController(w)
	job, err := o.Remap(r.Context(), operatorOf(r), in, func(job ingest.RemapJob) {
		if now := time.Now(); now.Sub(sent) >= progressEvery {
			if sent.IsZero() {
				w.Header().Set("Content-Type", "application/jsonl")
			}
			sent = now
			if errors.Join(enc.Encode(&job), flush.Flush()) != nil {
				return // the client has gone; the context ends
			}
		}
	})
	if sent.IsZero() || err == nil {
		if err == nil && !sent.IsZero() {
			err = enc.Encode(&job)
			if err != nil {
				s.Log.Warn("the answer to an operator command could not be sent", "error", err)
			}
			return
		}
		s.answer(w, r, job, err)
		return
	}
	_, failure := refusal(strings.Trim(r.URL.Path, "/"), err)
	if err := enc.Encode(failure); err != nil {
		s.Log.Warn("the answer to an operator command could not be sent", "error", err)
	}
}

// Stream posts in to an operation that answers with several JSON values, and calls fn
// with each.
func (c *Client) Stream(ctx context.Context, op string, in any, fn func(json.RawMessage) error) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, http.MethodPost, op, nil, strings.NewReader(string(body)), 0)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	dec := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxAnswer))
	for dec.More() {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if err := failureOf(raw); err != nil {
			return err
		}
		if resp.StatusCode >= 300 {
			return errors.New("the server answered " + resp.Status)
		}
		if err := fn(raw); err != nil {
			return err
		}
	}
	return nil
}
