package submit

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// Status is the response to a poll. The submission is in progress while Progress is set.
type Status struct {
	Manifest []byte
	Progress string
	Expires  time.Time
}

type count struct {
	Code  string `json:"code"`
	Count int    `json:"count"`
}

type fileItem struct {
	Type          string  `json:"type"`
	URL           string  `json:"url"`
	ManifestURL   string  `json:"manifestUrl"`
	Count         int     `json:"count"`
	CountSeverity []count `json:"countSeverity"`
}

type statusManifest struct {
	SubmissionID        string     `json:"submissionId"`
	TransactionTime     string     `json:"transactionTime"`
	RequiresAccessToken bool       `json:"requiresAccessToken"`
	Output              []fileItem `json:"output"`
	Error               []fileItem `json:"error"`
}

// StatusURL returns the URL to poll for a submission. Submissions of other clients are
// NotFound.
func (c *Consumer) StatusURL(ctx context.Context, by audit.Caller, p *Params) (string, error) {
	if err := authorize(by.Principal); err != nil {
		return "", err
	}
	id := idOf(by.Principal.ClientID, p.Submitter, p.SubmissionID)
	if _, err := c.own(ctx, by, id); err != nil {
		return "", err
	}
	return c.opts.Base + "/$bulk-submit-status/" + id, nil
}

// own returns a submission of the caller.
func (c *Consumer) own(ctx context.Context, by audit.Caller, id string) (*submission, error) {
	absent := fhir.Errorf(fhir.NotFound, "submit.own", "there is no such submission")
	if by.Principal == nil || by.Principal.Grant != nil && by.Principal.Grant.Person || !fhir.ValidID(id) {
		return nil, absent
	}
	s, _, err := c.load(ctx, id)
	if err == nil && (s == nil || s.Client != by.Principal.ClientID) {
		err = absent
	}
	return s, err
}

// Status returns the status of a submission to the client that made it. A manifest is
// returned while it is in progress, too.
func (c *Consumer) Status(ctx context.Context, by audit.Caller, id string) (*Status, error) {
	s, err := c.own(ctx, by, id)
	if err != nil {
		return nil, err
	}
	m := statusManifest{SubmissionID: s.SubmissionID, TransactionTime: s.Updated.Format(fhir.InstantLayout),
		RequiresAccessToken: true, Output: []fileItem{}, Error: []fileItem{}}
	stored, waiting := 0, 0
	for i := range s.Manifests {
		part := &s.Manifests[i]
		stored += part.Stored
		if part.State == pending {
			waiting++
		}
		if len(part.Count) == 0 {
			continue
		}
		item := fileItem{Type: "OperationOutcome", ManifestURL: part.URL,
			URL: fmt.Sprintf("%s/$bulk-submit-file/%s/%d.ndjson", c.opts.Base, id, i)}
		for severity, n := range part.Count {
			item.Count += n
			item.CountSeverity = append(item.CountSeverity, count{severity, n})
		}
		slices.SortFunc(item.CountSeverity, func(a, b count) int { return strings.Compare(a.Code, b.Code) })
		m.Error = append(m.Error, item)
	}
	out := &Status{Expires: s.Expires}
	if s.Status == inProgress || s.pending() {
		out.Progress = fmt.Sprintf("%s, resources stored: %d, manifests waiting: %d", s.Status, stored, waiting)
	}
	out.Manifest, err = json.Marshal(m)
	return out, fhir.Wrap("submit.Status", err)
}

// WriteOutcomes writes a file of OperationOutcomes. The request is recorded before the
// first byte.
func (c *Consumer) WriteOutcomes(ctx context.Context, by audit.Caller, id, name string, w io.Writer) error {
	absent := fhir.Errorf(fhir.NotFound, "submit.WriteOutcomes", "the submission has no such file")
	s, err := c.own(ctx, by, id)
	if err != nil {
		return err
	}
	number, ok := strings.CutSuffix(name, ".ndjson")
	i, err := strconv.Atoi(number)
	if !ok || err != nil || i < 0 || i >= len(s.Manifests) || len(s.Manifests[i].Count) == 0 ||
		strconv.Itoa(i) != number {
		return absent
	}
	if err := c.opts.Audit.Record(ctx, c.event(by, "GET", "$bulk-submit-file/"+id+"/"+name, id)); err != nil {
		return err
	}
	for n := range s.Manifests[i].Outcomes {
		v, err := c.opts.Store.Get(ctx, chunkKey("outcome", id, i, n))
		if err != nil {
			return fhir.Wrap("submit.WriteOutcomes", err)
		}
		if _, err := w.Write(v); err != nil {
			return fhir.Wrap("submit.WriteOutcomes", err)
		}
	}
	return nil
}

func (c *Consumer) event(by audit.Caller, method, path, id string) audit.Event {
	return audit.Event{Type: audit.Rest, Interaction: "operation", Caller: by,
		Query: method + " " + c.opts.Base + "/" + path, Extra: [][2]string{{"submission", id}}}
}

// Delete forgets a submission. What it has stored stays. A submission in progress is
// stopped by submissionStatus, not by this.
func (c *Consumer) Delete(ctx context.Context, by audit.Caller, id string) error {
	const op = "submit.Delete"
	s, err := c.own(ctx, by, id)
	if err != nil {
		return err
	}
	if s.Status == inProgress || s.pending() {
		return fhir.Errorf(fhir.Conflict, op, "the submission is in progress; stop or complete it first")
	}
	b := &store.Batch{State: []store.StateWrite{{Key: key(id)}}}
	for _, what := range []string{"outcome", "created"} {
		err := c.opts.Store.List(ctx, "bulk-submit-"+what+"/"+id+"/", func(k string, _ []byte) bool {
			b.State = append(b.State, store.StateWrite{Key: k})
			return true
		})
		if err != nil {
			return fhir.Wrap(op, err)
		}
	}
	_, err = audit.Commit(ctx, c.opts.Store, c.opts.Audit, b, c.event(by, "DELETE", "$bulk-submit-status/"+id, id))
	return fhir.Wrap(op, err)
}
