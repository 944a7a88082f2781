package sync

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/link"
	"pulsegate/fhir"
	"pulsegate/mapping/ingest"
)

// reader reads the account of one link during a turn.
type reader struct {
	engine *Engine
	vendor *vendor
	task   *task
	link   link.Link
	client *cloud.Client
}

// page reads one page, with a new access token if the vendor does not accept the
// current one.
func (r *reader) page(ctx context.Context, q cloud.Query) (cloud.Page, error) {
	// The consent may have been withdrawn since the previous page, at any process.
	if err := r.engine.current(ctx); err != nil {
		return cloud.Page{}, err
	}
	switch _, ok, err := r.engine.Consents.Collects(ctx, r.link.Patient, r.link.Vendor); {
	case err != nil:
		return cloud.Page{}, err
	case !ok:
		return cloud.Page{}, fhir.Errorf(fhir.Forbidden, "sync.page", "the consent was withdrawn")
	}
	var p cloud.Page
	err := r.authorized(ctx, func() (err error) {
		p, err = r.vendor.Page(ctx, r.client, q)
		return err
	})
	if err != nil {
		return cloud.Page{}, err
	}
	return p, nil
}

// authorized calls do with a client, and once more with a new access token if the vendor
// does not accept the current one.
func (r *reader) authorized(ctx context.Context, do func() error) error {
	if r.client == nil {
		if err := r.connect(ctx, ""); err != nil {
			return err
		}
	}
	err := do()
	if err == nil || cloud.ProblemOf(err) != cloud.Unauthorized {
		return err
	}
	if err := r.connect(ctx, r.client.Token); err != nil {
		return err
	}
	err = do()
	if err != nil && cloud.ProblemOf(err) == cloud.Unauthorized {
		err = r.engine.Links.Refused(ctx, r.link.ID, r.client.Token)
	}
	return err
}

// connect makes a client with an access token other than refused.
func (r *reader) connect(ctx context.Context, refused string) error {
	e := r.engine
	token, err := e.Links.Token(ctx, r.link.ID, refused)
	if err != nil {
		return err
	}
	r.client = e.Links.API(r.vendor.Vendor, token)
	r.client.Spend = func(context.Context) error { e.spend(r.vendor, r.task); return nil }
	r.client.Observe = func(h http.Header) { e.observe(r.vendor, r.task, h) }
	return nil
}

// reading says how a window is read.
type reading struct {
	origin string // for the Provenance
	// complete is set if items of the store that the answer lacks were deleted.
	complete bool
	// trustEmpty is set if an answer without items is believed.
	trustEmpty bool
}

// window reads the window [from, to) of a stream into the store and returns the
// number of items.
func (r *reader) window(ctx context.Context, s *cloud.Stream, from, to time.Time, how reading) (int, error) {
	if s.Span == cloud.Days {
		from, to = cloud.Dates(from, to)
	}
	pages := &pages{ctx: ctx, reader: r, query: cloud.Query{Stream: s, From: from, To: to}}
	if err := pages.fetch(); err != nil {
		return 0, err
	}
	var w *ingest.Window
	if how.complete && s.Span != cloud.Snapshot && len(s.Types) > 0 {
		w = &ingest.Window{Types: s.Types, From: from, To: to, Days: s.Span == cloud.Days, ByEnd: s.Span == cloud.Ends,
			Coarse: s.Coarse}
	}
	if pages.items == 0 && pages.query.Cursor == "" && (w == nil || !how.trustEmpty) {
		return 0, nil
	}
	return pages.items, r.deliver(ctx, s, pages, w, how.origin)
}

// object reads one object of a stream into the store.
func (r *reader) object(ctx context.Context, s *cloud.Stream, id string) (int, error) {
	pages := &pages{ctx: ctx, reader: r, query: cloud.Query{Stream: s, Object: id}}
	if err := pages.fetch(); err != nil {
		return 0, err
	}
	return 1, r.deliver(ctx, s, pages, nil, "webhook")
}

// deliver hands pages to ingest.
func (r *reader) deliver(ctx context.Context, s *cloud.Stream, pages *pages, w *ingest.Window, origin string) error {
	l := &r.link
	sum, err := r.engine.Ingest.Run(ctx, ingest.Request{Patient: l.Patient, Vendor: l.Vendor, Format: s.Format,
		Name: s.Name + ".json", Body: pages, Complete: w, Since: r.task.plan.Since,
		Origin: ingest.Origin{Channel: origin, Link: l.ID}, Caller: caller(), Bind: r.engine.bind})
	if pages.err != nil {
		return pages.err
	}
	if err == nil {
		r.engine.meters.delivered(ctx, l.Vendor, origin, &sum)
	}
	return err
}

// maxPages bounds the pages of one window: a vendor may return a next page for ever.
const maxPages = 10_000

// pages is the body of a delivery: the pages of a window, read as they are needed.
type pages struct {
	ctx    context.Context
	reader *reader
	query  cloud.Query
	body   bytes.Reader
	items  int
	count  int
	err    error // why a page could not be read
}

// fetch reads the page at the cursor and moves the cursor on.
func (p *pages) fetch() error {
	page, err := p.reader.page(p.ctx, p.query)
	if p.count++; err == nil && p.count > maxPages {
		err = &cloud.Error{Problem: cloud.Rejected, Reason: "too-many-pages"}
	}
	if err == nil && page.Next != "" && page.Next == p.query.Cursor {
		err = &cloud.Error{Problem: cloud.Unavailable, Reason: "page-repeats"}
	}
	if err != nil {
		p.err = err
		return err
	}
	p.body.Reset(page.Body)
	p.items += page.Items
	p.query.Cursor = page.Next
	return nil
}

// Read implements io.Reader. Pages are separated by a newline.
func (p *pages) Read(b []byte) (int, error) {
	for p.body.Len() == 0 {
		if p.query.Cursor == "" {
			return 0, io.EOF
		}
		if err := p.fetch(); err != nil {
			return 0, err
		}
		if len(b) > 0 {
			b[0] = '\n'
			return 1, nil
		}
	}
	return p.body.Read(b)
}
