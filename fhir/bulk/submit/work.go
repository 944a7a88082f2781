package submit

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/cluster/follow"
	"pulsegate/fhir/cluster/role"
	"pulsegate/fhir/egress"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// worker works on submissions while its process has the role.
type worker struct {
	*Consumer
	term role.Term
}

// attempts bounds the attempts to fetch a manifest or a file, with pauses that double.
const attempts = 4

// work processes submissions until ctx ends.
func (c *Consumer) work(ctx context.Context, t role.Term) {
	w := &worker{c, t}
	loop := follow.Loop{Wake: c.wake, Pause: 250 * time.Millisecond, MinBackoff: time.Second, MaxBackoff: time.Minute,
		Failed: func(err error) {
			if ctx.Err() == nil {
				c.opts.Logger.ErrorContext(ctx, "submissions could not be processed", "error", err)
			}
		}}
	c.signal()
	loop.Run(ctx, func(ctx context.Context) (time.Duration, error) { return 0, w.all(ctx) })
}

// all processes what is pending of all submissions.
func (w *worker) all(ctx context.Context) error {
	var ids []string
	err := w.each(ctx, func(s *submission, _ []byte) {
		if s.pending() {
			ids = append(ids, s.ID)
		}
	})
	for _, id := range ids {
		if err != nil || ctx.Err() != nil {
			return err
		}
		err = w.one(ctx, id)
	}
	return err
}

func (s *submission) pending() bool {
	if s.Status == stopped {
		return !s.Undone
	}
	return slices.ContainsFunc(s.Manifests, func(m manifest) bool { return m.State == pending })
}

// one processes one step of a submission after another: a manifest, or the removal of data.
func (w *worker) one(ctx context.Context, id string) error {
	for {
		s, _, err := w.load(ctx, id)
		if err != nil || s == nil || !s.pending() {
			return err
		}
		if s.Status == stopped {
			for i := range s.Manifests {
				if err := w.remove(ctx, s, i); err != nil {
					return err
				}
			}
			err = w.change(ctx, id, func(s *submission) { s.Undone = true })
		} else {
			err = w.manifest(ctx, s, slices.IndexFunc(s.Manifests, func(m manifest) bool { return m.State == pending }))
		}
		if err != nil && !errors.Is(err, errStopped) {
			return err
		}
	}
}

// errStopped ends the work on a manifest whose submission has been stopped or deleted.
var errStopped = errors.New("the submission has been stopped")

// change changes a submission, with further writes, bound to the role. A request of the
// client may change it at the same time.
func (w *worker) change(ctx context.Context, id string, fn func(*submission), more ...store.StateWrite) error {
	const op = "submit.change"
	return store.Retry(16, op, "the submission is being changed", func() error {
		s, old, err := w.load(ctx, id)
		if err != nil {
			return err
		}
		if s == nil {
			return errStopped
		}
		fn(s)
		write, _, err := put(s, old)
		if err != nil {
			return err
		}
		for i := range more {
			more[i].Expires = s.Expires
		}
		b := &store.Batch{State: append(slices.Clone(more), write)}
		w.term.Bind(b)
		_, err = w.opts.Store.Commit(ctx, b)
		return err
	})
}

// request returns the request by which the lines of a submission are stored.
func (w *worker) request(ctx context.Context, s *submission) (*interaction.Request, error) {
	g, err := w.opts.GrantFor(ctx, s.Client, s.Scope)
	if err != nil {
		return nil, err
	}
	return &interaction.Request{Caller: audit.Caller{Principal: &access.Principal{ClientID: s.Client, Scope: s.Scope,
		TokenID: s.TokenID, Grant: g}, RequestID: s.ID}, Line: "POST $bulk-submit"}, nil
}

// source is the part of a Bulk Data manifest that is needed.
type source struct {
	Output, Deleted []struct{ Type, URL string }
	Link            []struct{ Relation, URL string }
}

// maxPages bounds the linked manifests of one manifest.
const maxPages = 100

// manifest processes manifest i of s.
func (w *worker) manifest(ctx context.Context, s *submission, i int) error {
	m := &s.Manifests[i]
	if m.Replaces != "" {
		for k := range s.Manifests {
			if s.Manifests[k].URL == m.Replaces && s.Manifests[k].State != replaced {
				if err := w.remove(ctx, s, k); err != nil {
					return err
				}
			}
		}
	}
	final := done
	if m.URL != "" {
		err := w.fetchAll(ctx, s, i)
		if ctx.Err() != nil || errors.Is(err, errStopped) {
			return err
		}
		var refused *refusal
		if errors.As(err, &refused) {
			final = failed
			if err = w.report(ctx, s.ID, i,
				[]outcome{{severity: "fatal", text: refused.text, url: refused.url}}); err != nil {
				return err
			}
		}
		if err != nil {
			return err
		}
	}
	return w.change(ctx, s.ID, func(s *submission) { s.Manifests[i].State, s.Manifests[i].Headers = final, nil })
}

// refusal is a manifest or file that cannot be processed.
type refusal struct{ text, url string }

func (r *refusal) Error() string { return r.text }

// fetchAll fetches the files of manifest i, from its position.
func (w *worker) fetchAll(ctx context.Context, s *submission, i int) error {
	m := &s.Manifests[i]
	var output, deleted []string
	next, types := m.URL, map[string]string{}
	for page := 0; next != ""; page++ {
		if page == maxPages {
			return &refusal{"the manifest has too many linked manifests", m.URL}
		}
		var src source
		err := w.fetch(ctx, w.manifests, m, next, "application/json", func(body io.Reader) error {
			if json.NewDecoder(body).Decode(&src) != nil {
				return &refusal{"the manifest is not a Bulk Data manifest in JSON", m.URL}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, f := range src.Output {
			output, types[f.URL] = append(output, f.URL), f.Type
		}
		for _, f := range src.Deleted {
			deleted = append(deleted, f.URL)
		}
		next = ""
		for _, l := range src.Link {
			if l.Relation == "next" {
				next = l.URL
			}
		}
	}
	slices.SortStableFunc(output, func(a, b string) int { return rank(types[a]) - rank(types[b]) })
	for n, u := range append(output, deleted...) {
		if n < m.File {
			continue
		}
		if err := w.file(ctx, s, i, n, u, n >= len(output)); err != nil {
			return err
		}
	}
	return nil
}

// rank orders the types of files: what is referred to comes first.
func rank(typ string) int {
	code, _ := search.PatientParam(typ)
	switch {
	case typ == "Patient":
		return 0
	case code == "":
		return 1
	case typ == "Device" || typ == "Consent":
		return 2
	case typ == "Provenance":
		return 4
	}
	return 3
}

// fetch passes the body of a URL to fn. It repeats what may succeed later.
func (w *worker) fetch(ctx context.Context, client *http.Client, m *manifest, u, accept string,
	fn func(io.Reader) error) error {
	for n := 1; ; n++ {
		err := w.fetchOnce(ctx, client, m, u, accept, fn)
		var refused *refusal
		if err == nil || ctx.Err() != nil || errors.As(err, &refused) || errors.Is(err, errStopped) ||
			errors.Is(err, errWork) {
			return err
		}
		if n == attempts {
			return &refusal{"a file of the manifest could not be fetched", u}
		}
		if !follow.Sleep(ctx, nil, w.opts.Pause<<n) {
			return ctx.Err()
		}
	}
}

func (w *worker) fetchOnce(ctx context.Context, client *http.Client, m *manifest, u, accept string,
	fn func(io.Reader) error) error {
	target, err := url.Parse(u)
	if err != nil || w.opts.Policy.Check(target) != nil {
		return &refusal{"the server does not fetch from an address of the manifest", u}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return &refusal{"an address of the manifest is not valid", u}
	}
	req.Header.Set("Accept", accept)
	// The headers are for the server of the manifest: a manifest could name others.
	if origin, err := url.Parse(m.URL); err == nil && origin.Scheme == target.Scheme && origin.Host == target.Host {
		for _, h := range m.Headers {
			req.Header.Set(h.Name, h.Value)
		}
	}
	resp, err := client.Do(req)
	if errors.Is(err, egress.ErrRefused) {
		return &refusal{"the server does not fetch from an address of the manifest", u}
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusOK:
		return fn(resp.Body)
	case resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode >= 500:
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return &refusal{fmt.Sprintf("fetching a file of the manifest was answered with status %d", resp.StatusCode), u}
}

const (
	maxLine    = 5 << 20
	batchLines = 100
	batchBytes = 5 << 20
	// batchSamples bounds the phone-made Observations of a batch. They are stored as one
	// delivery per patient and so cost less than other lines.
	batchSamples = 1000
)

// errWork marks an error that is not one of fetching.
var errWork = errors.New("storing failed")

// file processes the lines of a file after the position of the manifest.
func (w *worker) file(ctx context.Context, s *submission, i, n int, u string, deleted bool) error {
	position := func() (int, error) {
		now, _, err := w.load(ctx, s.ID)
		if err != nil || now == nil {
			return 0, err
		}
		if m := &now.Manifests[i]; m.File == n {
			return m.Line, nil
		}
		return 0, nil
	}
	err := w.fetch(ctx, w.data, &s.Manifests[i], u, "application/fhir+ndjson", func(body io.Reader) error {
		skip, err := position()
		if err != nil {
			return err
		}
		rq, err := w.request(ctx, s)
		if err != nil {
			return fmt.Errorf("%w: %w", errWork, kept(err))
		}
		b := &batch{worker: w, submission: s, manifest: i, file: n, url: u, deleted: deleted, rq: rq}
		r := bufio.NewReaderSize(body, 64<<10)
		for line := 1; ; line++ {
			text, err := readLine(r)
			if err == io.EOF {
				break
			}
			if err != nil && !errors.Is(err, errLong) {
				return err
			}
			if line <= skip {
				continue
			}
			if err := b.add(ctx, line, text, err != nil); err != nil {
				return fmt.Errorf("%w: %w", errWork, err)
			}
		}
		if err := b.flush(ctx); err != nil {
			return fmt.Errorf("%w: %w", errWork, err)
		}
		return nil
	})
	var refused *refusal
	if errors.As(err, &refused) && !errors.Is(err, errWork) {
		// The other files may be there.
		err = w.report(ctx, s.ID, i, []outcome{{severity: "error", text: refused.text, url: u}})
	}
	if err != nil {
		return err
	}
	return w.change(ctx, s.ID, func(s *submission) { s.Manifests[i].File, s.Manifests[i].Line = n+1, 0 })
}

var errLong = errors.New("the line is too long")

// readLine returns a line without its end. A longer line than maxLine is skipped with
// errLong.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	long := false
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			long, line = true, nil
		}
		if !long {
			line = append(line, part...)
		}
		switch {
		case err == nil || err == io.EOF && (len(line) > 0 || long):
			if long {
				return nil, errLong
			}
			return bytes.TrimRight(line, "\r\n"), nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

// remove deletes the resources that manifest i has created.
func (w *worker) remove(ctx context.Context, s *submission, i int) error {
	m := &s.Manifests[i]
	rq, err := w.request(ctx, s)
	var refused *refusal
	if err = kept(err); errors.As(err, &refused) { // the data stay, and the client learns it
		if err := w.report(ctx, s.ID, i, []outcome{{severity: "error", text: refused.text}}); err != nil {
			return err
		}
		return w.change(ctx, s.ID, func(s *submission) { s.Manifests[i].State, s.Manifests[i].Headers = replaced, nil })
	}
	if err != nil {
		return err
	}
	for n := m.Created - 1; n >= 0; n-- { // what refers to a Patient goes before it
		v, err := w.opts.Store.Get(ctx, chunkKey("created", s.ID, i, n))
		if err != nil {
			return err
		}
		refs := strings.Fields(string(v))
		slices.Reverse(refs)
		for part := range slices.Chunk(refs, batchLines) {
			if err := w.removeRefs(ctx, rq, s.ID, i, part); err != nil {
				return err
			}
		}
	}
	return w.change(ctx, s.ID, func(s *submission) { s.Manifests[i].State, s.Manifests[i].Headers = replaced, nil })
}

// removeRefs deletes resources that manifest i has created.
func (w *worker) removeRefs(ctx context.Context, rq *interaction.Request, id string, i int, refs []string) error {
	var body bytes.Buffer
	body.WriteString(`{"resourceType":"Bundle","type":"batch","entry":[`)
	for k, ref := range refs {
		if k > 0 {
			body.WriteByte(',')
		}
		fmt.Fprintf(&body, `{"request":{"method":"DELETE","url":%q}}`, ref)
	}
	body.WriteString(`]}`)
	page, err := w.opts.Writer.Bundle(ctx, rq, body.Bytes(), interaction.ReturnMinimal)
	if err != nil {
		return err
	}
	return w.reportResults(ctx, id, i, page, refs)
}

// chunkKey returns the key of a chunk of outcomes or of created resources.
func chunkKey(what, id string, manifest, n int) string {
	return fmt.Sprintf("bulk-submit-%s/%s/%04d/%08d", what, id, manifest, n)
}

// kept returns an error that the work can continue from, for errors of the grant: a client
// that is disabled stores nothing.
func kept(err error) error {
	if k := fhir.KindOf(err); err != nil && (k == fhir.Forbidden || k == fhir.NotFound || k == fhir.Unauthorized) {
		return &refusal{"the client may not store resources any more", ""}
	}
	return err
}
