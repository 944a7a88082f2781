package interaction

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/store"
)

// HistoryQuery holds the parameters of an instance history.
type HistoryQuery struct {
	Count int       // 0 for the default; -1 for only the number of entries
	Since time.Time // the zero time means from the beginning
	Page  string    // sealed parameter of a page link; empty for the first page
	View  View      // applied to each version
}

// History lists the versions of ref that the caller may see, newest first. The
// error is NotFound if there are none. Deletions are entries without a resource.
func (s *Service) History(ctx context.Context, rq *Request, ref fhir.Ref, h HistoryQuery) (*Page, error) {
	const op = "interaction.History"
	p, patients, err := s.history(ctx, rq, op, ref, h)
	if err != nil {
		return nil, s.refuse(ctx, rq, "history-instance", ref, err)
	}
	var evs []audit.Event
	ev := rq.event("history-instance", ref.Type)
	ev.Data = []audit.DataRef{{Ref: ref}}
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
	err = s.Store.History(ctx, ref, at, before, func(r fhir.Resource, facts *access.Facts) bool {
		if !filter.Allow(facts) {
			hiddenOf = facts.Patients()
			return true
		}
		shown = true
		if r.LastUpdated.Before(h.Since) {
			return false
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
	links := []link{{"self", self}}
	if h.Page != "" {
		links[0].url += "&__page=" + h.Page
	}
	if more {
		p, err := s.sealer(ctx)
		if err != nil {
			return nil, nil, err
		}
		links = append(links, link{"next",
			self + "&__page=" + p.seal(bound, pagePoint{at, strconv.FormatUint(last, 10)})})
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

func (s *Service) historyURL(ref fhir.Ref, h HistoryQuery, count int) string {
	out := s.Base + "/" + ref.String() + "/_history?_count=" + strconv.Itoa(count)
	if !h.Since.IsZero() {
		out += "&_since=" + h.Since.UTC().Format(fhir.InstantLayout)
	}
	return out + h.View.query()
}
