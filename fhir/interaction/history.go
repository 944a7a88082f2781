package interaction

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// HistoryQuery holds the parameters of a history.
type HistoryQuery struct {
	Count int       // 0 for the default; -1 for only the number of entries
	Since time.Time // the zero time means from the beginning
	// From and To, if To is not zero, select the versions that were current at some time
	// from From on and before To (_at).
	From, To time.Time
	At       string // the value of _at
	Page     string // sealed parameter of a page link; empty for the first page
	View     View   // applied to each version
}

// HistoryCode returns the name of the interaction that History performs for ref
// (http://hl7.org/fhir/restful-interaction).
func HistoryCode(ref fhir.Ref) string {
	switch {
	case ref.ID != "":
		return "history-instance"
	case ref.Type != "":
		return "history-type"
	}
	return "history-system"
}

// History lists the versions that the caller may see, newest first: of one resource, of all
// resources of a type if ref has no id, or of all types if it is zero. Deletions are
// entries without a resource. The error is NotFound for a resource without a version that
// the caller may see.
//
// The history of the system leaves out AuditEvents, of which every request makes one; the
// history of their type has them.
func (s *Service) History(ctx context.Context, rq *Request, ref fhir.Ref, h HistoryQuery) (*Page, error) {
	const op = "interaction.History"
	var p *Page
	var patients map[string]bool
	var err error
	if ref.ID != "" {
		p, patients, err = s.history(ctx, rq, op, ref, h)
	} else {
		p, patients, err = s.historyOfMany(ctx, rq, op, ref.Type, h)
	}
	if err != nil {
		return nil, s.refuse(ctx, rq, HistoryCode(ref), ref, err)
	}
	var evs []audit.Event
	ev := rq.event(HistoryCode(ref), ref.Type)
	if ref.ID != "" {
		ev.Data = []audit.DataRef{{Ref: ref}}
	} else {
		ev.Query = rq.Line
	}
	for _, patient := range slices.Sorted(maps.Keys(patients)) {
		ev.Patient = patient
		evs = append(evs, ev)
	}
	if len(evs) == 0 {
		evs = append(evs, ev)
	}
	if err := s.disclose(ctx, rq, evs...); err != nil {
		return nil, err
	}
	return p, nil
}

func (s *Service) history(ctx context.Context, rq *Request, op string, ref fhir.Ref,
	h HistoryQuery) (*Page, map[string]bool, error) {
	if err := rq.may(op, access.Read, ref.Type); err != nil {
		return nil, nil, err
	}
	if err := supported(op, ref.Type); err != nil {
		return nil, nil, err
	}
	if !fhir.ValidID(ref.ID) {
		return nil, nil, errHidden(op)
	}
	limits := s.Limits.withDefaults()
	count := limits.Count
	if h.Count > 0 {
		count = min(h.Count, limits.MaxCount)
	}
	counting := h.Count < 0
	if counting {
		count = 0
	}
	counted := 0
	var narrowing error
	self := s.historyURL(ref, h, count)
	bound := joined("history", rq.caller(), self)
	at, before, err := s.historyPage(ctx, op, bound, h.Page)
	if err != nil {
		return nil, nil, err
	}
	page, patients, last, more, shown, hiddenOf := &Page{}, map[string]bool{}, uint64(0), false, false, []string(nil)
	filter := rq.filter(access.Read)
	newer, err := s.replacedAt(ctx, ref, before, h) // when the version before this one in the list was written
	if err != nil {
		return nil, nil, err
	}
	err = s.Store.History(ctx, ref, at, before, func(r fhir.Resource, facts *access.Facts) bool {
		ended := newer
		newer = r.LastUpdated
		if !filter.Allow(facts) {
			hiddenOf = facts.Patients()
			return true
		}
		shown = true
		if r.LastUpdated.Before(h.Since) {
			return false
		}
		if !h.current(&r, ended) {
			return true
		}
		if counting {
			addAll(patients, facts.Patients())
			counted++
			return true
		}
		if page.count == count || len(page.entries) > rq.pageBytes(limits) {
			more = true
			return false
		}
		last = r.Version
		addAll(patients, facts.Patients())
		if narrowing = h.View.Narrow(&r); narrowing != nil {
			return false
		}
		page.version(s.Base+"/"+ref.String(), &r)
		return true
	})
	if narrowing != nil {
		return nil, nil, narrowing
	}
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, nil, err
	}
	if !shown && before == 0 {
		return nil, nil, concealing(errHidden(op), disclosed{ref: ref, patients: hiddenOf})
	}
	links, err := s.historyLinks(ctx, h, self, bound, pagePoint{at, strconv.FormatUint(last, 10)}, more)
	if err != nil {
		return nil, nil, err
	}
	total := int64(-1)
	if !more && before == 0 {
		total = int64(page.count + counted)
	}
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	page.open(id, "history", s.Clock(), total, links)
	return page, patients, nil
}

func addAll(set map[string]bool, keys []string) {
	for _, k := range keys {
		set[k] = true
	}
}

// historyLinks returns the self link of a page and, if there are more, the next link.
func (s *Service) historyLinks(ctx context.Context, h HistoryQuery, self string, bound []byte, next pagePoint,
	more bool) ([]link, error) {
	links := []link{{"self", self}}
	if h.Page != "" {
		links[0].url += "&__page=" + h.Page
	}
	if !more {
		return links, nil
	}
	p, err := s.sealer(ctx)
	if err != nil {
		return nil, err
	}
	return append(links, link{"next", self + "&__page=" + p.seal(bound, next)}), nil
}

// historyPage returns the snapshot of a page and the last version on the page
// before it, 0 for the first page.
func (s *Service) historyPage(ctx context.Context, op string, bound []byte,
	page string) (at store.Seq, before uint64, err error) {
	point, err := s.openPage(ctx, op, bound, page)
	if err != nil || point.at == 0 {
		return s.Store.LastSeq(), 0, err
	}
	if before, err = strconv.ParseUint(point.after, 10, 64); err != nil {
		return 0, 0, fhir.Wrap(op, err)
	}
	return point.at, before, nil
}

// current reports whether r was current in the period of _at. ended is the time at which
// the next version was written, zero if there is none. A deletion counts only if it took
// place in the period.
func (h *HistoryQuery) current(r *fhir.Resource, ended time.Time) bool {
	switch {
	case h.To.IsZero():
		return true
	case !r.LastUpdated.Before(h.To):
		return false
	case !r.LastUpdated.Before(h.From):
		return true
	}
	return !r.Deleted && (ended.IsZero() || ended.After(h.From))
}

// replacedAt returns when the version was written below which a page begins, if _at needs
// that.
func (s *Service) replacedAt(ctx context.Context, ref fhir.Ref, before uint64, h HistoryQuery) (time.Time, error) {
	if before == 0 || h.To.IsZero() {
		return time.Time{}, nil
	}
	r, _, err := s.Store.ReadVersion(ctx, ref, before)
	return r.LastUpdated, err
}

func (s *Service) historyURL(ref fhir.Ref, h HistoryQuery, count int) string {
	out := s.Base
	for _, part := range []string{ref.Type, ref.ID} {
		if part != "" {
			out += "/" + part
		}
	}
	out += "/_history?_count=" + strconv.Itoa(count)
	if !h.Since.IsZero() {
		out += "&_since=" + h.Since.UTC().Format(fhir.InstantLayout)
	}
	if h.At != "" {
		out += "&_at=" + url.QueryEscape(h.At)
	}
	return out + h.View.query()
}
