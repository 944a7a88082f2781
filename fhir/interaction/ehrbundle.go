package interaction

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"slices"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// EHRBundle implements Patient/[id]/$ehr-bundle. It returns a batch or transaction of
// conditional creates with a patient's Observations in a form that an EHR accepts, in
// order of time. Its parameters are those of a search, in the words of R4's $everything:
//
//	start, end   bounds of the time, as the values of date=ge and date=le
//	code         codes, as the value of code
//	form         one of Service.Forms; DefaultForm by default
//	subject      reference to the patient at the EHR; Patient/[id] by default
//	every        minutes: of a dense stream, only the first value of each such interval
//	             since 1970 is kept. 60 by default; 0 keeps all
//	preferred    true adds values that were derived as the preferred ones of several sources
//	_count       entries on a page
//
// The caller sees what a search shows at the same snapshot, and a Device only if an
// _include would show it and it is not the one of another patient. A page ends early if
// it has read many samples that are left out. A single Observation may have more entries
// than _count.
func (s *Service) EHRBundle(ctx context.Context, rq *Request, patient string, ps []Parameter) (*Page, error) {
	page, recorded, err := s.ehrBundle(ctx, rq, patient, ps)
	if err != nil {
		return nil, s.refuse(ctx, rq, "search-type", fhir.Ref{Type: "Observation"}, err)
	}
	if err := s.disclose(ctx, rq, recorded.events(rq, recorded.patients)...); err != nil {
		return nil, err
	}
	return page, nil
}

func (s *Service) ehrBundle(ctx context.Context, rq *Request, patient string, ps []Parameter) (*Page, *found, error) {
	const op = "interaction.EHRBundle"
	if err := rq.may(op, access.Search, "Observation"); err != nil {
		return nil, nil, err
	}
	if !fhir.ValidID(patient) {
		return nil, nil, errHidden(op)
	}
	a, err := s.readForm(patient, ps)
	if err != nil {
		return nil, nil, err
	}
	applied := a.applied(ps)
	bound := joined("ehr-bundle", rq.caller(), patient, applied)
	point, err := s.openPage(ctx, op, bound, a.page)
	if err != nil {
		return nil, nil, err
	}
	b := &bundled{service: s, rq: rq, request: a, limits: rq.limits(s), at: point.at,
		last: map[string]int64{},
		res:  &results{page: &Page{}, resumed: point.at > 0, patients: map[string]bool{patient: false}}}
	if point.at == 0 {
		b.at = s.Store.LastSeq()
	} else if a.query.After, b.last, err = openThinned(op, point.after); err != nil {
		return nil, nil, err
	}
	if err := b.scan(ctx); err != nil {
		return nil, nil, err
	}
	if err := b.write(ctx); err != nil {
		return nil, nil, err
	}
	links, err := b.links(ctx, bound, applied)
	if err != nil {
		return nil, nil, err
	}
	id, err := s.newID()
	if err != nil {
		return nil, nil, err
	}
	typ := "batch"
	if a.form.Transaction {
		typ = "transaction"
	}
	b.res.page.open(id, typ, s.Clock(), -1, links)
	return b.res.page, &found{s.recordedOf(rq, ps, patient), b.res.patients}, nil
}

// bundled collects one page.
type bundled struct {
	service *Service
	rq      *Request
	request *formRequest
	limits  Limits
	at      store.Seq
	res     *results
	matches []formMatch
	// last holds the latest interval of each dense stream of which a value was kept, up
	// to the current position.
	last map[string]int64
}

// formMatch is an Observation that the scan kept.
type formMatch struct {
	json   []byte
	vendor string
	pos    search.Position
	stream string // of a dense stream, or ""
	window int64
}

// scan collects at most count Observations.
func (b *bundled) scan(ctx context.Context) error {
	a := b.request
	kept := map[string]int64{}
	size, scanned := 0, 0
	find := store.Find{Query: a.query, Filter: b.rq.filter(access.Search), At: b.at, After: a.query.After,
		Owner: b.rq.caller(), Undeleted: b.res.resumed}
	return b.service.Store.Find(ctx, find, func(f *store.Found) bool {
		if len(b.matches) == a.count || scanned == maxScanned || size > b.limits.PageBytes {
			b.res.more = true
			return false
		}
		scanned++
		b.res.last = f.Pos
		m := formMatch{vendor: f.Facts.Vendor, pos: f.Pos}
		if a.every > 0 && a.form.Dense != nil {
			if stream, at, ok := a.form.Dense(f.Resource.JSON); ok {
				m.stream, m.window = stream, at.Unix()/int64(a.every/time.Second)
				latest, had := kept[stream]
				if !had {
					latest, had = b.last[stream]
				}
				if had && latest == m.window {
					return true
				}
				kept[stream] = m.window
			}
		}
		m.json = slices.Clone(f.Resource.JSON)
		size += len(m.json)
		b.matches = append(b.matches, m)
		return true
	})
}

// write writes the entries of the matches. If they are more than count, the page ends
// before the Observation that does not fit.
func (b *bundled) write(ctx context.Context) error {
	devices := map[fhir.Ref][]byte{}
	for i := range b.matches {
		m := &b.matches[i]
		device, err := b.device(ctx, m.json, devices)
		if err != nil {
			return err
		}
		entries, err := b.request.form.Write(&FormSource{Observation: m.json, Device: device, Vendor: m.vendor,
			Subject: b.request.subject, Base: b.service.Base})
		if err != nil {
			return fhir.Wrap("interaction.EHRBundle", err)
		}
		page := b.res.page
		if page.count > 0 && (page.count+len(entries) > b.request.count || page.size() > b.limits.PageBytes) {
			b.res.more, b.res.last = true, b.matches[i-1].pos
			return nil
		}
		for j := range entries {
			page.entry(&entries[j])
			b.res.patients[b.request.patient] = true
		}
		if m.stream != "" {
			b.last[m.stream] = m.window
			b.forget(m.window)
		}
	}
	return nil
}

// forget removes the intervals that lie before a window. The Observations come in order
// of time, so that no later one is in them.
func (b *bundled) forget(window int64) {
	for stream, w := range b.last {
		if w < window {
			delete(b.last, stream)
		}
	}
}

// device returns the Device of an Observation as of the snapshot, or nil if there is none
// of the patient that the caller may see.
func (b *bundled) device(ctx context.Context, observation []byte, known map[fhir.Ref][]byte) ([]byte, error) {
	var o struct{ Device struct{ Reference string } }
	if err := json.Unmarshal(observation, &o); err != nil {
		return nil, &fhir.Error{Kind: fhir.Internal, Op: "interaction.EHRBundle", Err: errStored}
	}
	ref, ok := fhir.ParseRef(o.Device.Reference)
	if !ok || ref.Type != "Device" {
		return nil, nil
	}
	if device, ok := known[ref]; ok {
		return device, nil
	}
	known[ref] = nil
	r, facts, err := b.service.Store.Read(ctx, ref, b.at)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return nil, err
	}
	// The URL names the patient, so an event of another patient could not hold it.
	if err == nil && facts.Patient != "" && facts.Patient != b.request.patient {
		return nil, nil
	}
	if err != nil || r.Deleted || !b.rq.filter(access.Search).Allow(facts) && !b.rq.filter(access.Read).Allow(facts) {
		return nil, nil
	}
	if b.res.resumed {
		now, err := b.service.Store.Heads(ctx, []fhir.Ref{ref})
		if err != nil || now[0].Deleted {
			return nil, err
		}
	}
	known[ref] = r.JSON
	return r.JSON, nil
}

// links returns the self link and, unless the page is the last one, the next link.
func (b *bundled) links(ctx context.Context, bound []byte, applied string) ([]link, error) {
	url, sep := b.service.Base+"/Patient/"+b.request.patient+"/$ehr-bundle", "?"
	if applied != "" {
		url, sep = url+"?"+applied, "&"
	}
	self := url
	if b.request.page != "" {
		self += sep + paramPage + "=" + b.request.page
	}
	out := []link{{"self", self}}
	if b.res.more && b.res.last != "" {
		p, err := b.service.sealer(ctx)
		if err != nil {
			return nil, err
		}
		next := p.seal(bound, pagePoint{b.at, sealThinned(b.res.last, b.last)})
		out = append(out, link{"next", url + sep + paramPage + "=" + next})
	}
	return out, nil
}

// maxStreams bounds the streams in a page link.
const maxStreams = 64

// sealThinned encodes a position with the intervals of dense streams.
func sealThinned(pos search.Position, last map[string]int64) string {
	out := joined(string(pos))
	for i, stream := range sortedKeys(last) {
		if i == maxStreams {
			break
		}
		out = binary.AppendVarint(append(out, joined(stream)...), last[stream])
	}
	return string(out)
}

// openThinned decodes what sealThinned encoded.
func openThinned(op, text string) (search.Position, map[string]int64, error) {
	b := []byte(text)
	broken := fhir.Errorf(fhir.Internal, op, "the content of a page link is malformed")
	next := func() (string, bool) {
		n, used := binary.Uvarint(b)
		if used <= 0 || n > uint64(len(b)-used) {
			return "", false
		}
		s := string(b[used : used+int(n)])
		b = b[used+int(n):]
		return s, true
	}
	pos, ok := next()
	last := map[string]int64{}
	for ok && len(b) > 0 {
		var stream string
		if stream, ok = next(); !ok {
			break
		}
		window, used := binary.Varint(b)
		if ok = used > 0; ok {
			last[stream], b = window, b[used:]
		}
	}
	if !ok {
		return "", nil, broken
	}
	return search.Position(pos), last, nil
}
