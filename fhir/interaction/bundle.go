package interaction

import (
	"context"
	"errors"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/r4"
	"pulsegate/fhir/search"
)

// entry is one request of a batch or transaction.
type entry struct {
	r4.Entry
	target target
	index  int
}

// target is what an entry's URL names.
type target struct {
	typ, id string
	version uint64
	history bool
	query   string
}

func (t target) ref() fhir.Ref { return fhir.Ref{Type: t.typ, ID: t.id} }

// Bundle does a batch or a transaction and returns the response Bundle.
// minimal leaves the written resources out of it.
func (s *Service) Bundle(ctx context.Context, rq *Request, body []byte, minimal bool) (*Page, error) {
	const op = "interaction.Bundle"
	if rq.Principal == nil {
		return nil, s.refuse(ctx, rq, "transaction", fhir.Ref{}, rq.may(op, 0, ""))
	}
	typ, entries, err := s.parseBundle(op, body)
	if err != nil {
		return nil, s.refuse(ctx, rq, "transaction", fhir.Ref{}, err)
	}
	responses := make([]response, len(entries))
	if typ == "batch" {
		for i := range entries {
			if err := ctx.Err(); err != nil {
				return nil, &fhir.Error{Kind: fhir.Unavailable, Op: op, Err: err}
			}
			responses[i] = s.batchEntry(ctx, rq, &entries[i])
		}
	} else if err := s.transaction(ctx, rq, entries, responses); err != nil {
		return nil, s.refuse(ctx, rq, "transaction", fhir.Ref{}, err)
	}
	id, err := s.newID()
	if err != nil {
		return nil, err
	}
	p := &Page{}
	for i := range responses {
		p.response(s.Base, &responses[i], minimal)
	}
	p.open(id, typ+"-response", s.Clock(), -1, []link{{"self", s.Base}})
	return p, nil
}

func (s *Service) parseBundle(op string, body []byte) (string, []entry, error) {
	b, err := s.Door.Bundle(body)
	if err != nil {
		return "", nil, err
	}
	if limit := s.Limits.withDefaults().BundleEntries; len(b.Entries) > limit {
		return "", nil, fhir.Errorf(fhir.TooLarge, op, "the Bundle has more than %d entries", limit)
	}
	entries := make([]entry, len(b.Entries))
	for i, e := range b.Entries {
		place := "Bundle.entry[" + strconv.Itoa(i) + "].request"
		out := entry{Entry: e, index: i}
		if strings.ContainsAny(out.FullURL, "\"\\") {
			return "", nil, at(place, fhir.Errorf(fhir.Invalid, op, "fullUrl is not a URI"))
		}
		if out.target, err = s.parseTarget(op, out.URL); err == nil {
			err = out.fits(op)
		}
		if err != nil {
			return "", nil, at(place, err)
		}
		entries[i] = out
	}
	return b.Type, entries, nil
}

// at puts the place before an error of an entry.
func at(place string, err error) error {
	var e *fhir.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.Issues = append([]fhir.Issue(nil), e.Issues...)
	for i := range out.Issues {
		if out.Issues[i].Diagnostics != "" {
			out.Issues[i].Diagnostics = place + ": " + out.Issues[i].Diagnostics
		}
		if len(out.Issues[i].Expression) == 0 {
			out.Issues[i].Expression = []string{place}
		}
		out.Issues[i].Line, out.Issues[i].Column = 0, 0 // they count from the entry's resource, not from the body
	}
	return &out
}

// parseTarget reads a request URL of an entry, relative or below our base.
func (s *Service) parseTarget(op, raw string) (target, error) {
	var t target
	bad := fhir.Errorf(fhir.Invalid, op, "the request URL is not one this server serves in a Bundle")
	raw = strings.TrimPrefix(strings.TrimPrefix(raw, s.Base), "/")
	path, query, _ := strings.Cut(raw, "?")
	t.query = query
	part := strings.Split(path, "/")
	t.typ = part[0]
	if t.typ == "" || t.typ[0] < 'A' || t.typ[0] > 'Z' {
		return t, bad
	}
	if len(part) > 1 {
		if part[1] == "_search" && len(part) == 2 {
			return t, nil
		}
		if !fhir.ValidID(part[1]) {
			return t, bad
		}
		t.id = part[1]
	}
	switch {
	case len(part) == 3 && part[2] == "_history":
		t.history = true
	case len(part) == 4 && part[2] == "_history":
		v, err := strconv.ParseUint(part[3], 10, 64)
		if err != nil || v == 0 {
			return t, bad
		}
		t.version = v
	case len(part) > 2:
		return t, bad
	}
	return t, nil
}

// fits checks that method, URL and resource go together.
func (e *entry) fits(op string) error {
	t := e.target
	plain := t.query == "" && !t.history && t.version == 0
	switch e.Method {
	case "POST":
		if t.id != "" || !plain {
			return fhir.Errorf(fhir.Invalid, op, "POST takes the URL of a type")
		}
	case "PUT":
		if t.id == "" || !plain {
			return fhir.Errorf(fhir.Invalid, op, "PUT takes type and id (conditional update is not supported)")
		}
	case "DELETE":
		if t.id == "" || !plain {
			return fhir.Errorf(fhir.Invalid, op, "DELETE takes type and id (conditional delete is not supported)")
		}
	case "GET", "HEAD":
		return nil
	default:
		return fhir.Errorf(fhir.NotAllowed, op, "this method is not supported in a Bundle")
	}
	if e.Method != "DELETE" && len(e.Resource) == 0 {
		return fhir.Errorf(fhir.Invalid, op, "the entry has no resource")
	}
	return nil
}

// response is the outcome of one entry.
type response struct {
	status   string
	ref      fhir.Ref
	version  uint64
	modified time.Time
	wrote    bool   // resource is left out when minimal
	resource []byte // or a Bundle, for a search
	err      error
}

func (p *Page) response(base string, r *response, minimal bool) {
	if p.count++; p.count > 1 {
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, '{')
	if r.err == nil && len(r.resource) > 0 && !(r.wrote && minimal) {
		if !r.ref.IsZero() {
			p.entries = append(p.entries, `"fullUrl":`...)
			p.entries = r4.AppendString(p.entries, base+"/"+r.ref.String())
			p.entries = append(p.entries, ',')
		}
		p.entries = append(p.entries, `"resource":`...)
		p.entries = append(p.entries, r.resource...)
		p.entries = append(p.entries, ',')
	}
	p.entries = append(p.entries, `"response":{"status":"`...)
	p.entries = append(p.entries, r.status...)
	p.entries = append(p.entries, '"')
	if r.err == nil && r.version > 0 {
		if r.wrote {
			p.entries = append(p.entries, `,"location":`...)
			p.entries = r4.AppendString(p.entries, base+"/"+r.ref.String()+"/_history/"+strconv.FormatUint(r.version, 10))
		}
		p.entries = append(p.entries, `,"etag":`...)
		p.entries = r4.AppendString(p.entries, ETag(r.version))
		if !r.modified.IsZero() {
			p.entries = append(p.entries, `,"lastModified":"`...)
			p.entries = r.modified.UTC().AppendFormat(p.entries, fhir.InstantLayout)
			p.entries = append(p.entries, '"')
		}
	}
	if r.err != nil {
		p.entries = append(p.entries, `,"outcome":`...)
		p.entries = append(p.entries, r4.OutcomeJSON(r.err)...)
	}
	p.entries = append(p.entries, `}}`...)
}

// batchEntry does one entry by itself.
func (s *Service) batchEntry(ctx context.Context, rq *Request, e *entry) response {
	one := *rq
	one.Line = e.Method + " " + e.URL
	t := e.target
	version, err := ParseETag(e.IfMatch)
	if err != nil {
		return failed(s.refuse(ctx, &one, "batch", t.ref(), err))
	}
	var w Written
	switch e.Method {
	case "POST":
		w, err = s.Create(ctx, &one, t.typ, e.Resource, e.IfNoneExist)
	case "PUT":
		w, err = s.Update(ctx, &one, t.ref(), e.Resource, version)
	case "DELETE":
		w, err = s.Delete(ctx, &one, t.ref(), version)
	default:
		return s.get(ctx, &one, e)
	}
	if err != nil {
		return failed(err)
	}
	return wrote(w)
}

func wrote(w Written) response {
	r := response{status: "200 OK", ref: w.Resource.Ref(), version: w.Resource.Version, modified: w.Resource.LastUpdated, resource: w.Resource.JSON, wrote: true}
	switch {
	case w.Created && !w.Matched:
		r.status = "201 Created"
	case w.Resource.Deleted:
		r.status = "204 No Content"
	}
	return r
}

func failed(err error) response {
	code := fhir.KindOf(err).HTTPStatus()
	return response{status: strconv.Itoa(code), err: err}
}

// get does a reading entry.
func (s *Service) get(ctx context.Context, rq *Request, e *entry) response {
	t := e.target
	var res fhir.Resource
	var page *Page
	var err error
	switch {
	case t.history:
		var h HistoryQuery
		if h, err = ParseHistory(t.query); err == nil {
			page, err = s.History(ctx, rq, t.ref(), h)
		} else {
			err = s.refuse(ctx, rq, "history-instance", t.ref(), err)
		}
	case t.version > 0:
		res, err = s.VRead(ctx, rq, t.ref(), t.version)
	case t.id != "":
		res, err = s.Read(ctx, rq, t.ref())
	default:
		page, err = s.Search(ctx, rq, t.typ, t.query)
	}
	switch {
	case err != nil:
		return failed(err)
	case page != nil:
		return response{status: "200 OK", resource: page.Bytes()}
	case e.IfNoneMatch == ETag(res.Version):
		return response{status: "304 Not Modified", ref: res.Ref(), version: res.Version, modified: res.LastUpdated}
	}
	return response{status: "200 OK", ref: res.Ref(), version: res.Version, modified: res.LastUpdated, resource: res.JSON}
}

// ParseHistory reads the parameters of an instance history.
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
			return h, fhir.Errorf(fhir.Invalid, op, "history parameters must not repeat")
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
		case "__t":
			h.At, err = strconv.ParseUint(v, 10, 64)
		case "__before":
			h.Before, err = strconv.ParseUint(v, 10, 64)
		case "_format", "_pretty", "_summary", "_elements":
		default:
			return h, fhir.Errorf(fhir.Invalid, op, "a history takes _count, _since, _summary and _elements")
		}
		if err != nil {
			return h, fhir.Errorf(fhir.Invalid, op, "the value of a history parameter is not of its type")
		}
	}
	return h, nil
}

// ParseETag reads W/"3" or "3"; the empty string is 0.
func ParseETag(s string) (uint64, error) {
	if s == "" {
		return 0, nil
	}
	t := strings.TrimPrefix(strings.TrimSpace(s), "W/")
	if len(t) > 2 && t[0] == '"' && t[len(t)-1] == '"' {
		if v, err := strconv.ParseUint(t[1:len(t)-1], 10, 64); err == nil && v > 0 {
			return v, nil
		}
	}
	return 0, fhir.Errorf(fhir.Invalid, "interaction.ParseETag", `If-Match must be one entity tag of this server, W/"<version>"`)
}
