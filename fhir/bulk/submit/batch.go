package submit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"pulsegate/fhir"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/store"
)

// outcome is an issue that is reported to the client.
type outcome struct {
	severity, text string
	url            string // what it is about, at the client
	issues         []json.RawMessage
	at             int // line of the file, or 0
}

// batch collects lines that are stored together.
type batch struct {
	*worker
	submission *submission
	manifest   int
	file       int
	url        string
	deleted    bool // the lines are Bundles with deletions
	rq         *interaction.Request

	entries []entry
	samples []sample
	bytes   int // of the entries and samples
	line    int // the last line
	bad     []outcome
}

// sample is a line with a phone-made Observation.
type sample struct {
	*interaction.PhoneMade
	about string // URL of the resource at the client
	line  int
}

// entry is an entry of the batch.
type entry struct {
	json  string
	ref   fhir.Ref // of an update, else empty
	about string   // URL of the resource at the client
	line  int
}

// add adds a line to the batch, or reports it.
func (b *batch) add(ctx context.Context, line int, text []byte, long bool) error {
	b.line = line
	if len(bytes.TrimSpace(text)) > 0 || long {
		if reason := b.entry(line, text, long); reason != "" {
			b.bad = append(b.bad, outcome{severity: "error", url: b.url, at: line,
				text: fmt.Sprintf("line %d of file %d: %s", line, b.file+1, reason)})
		}
	}
	if len(b.entries)+len(b.bad) < batchLines && len(b.samples) < batchSamples && b.bytes < batchBytes {
		return nil
	}
	return b.flush(ctx)
}

// entry adds the entries for a line. It returns a reason if the line cannot be stored.
func (b *batch) entry(line int, text []byte, long bool) string {
	if long {
		return fmt.Sprintf("the line is longer than %d bytes", maxLine)
	}
	if b.deleted {
		return b.deletions(line, text)
	}
	m := &b.submission.Manifests[b.manifest]
	ref, body, err := m.rewrite(text, b.opts.Base)
	if err != nil {
		return err.Error()
	}
	if ref.Type == "Observation" && b.opts.Writer.IsPhoneMade(b.rq, body) {
		b.samples = append(b.samples, sample{&interaction.PhoneMade{Body: body}, m.about(text), line})
		b.bytes += len(body)
		return ""
	}
	b.put(line, ref, m.about(text), fmt.Sprintf(`{"resource":%s,"request":{"method":"PUT","url":%q}}`, body,
		ref.String()))
	return ""
}

// about returns the URL of a resource at the client.
func (m *manifest) about(text []byte) string {
	var r struct{ ResourceType, ID string }
	if json.Unmarshal(text, &r) != nil {
		return ""
	}
	return m.Base + "/" + r.ResourceType + "/" + r.ID
}

func (b *batch) put(line int, ref fhir.Ref, about, text string) {
	b.entries, b.bytes = append(b.entries, entry{text, ref, about, line}), b.bytes+len(text)
}

// deletions adds an entry for each entry of a Bundle of deletions.
func (b *batch) deletions(line int, text []byte) string {
	var bundle struct {
		ResourceType string
		Entry        []struct{ Request struct{ Method, URL string } }
	}
	if json.Unmarshal(text, &bundle) != nil || bundle.ResourceType != "Bundle" || len(bundle.Entry) > 10*batchLines {
		return "the line is not a Bundle of deletions"
	}
	m := &b.submission.Manifests[b.manifest]
	for _, e := range bundle.Entry {
		target := m.reference(e.Request.URL, b.opts.Base)
		ref, ok := fhir.ParseRef(target)
		if e.Request.Method != "DELETE" || !ok {
			return "the Bundle has an entry that deletes no resource"
		}
		b.put(line, fhir.Ref{}, m.Base+"/"+e.Request.URL,
			fmt.Sprintf(`{"request":{"method":"DELETE","url":%q}}`, ref.String()))
	}
	return ""
}

// derivedID returns the id of a resource of another server.
func derivedID(base, typ, id string) string {
	h := sha256.Sum256([]byte(base + "\x00" + typ + "\x00" + id))
	return "bulk-" + hex.EncodeToString(h[:])[:40]
}

// reference returns a reference of the client as one of this server.
func (m *manifest) reference(s, base string) string {
	if local, ok := strings.CutPrefix(s, base+"/"); ok {
		return local
	}
	rest := strings.TrimPrefix(s, m.Base+"/")
	ref, ok := fhir.ParseRef(rest)
	if !ok || m.Base == base {
		return s
	}
	return ref.Type + "/" + derivedID(m.Base, ref.Type, ref.ID)
}

// rewrite returns a resource of the client as it is stored: with an id of this server, and
// with references to resources of this server. Everything else stays as it is written, so
// that it is validated like any other write.
func (m *manifest) rewrite(text []byte, base string) (ref fhir.Ref, body []byte, err error) {
	var r struct{ ResourceType, ID string }
	if json.Unmarshal(text, &r) != nil {
		return ref, nil, errors.New("the line is not a resource in JSON")
	}
	if !fhir.KnownType(r.ResourceType) {
		return ref, nil, errors.New("the resource type is not one that this server stores")
	}
	if !fhir.ValidID(r.ID) {
		return ref, nil, errors.New("the resource has no valid id")
	}
	ref = fhir.Ref{Type: r.ResourceType, ID: r.ID}
	if m.Base != base {
		ref.ID = derivedID(m.Base, r.ResourceType, r.ID)
	}
	var out bytes.Buffer
	dec, enc := jsontext.NewDecoder(bytes.NewReader(text)), jsontext.NewEncoder(&out)
	name := ""
	for {
		t, err := dec.ReadToken()
		if err == io.EOF {
			return ref, bytes.TrimSpace(out.Bytes()), nil
		}
		if err != nil {
			return ref, nil, errors.New("the line is not a resource in JSON without duplicate names")
		}
		t = t.Clone()
		if t.Kind() == '"' {
			kind, n := dec.StackIndex(dec.StackDepth())
			switch {
			case kind == '{' && n%2 == 1:
				name = t.String()
			case kind == '{' && name == "reference":
				t = jsontext.String(m.reference(t.String(), base))
			case kind == '{' && name == "id" && dec.StackDepth() == 1:
				t = jsontext.String(ref.ID)
			}
		}
		if enc.WriteToken(t) != nil {
			return ref, nil, errors.New("the line has more than one value")
		}
	}
}

// result is an entry of the response to a batch.
type result struct {
	Response struct {
		Status  string
		Outcome struct{ Issue []json.RawMessage }
	}
}

// flush stores the batch, and commits the position with what is reported. Samples come
// after the other lines.
func (b *batch) flush(ctx context.Context) error {
	if b.line == 0 {
		return nil
	}
	now, _, err := b.load(ctx, b.submission.ID)
	if err != nil {
		return err
	}
	if now == nil || now.Status == stopped {
		return errStopped
	}
	if b.rq, err = b.request(ctx, b.submission); err != nil {
		return kept(err)
	}
	samples := make([]*interaction.PhoneMade, len(b.samples))
	for i := range b.samples {
		samples[i] = b.samples[i].PhoneMade
	}
	if len(samples) > 0 {
		if err := b.opts.Writer.RepairAll(ctx, b.rq, samples); err != nil {
			return kept(err)
		}
	}
	samples, repeated, err := b.intend(ctx, &now.Manifests[b.manifest], samples)
	if err != nil {
		return err
	}
	results, err := b.store(ctx)
	if err == nil && len(samples) > 0 {
		err = kept(b.opts.Writer.ReceiveAll(ctx, b.rq, samples))
	}
	if err != nil {
		return err
	}
	stored := repeated + b.tally(results, samples)
	err = b.commit(ctx, b.submission.ID, b.manifest, b.bad, nil, func(m *manifest) {
		m.position = position{b.file, b.line}
		m.Stored += stored
	})
	b.entries, b.samples, b.bytes, b.bad = b.entries[:0], nil, 0, nil
	return err
}

// tally adds an outcome for each line that was not stored, and returns the number of those
// that were. samples are those that were received.
func (b *batch) tally(results []result, samples []*interaction.PhoneMade) (stored int) {
	refused := func(about string, line int, issues []json.RawMessage) {
		b.bad = append(b.bad, outcome{severity: "error", url: about, issues: issues, at: line,
			text: fmt.Sprintf("line %d of file %d was not stored", line, b.file+1)})
	}
	for i := range results {
		resp, e := &results[i].Response, &b.entries[i]
		if strings.HasPrefix(resp.Status, "2") {
			stored++
			continue
		}
		refused(e.about, e.line, resp.Outcome.Issue)
	}
	for _, one := range samples {
		if one.Err == nil {
			stored++
		}
	}
	for _, one := range b.samples {
		var out struct{ Issue []json.RawMessage }
		if one.Err != nil {
			_ = json.Unmarshal(r4.OutcomeJSON(one.Err), &out) // what it renders is JSON
			refused(one.about, one.line, out.Issue)
		}
	}
	slices.SortStableFunc(b.bad, func(x, y outcome) int { return x.at - y.at })
	return stored
}

// intend makes durable which resources the batch is going to create, so that they can be
// removed even if the process ends before it has seen the result. It leaves out those that
// an interrupted attempt of the same batch has created, and returns their number and the
// samples to receive.
func (b *batch) intend(ctx context.Context, m *manifest, samples []*interaction.PhoneMade) (
	receive []*interaction.PhoneMade, repeated int, err error) {
	const op = "submit.intend"
	refs := make([]fhir.Ref, 0, len(b.entries)+len(samples))
	times := map[fhir.Ref]int{}
	for i := range b.entries {
		refs = append(refs, b.entries[i].ref)
	}
	for _, one := range samples {
		refs = append(refs, one.Ref)
	}
	for _, ref := range refs {
		times[ref]++
	}
	heads, err := b.opts.Store.Heads(ctx, refs)
	if err != nil {
		return nil, 0, fhir.Wrap(op, err)
	}
	before := map[string]bool{}
	if m.Created > 0 && m.Intent == m.position {
		v, err := b.opts.Store.Get(ctx, chunkKey("created", b.submission.ID, b.manifest, m.Created-1))
		if err != nil {
			return nil, 0, fhir.Wrap(op, err)
		}
		for _, ref := range strings.Fields(string(v)) {
			before[ref] = true
		}
	}
	var created []string
	// done reports whether the interrupted attempt has stored a line. A resource that has
	// several lines is stored again, because it may have stored only some.
	done := func(i int) bool {
		ref, exists := refs[i], heads[i].Version > 0 && !heads[i].Deleted
		announced := before[ref.String()]
		if ref.ID != "" && !exists && !announced {
			created = append(created, ref.String())
		}
		return ref.ID != "" && exists && announced && times[ref] == 1
	}
	entries := b.entries[:0]
	for i, e := range b.entries {
		if done(i) {
			repeated++
			continue
		}
		entries = append(entries, e)
	}
	first := len(refs) - len(samples)
	b.entries = entries
	for i, one := range samples {
		switch {
		case one.Err != nil:
		case done(first + i):
			repeated++
		default:
			receive = append(receive, one)
		}
	}
	if len(created) == 0 {
		return receive, repeated, nil
	}
	return receive, repeated, b.commit(ctx, b.submission.ID, b.manifest, nil, created,
		func(m *manifest) { m.Intent = m.position })
}

// store performs the batch. If the Bundle as a whole is refused, each entry is sent alone.
func (b *batch) store(ctx context.Context) ([]result, error) {
	if len(b.entries) == 0 {
		return nil, nil
	}
	send := func(entries ...entry) (out struct{ Entry []result }, err error) {
		body := []byte(`{"resourceType":"Bundle","type":"batch","entry":[`)
		for i, e := range entries {
			if i > 0 {
				body = append(body, ',')
			}
			body = append(body, e.json...)
		}
		page, err := b.opts.Writer.Bundle(ctx, b.rq, append(body, `]}`...), interaction.ReturnMinimal)
		if err != nil {
			return out, err
		}
		return out, fhir.Wrap("submit.store", json.Unmarshal(page.Bytes(), &out))
	}
	out, err := send(b.entries...)
	if err == nil && len(out.Entry) != len(b.entries) {
		return nil, fhir.Errorf(fhir.Internal, "submit.store", "the batch has %d results of %d", len(out.Entry),
			len(b.entries))
	}
	if err == nil || !refuses(err) {
		return out.Entry, err
	}
	var all []result
	for _, e := range b.entries {
		out, err := send(e)
		switch {
		case err == nil && len(out.Entry) == 1:
			all = append(all, out.Entry[0])
		case err == nil || refuses(err):
			all = append(all, result{}) // no status: it was not stored
		default:
			return nil, err
		}
	}
	return all, nil
}

// refuses reports whether an error is about the content of a Bundle.
func refuses(err error) bool {
	k := fhir.KindOf(err)
	return k == fhir.Invalid || k == fhir.Unprocessable || k == fhir.TooLarge
}

const (
	// maxOutcomes bounds the reported outcomes of a manifest.
	maxOutcomes = 10000
	// maxIssues bounds the issues of an outcome.
	maxIssues = 20
)

// report reports outcomes of a manifest.
func (w *worker) report(ctx context.Context, id string, i int, all []outcome) error {
	return w.commit(ctx, id, i, all, nil, func(*manifest) {})
}

// reportResults reports the deletions that failed.
func (w *worker) reportResults(ctx context.Context, id string, i int, page *interaction.Page, refs []string) error {
	var out struct{ Entry []result }
	if err := json.Unmarshal(page.Bytes(), &out); err != nil {
		return fhir.Wrap("submit.remove", err)
	}
	var bad []outcome
	for k := range out.Entry {
		if r := &out.Entry[k].Response; !strings.HasPrefix(r.Status, "2") && k < len(refs) {
			bad = append(bad, outcome{severity: "error", text: "a resource could not be removed",
				url: w.opts.Base + "/" + refs[k], issues: r.Outcome.Issue})
		}
	}
	return w.report(ctx, id, i, bad)
}

// commit stores outcomes and references of created resources, and changes the manifest.
func (w *worker) commit(ctx context.Context, id string, i int, all []outcome, created []string,
	fn func(*manifest)) error {
	now, _, err := w.load(ctx, id)
	if err != nil {
		return err
	}
	if now == nil {
		return errStopped
	}
	m := now.Manifests[i]
	total := 0
	for _, n := range m.Count {
		total += n
	}
	var lines bytes.Buffer
	count, dropped := map[string]int{}, 0
	for k := range all {
		if total++; total > maxOutcomes {
			dropped++
			continue
		}
		count[all[k].severity]++
		line, err := all[k].line()
		if err != nil {
			return err
		}
		lines.Write(line)
	}
	var more []store.StateWrite
	chunks, refs := m.Outcomes, m.Created
	if lines.Len() > 0 {
		more = append(more, store.StateWrite{Key: chunkKey("outcome", id, i, chunks), Value: lines.Bytes()})
		chunks++
	}
	if len(created) > 0 {
		more = append(more, store.StateWrite{Key: chunkKey("created", id, i, refs),
			Value: []byte(strings.Join(created, "\n"))})
		refs++
	}
	return w.change(ctx, id, func(s *submission) {
		m := &s.Manifests[i]
		fn(m)
		m.Outcomes, m.Created = chunks, refs
		m.Dropped += dropped
		for severity, n := range count {
			if m.Count == nil {
				m.Count = map[string]int{}
			}
			m.Count[severity] += n
		}
	}, more...)
}

// line returns the OperationOutcome as a line.
func (o *outcome) line() ([]byte, error) {
	own, err := json.Marshal(map[string]string{"severity": o.severity, "code": "processing", "diagnostics": o.text})
	if err != nil {
		return nil, fhir.Wrap("submit.outcome", err)
	}
	issues := append([]json.RawMessage{own}, o.issues[:min(len(o.issues), maxIssues)]...)
	out := map[string]any{"resourceType": "OperationOutcome", "issue": issues}
	if o.url != "" {
		out["extension"] = []any{map[string]any{"url": relatedArtifact,
			"valueRelatedArtifact": map[string]string{"type": "derived-from", "url": o.url}}}
	}
	line, err := json.Marshal(out)
	return append(line, '\n'), fhir.Wrap("submit.outcome", err)
}
