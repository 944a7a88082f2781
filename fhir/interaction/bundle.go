package interaction

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/patch"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// entry is one request of a batch or transaction.
type entry struct {
	r4.Entry
	target target
	index  int
	// err is the reason why the server refuses this entry. It does not affect other
	// entries of a batch.
	err   error
	patch Patch // of a PATCH
}

// body returns what the entry sends: the patch of a PATCH, otherwise the resource.
func (e *entry) body() []byte {
	if e.Method == "PATCH" {
		return e.patch.Body
	}
	return e.Resource
}

func (e *entry) path() string { return "Bundle.entry[" + strconv.Itoa(e.index) + "]" }

// line returns the entry as a request line.
func (e *entry) line() string { return e.Method + " " + e.URL }

// target is a parsed URL of an entry.
type target struct {
	typ, id string // both are empty for the system
	version uint64
	history bool
	// within is the type that is searched in the compartment of typ and id, or "*".
	within    string
	operation *Operation
	path      string
	query     string
}

// several reports whether a read of the target reads more than one resource.
func (t *target) several() bool {
	return t.id == "" || t.history || t.within != "" || t.operation != nil
}

func (t target) ref() fhir.Ref { return fhir.Ref{Type: t.typ, ID: t.id} }

// Return selects the content of the answer to a write (R4 http.html#return).
type Return uint8

const (
	ReturnRepresentation Return = iota // the written resource; the default
	ReturnMinimal                      // nothing
	ReturnOutcome                      // an OperationOutcome
)

// Done is the OperationOutcome of a write that succeeded.
const Done = `{"resourceType":"OperationOutcome","issue":[{"severity":"information","code":"informational","diagnostics":"done"}]}`

// Bundle performs a batch or a transaction and returns the response Bundle, whose entries
// for writes have what returns says.
func (s *Service) Bundle(ctx context.Context, rq *Request, body []byte, returns Return) (*Page, error) {
	const op = "interaction.Bundle"
	if rq.Principal == nil {
		return nil, s.refuse(ctx, rq, "transaction", fhir.Ref{}, rq.may(op, 0, ""))
	}
	typ, entries, err := s.parseBundle(op, body)
	if err != nil {
		return nil, s.refuse(ctx, rq, "transaction", fhir.Ref{}, err)
	}
	p := &Page{}
	if typ == "batch" {
		err = s.batch(ctx, rq, entries, p, returns)
	} else {
		err = s.transaction(ctx, rq, entries, p, returns)
	}
	if err != nil {
		return nil, s.refuse(ctx, rq, typ, fhir.Ref{}, err)
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	p.open(id, typ+"-response", s.Clock(), -1, []link{{"self", s.Base}})
	return p, nil
}

// remaining returns the number of bytes left for further entries of the response
// Bundle, or 0 if it is full. It treats the last thirty-second of the limit as
// full, because a page of a few bytes would be useless.
func (s *Service) remaining(p *Page) int {
	limit := s.Limits.withDefaults().BundleBytes
	if capacity := limit - p.size(); capacity > limit/32 {
		return capacity
	}
	return 0
}

// errFull returns the error for an entry whose answer would exceed the limit.
func (s *Service) errFull(op string) error {
	return fhir.Errorf(fhir.TooCostly, op,
		"the answer to this Bundle would be larger than %d bytes; send this entry in a separate Bundle, or request fewer resources",
		s.Limits.withDefaults().BundleBytes)
}

// parseBundle parses the entries. A malformed entry fails a transaction; in a
// batch, the error is the outcome of that entry.
func (s *Service) parseBundle(op string, body []byte) (string, []entry, error) {
	b, err := s.Validator.Bundle(body)
	if err != nil {
		return "", nil, err
	}
	if limit := s.Limits.withDefaults().BundleEntries; len(b.Entries) > limit {
		return "", nil, fhir.Errorf(fhir.TooLarge, op, "the Bundle has more than %d entries", limit)
	}
	entries := make([]entry, len(b.Entries))
	for i := range b.Entries {
		e := &entries[i]
		e.Entry, e.index, e.err = b.Entries[i], i, b.Entries[i].Err
		if e.err == nil {
			if e.err = s.resolveTarget(op, e); e.err != nil {
				e.err = at(e.path()+".request", e.err)
			}
		}
		if e.err != nil && b.Type == "transaction" {
			return "", nil, e.err
		}
	}
	return b.Type, entries, nil
}

// resolveTarget parses the URL of an entry and validates the entry.
func (s *Service) resolveTarget(op string, e *entry) (err error) {
	if strings.ContainsAny(e.FullURL, "\"\\") {
		return fhir.Errorf(fhir.Invalid, op, "fullUrl is not a URI")
	}
	if e.target, err = s.parseTarget(op, e.URL); err != nil {
		return err
	}
	return e.validate(op)
}

// parseTarget parses the request URL of an entry, relative or below the server's
// base URL.
func (s *Service) parseTarget(op, raw string) (target, error) {
	var t target
	bad := fhir.Errorf(fhir.Invalid, op, "the server does not serve this request URL in a Bundle")
	raw = strings.TrimPrefix(strings.TrimPrefix(raw, s.Base), "/")
	t.path, t.query, _ = strings.Cut(raw, "?")
	switch t.path {
	case "":
		return t, nil
	case "_history":
		t.history = true
		return t, nil
	}
	part := strings.Split(t.path, "/")
	t.typ = part[0]
	if t.typ[0] < 'A' || t.typ[0] > 'Z' {
		return t, bad
	}
	part = part[1:]
	switch {
	case len(part) == 0, len(part) == 1 && part[0] == "_search":
		return t, nil
	case part[0] != "_history" && part[0][:min(1, len(part[0]))] != "$":
		if !fhir.ValidID(part[0]) {
			return t, bad
		}
		t.id, part = part[0], part[1:]
	}
	return t, t.below(op, part, bad)
}

// below parses the part of a request URL after the type and the id.
func (t *target) below(op string, part []string, bad error) error {
	switch {
	case len(part) == 0:
	case len(part) == 1 && part[0] == "_history":
		t.history = true
	case len(part) == 2 && part[0] == "_history" && t.id != "":
		v, err := strconv.ParseUint(part[1], 10, 64)
		if err != nil || v == 0 {
			return bad
		}
		t.version = v
	case len(part) == 1 && strings.HasPrefix(part[0], "$"):
		level := OnType
		if t.id != "" {
			level = OnInstance
		}
		var err error
		if t.operation, err = FindOperation(part[0][1:], level, t.typ); err != nil {
			e := fhir.Errorf(fhir.Invalid, op,
				"this operation is not offered in a Bundle; send it as a separate request")
			e.Issues[0].Code = "not-supported"
			return e
		}
	case len(part) == 1 && (part[0] == "*" || fhir.KnownType(part[0])):
		t.within = part[0]
	default:
		return bad
	}
	return nil
}

// validate checks that the method, URL and resource of an entry are consistent.
func (e *entry) validate(op string) error {
	t := e.target
	plain := t.typ != "" && !t.history && t.version == 0 && t.within == "" && t.operation == nil
	switch e.Method {
	case "POST":
		if t.operation != nil {
			return nil
		}
		if t.id != "" || !plain || t.query != "" {
			return fhir.Errorf(fhir.Invalid, op, "POST takes the URL of a type or of an operation")
		}
	case "PUT", "PATCH", "DELETE":
		// Either an id or criteria. Criteria without a parameter are refused later.
		if !plain || (t.id == "") == (t.query == "") {
			return fhir.Errorf(fhir.Invalid, op, "%s takes type and id, or type and criteria", e.Method)
		}
	case "GET", "HEAD":
		if t.operation != nil && t.operation.Changes {
			return fhir.Errorf(fhir.NotAllowed, op, "this operation changes something; call it by POST")
		}
		return nil
	default:
		return fhir.Errorf(fhir.NotAllowed, op, "this method is not supported in a Bundle")
	}
	if e.Method != "DELETE" && len(e.Resource) == 0 {
		return fhir.Errorf(fhir.Invalid, op, "the entry has no resource")
	}
	if e.Method == "PATCH" {
		return e.readPatch()
	}
	return nil
}

// reads reports whether the entry is performed after the writes of a transaction, because
// it changes nothing.
func (e *entry) reads() bool {
	return e.Method == "GET" || e.Method == "HEAD" || e.target.operation != nil
}

// readPatch reads the patch of a PATCH: a JSON Patch in a Binary, or a FHIRPath Patch (R4
// http.html#patch).
func (e *entry) readPatch() (err error) {
	var r struct {
		ResourceType string `json:"resourceType"`
	}
	if json.Unmarshal(e.Resource, &r) == nil && r.ResourceType == "Parameters" {
		e.patch = Patch{Body: e.Resource, FHIRPath: true}
		return nil
	}
	e.patch.Body, err = patch.FromBinary(e.Resource)
	return err
}

// response is the outcome of one entry.
type response struct {
	status   string
	ref      fhir.Ref
	version  uint64
	modified time.Time
	wrote    bool     // the entry was a write (see Return)
	resource [][]byte // JSON of the resource or Bundle, in parts
	err      error
}

func (p *Page) response(base string, r *response, returns Return) {
	if p.count++; p.count > 1 {
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, '{')
	if r.err == nil && len(r.resource) > 0 && !(r.wrote && returns != ReturnRepresentation) {
		if !r.ref.IsZero() {
			p.entries = append(p.entries, `"fullUrl":`...)
			p.entries = element.AppendString(p.entries, base+"/"+r.ref.String())
			p.entries = append(p.entries, ',')
		}
		p.entries = append(p.entries, `"resource":`...)
		for _, part := range r.resource {
			p.appendPart(part)
		}
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, `"response":{"status":"`...)
	p.entries = append(p.entries, r.status...)
	p.entries = append(p.entries, '"')
	if r.err == nil && r.version > 0 {
		if r.wrote {
			p.entries = append(p.entries, `,"location":`...)
			p.entries = element.AppendString(p.entries,
				base+"/"+r.ref.String()+"/_history/"+strconv.FormatUint(r.version, 10))
		}
		p.entries = append(p.entries, `,"etag":`...)
		p.entries = element.AppendString(p.entries, ETag(r.version))
		if !r.modified.IsZero() {
			p.entries = append(p.entries, `,"lastModified":"`...)
			p.entries = r.modified.UTC().AppendFormat(p.entries, fhir.InstantLayout)
			p.entries = append(p.entries, '"')
		}
	}
	if r.err == nil && r.wrote && returns == ReturnOutcome {
		p.entries = append(p.entries, `,"outcome":`+Done...)
	}
	if r.err != nil {
		p.entries = append(p.entries, `,"outcome":`...)
		p.entries = append(p.entries, r4.OutcomeJSON(r.err)...)
	}
	p.entries = append(p.entries, `}}`...)
}

// preconditions parses the conditional elements of the entry's request.
func (e *entry) preconditions() (p Preconditions, err error) {
	if p.IfMatch, err = ParseTags(e.IfMatch); err == nil {
		p.IfNoneMatch, err = ParseTags(e.IfNoneMatch)
	}
	if err != nil && (e.Method == "GET" || e.Method == "HEAD") { // RFC 9110 section 13.1.2: ignore it
		return Preconditions{}, nil
	}
	if err != nil {
		return p, at(e.path()+".request", err)
	}
	return p, nil
}

func wrote(w Written) response {
	r := response{status: "200 OK", ref: w.Resource.Ref(), version: w.Resource.Version,
		modified: w.Resource.LastUpdated, resource: whole(w.Resource.JSON), wrote: true}
	switch {
	case w.Created && !w.Matched:
		r.status = "201 Created"
	case w.Resource.Deleted:
		r.status = "204 No Content"
	}
	return r
}

// whole returns a resource as one part, or nil if there is none.
func whole(b []byte) [][]byte {
	if len(b) == 0 {
		return nil
	}
	return [][]byte{b}
}

func failed(err error) response {
	code := fhir.KindOf(err).HTTPStatus()
	return response{status: strconv.Itoa(code), err: err}
}

// get performs a reading entry or an operation. If at is not 0, searches and reads use the
// snapshot at that commit; histories and operations have the state of the moment.
func (s *Service) get(ctx context.Context, rq *Request, e *entry, pre Preconditions, at store.Seq) response {
	t := e.target
	var res fhir.Resource
	var page *Page
	var err error
	switch {
	case t.operation != nil:
		return s.operate(ctx, rq, e)
	case t.history:
		var h HistoryQuery
		if h, err = ParseHistory(t.query); err == nil {
			page, err = s.History(ctx, rq, t.ref(), h)
		} else {
			err = s.refuse(ctx, rq, HistoryCode(t.ref()), t.ref(), err)
		}
	case t.within != "":
		page, err = s.searchCompartment(ctx, rq, t.ref(), t.within, t.query, at)
	case t.id != "":
		res, err = s.readView(ctx, rq, &t, at)
	case t.typ == "":
		page, err = s.searchSystem(ctx, rq, t.query, at)
	default:
		page, err = s.searchAt(ctx, rq, t.typ, t.query, at)
	}
	switch {
	case err != nil:
		return failed(err)
	case page != nil:
		return response{status: "200 OK", resource: page.Parts()}
	case e.unchanged(pre, &res):
		return response{status: "304 Not Modified", ref: res.Ref(), version: res.Version, modified: res.LastUpdated}
	}
	return response{status: "200 OK", ref: res.Ref(), version: res.Version, modified: res.LastUpdated,
		resource: whole(res.JSON)}
}

// operate performs an operation. An entry by POST has the Parameters as its resource.
func (s *Service) operate(ctx context.Context, rq *Request, e *entry) response {
	const op = "interaction.Bundle"
	v := &Invocation{Operation: e.target.operation, Ref: e.target.ref(), Query: e.target.query}
	if e.Method == "POST" {
		rq.Line = "POST " + e.target.path
		v.Body = func() ([]byte, error) {
			switch {
			case len(e.Resource) == 0:
				return []byte(emptyParameters), nil // the inputs are in the query
			case v.Operation.Input == Simple && len(e.Resource) > MaxParameters:
				return nil, fhir.Errorf(fhir.TooLarge, op, "the Parameters are larger than %d bytes", MaxParameters)
			}
			return e.Resource, nil
		}
	}
	out, err := s.Operate(ctx, rq, v)
	if err != nil {
		return failed(err)
	}
	r := response{status: "200 OK", resource: out}
	if rq.capacity > 0 && r.size(ReturnRepresentation) > rq.capacity {
		return failed(s.refuse(ctx, rq, "operation", v.Ref, s.errFull(op)))
	}
	return r
}

// unchanged evaluates ifNoneMatch or, if it is absent, ifModifiedSince, which is an instant.
// An invalid one is ignored, as in HTTP.
func (e *entry) unchanged(pre Preconditions, r *fhir.Resource) bool {
	if pre.IfNoneMatch.Given() {
		return pre.IfNoneMatch.Has(r.Version)
	}
	since, err := time.Parse(time.RFC3339, e.IfModifiedSince)
	return err == nil && !r.LastUpdated.After(since)
}

// readView reads the resource that a GET entry names, reduced by _summary and
// _elements.
func (s *Service) readView(ctx context.Context, rq *Request, t *target, at store.Seq) (fhir.Resource, error) {
	name := "read"
	if t.version > 0 {
		name = "vread"
	}
	view, err := ParseView(t.typ, t.query)
	if err != nil {
		return fhir.Resource{}, s.refuse(ctx, rq, name, t.ref(), err)
	}
	var res fhir.Resource
	if t.version > 0 {
		res, err = s.VRead(ctx, rq, t.ref(), t.version)
	} else {
		res, err = s.readAt(ctx, rq, t.ref(), at)
	}
	if err == nil {
		err = view.Narrow(&res)
	}
	return res, err
}

// ParseHistory parses the parameters of a history. The versions are always listed from the
// newest to the oldest, as R4 says; _sort is refused.
func ParseHistory(raw string) (HistoryQuery, error) {
	const op = "interaction.ParseHistory"
	var h HistoryQuery
	params, err := url.ParseQuery(raw)
	if err != nil {
		return h, fhir.Errorf(fhir.Invalid, op, "the query string is malformed")
	}
	if h.View, err = ParseView("", raw); err != nil {
		return h, err
	}
	for name, vs := range params {
		if strings.TrimSpace(strings.Join(vs, "")) == "" {
			continue // R4 search.html: empty parameters are ignored
		}
		if len(vs) != 1 {
			return h, fhir.Errorf(fhir.Invalid, op, "a history parameter is given more than once; give each once")
		}
		v, err := vs[0], error(nil)
		switch name {
		case "_count":
			h.Count, err = strconv.Atoi(v)
			switch {
			case h.Count < 0:
				err = strconv.ErrRange
			case err == nil && h.Count == 0:
				h.Count = -1
			}
		case "_since":
			h.Since, err = time.Parse(time.RFC3339, search.Plus(v))
		case "_at":
			lo, hi, ok := search.DateInterval(search.Plus(v))
			if h.At = v; !ok {
				err = strconv.ErrSyntax
			}
			h.From, h.To = time.UnixMilli(lo).UTC(), time.UnixMilli(hi).UTC()
		case "__page":
			h.Page = v
		case "_format", "_pretty", "_summary", "_elements":
		default:
			return h, fhir.Errorf(fhir.Invalid, op,
				"this parameter is not supported; a history takes _count, _since, _at, _summary and _elements")
		}
		if err != nil {
			return h, fhir.Errorf(fhir.Invalid, op,
				"the value of a history parameter is invalid; _count is a number, _since an instant and _at a date or time")
		}
	}
	return h, nil
}
