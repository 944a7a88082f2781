package interaction

import (
	"context"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

const (
	// historyRows bounds the versions that are looked at for a page of the history of a
	// type or of the system. A page of a caller who sees few of them may have fewer entries
	// than _count, or none, and a next link.
	historyRows = 20_000
	// countRows bounds the versions that are looked at to count them.
	countRows = 200_000
)

// historyTypes returns the types whose versions the caller may list. If typ is empty, these
// are all types but AuditEvent.
func historyTypes(rq *Request, op, typ string) (types []string, err error) {
	if typ != "" {
		if err := rq.may(op, access.Read, typ); err != nil {
			return nil, err
		}
		return []string{typ}, supported(op, typ)
	}
	if rq.Principal == nil {
		return nil, rq.may(op, access.Read, "")
	}
	for _, t := range fhir.Types {
		if t != "AuditEvent" && rq.Principal.Grant.May(access.Read, t) {
			types = append(types, t)
		}
	}
	if len(types) == 0 {
		return nil, fhir.Errorf(fhir.Forbidden, op, "the granted scopes do not cover the history of any type")
	}
	return types, nil
}

// manyVersions collects a page of the history of a type or of the system.
type manyVersions struct {
	page     *Page
	patients map[string]bool
	last     search.Position
	more     bool
	counted  int64
}

func (s *Service) historyOfMany(ctx context.Context, rq *Request, op, typ string,
	h HistoryQuery) (*Page, map[string]bool, error) {
	types, err := historyTypes(rq, op, typ)
	if err != nil {
		return nil, nil, err
	}
	limits := s.Limits.withDefaults()
	count := limits.Count
	if h.Count > 0 {
		count = min(h.Count, limits.MaxCount)
	}
	if h.Count < 0 {
		count = 0
	}
	self := s.historyURL(fhir.Ref{Type: typ}, h, count)
	bound := joined("history", rq.caller(), self)
	point, err := s.openPage(ctx, op, bound, h.Page)
	if err != nil {
		return nil, nil, err
	}
	if point.at == 0 {
		point.at = s.Store.LastSeq()
	}
	r := store.VersionRange{Types: types, Filter: rq.filter(access.Read), At: point.at, Since: h.Since, From: h.From,
		To: h.To, After: point.after, Rows: historyRows}
	r.Patient, _ = r.Filter.Patient()
	res := &manyVersions{page: &Page{}, patients: map[string]bool{}}
	if h.Count < 0 {
		err = s.countVersions(ctx, op, r, res)
	} else {
		err = s.gatherVersions(ctx, r, h, count, rq.pageBytes(limits), res)
	}
	if err != nil {
		return nil, nil, err
	}
	links, err := s.historyLinks(ctx, h, self, bound, pagePoint{point.at, res.last}, res.more)
	if err != nil {
		return nil, nil, err
	}
	total := int64(-1)
	if !res.more && h.Page == "" {
		total = int64(res.page.count) + res.counted
	}
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	res.page.open(id, "history", s.Clock(), total, links)
	return res.page, res.patients, nil
}

func (s *Service) gatherVersions(ctx context.Context, r store.VersionRange, h HistoryQuery, count, bytes int,
	res *manyVersions) error {
	var narrowing error
	rest, err := s.Store.Versions(ctx, r, func(f *store.Found) bool {
		if res.page.count == count || len(res.page.entries) > bytes {
			res.more = true
			return false
		}
		res.last = f.Pos
		addAll(res.patients, f.Facts.Patients())
		one := f.Resource
		if narrowing = h.View.Narrow(&one); narrowing != nil {
			return false
		}
		res.page.version(s.Base+"/"+one.Ref().String(), &one)
		return true
	})
	if err == nil {
		err = narrowing
	}
	if rest != "" {
		res.last, res.more = rest, true
	}
	return err
}

func (s *Service) countVersions(ctx context.Context, op string, r store.VersionRange, res *manyVersions) error {
	r.Rows = countRows
	rest, err := s.Store.Versions(ctx, r, func(f *store.Found) bool {
		res.counted++
		addAll(res.patients, f.Facts.Patients())
		return true
	})
	if err == nil && rest != "" {
		err = fhir.Errorf(fhir.TooCostly, op, "the number of versions would take too long to count; add _since")
	}
	return err
}
