package googlehealth

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// tomb marks the points of a day that were deleted by DeleteDay: those that the cloud
// held at the time.
type tomb struct {
	day simulate.Day
	at  time.Time
}

// held returns the state of a point that the cloud holds at now, or nil.
func (s *Server) held(t *dataType, p *point, tombs []tomb, now time.Time) *point {
	for _, tb := range tombs {
		if tb.day == dayOf(t, p) && !tb.at.After(now) && p.state(tb.at) != nil {
			return nil
		}
	}
	return p.state(now)
}

// tombsOf returns the deletions of an account's type.
func (s *Server) tombsOf(account string, t *dataType) []tomb {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tombs[account+" "+t.name]
}

// query selects points.
type query struct {
	wearer *wearer
	typ    *dataType
	filter *filter
	family string // last segment of the data source family
	merged bool
	now    time.Time
	until  time.Time // nothing that starts later is wanted, if set
}

// each calls yield for every selected point in the order of the answer, until yield
// returns false. Only the days that the filter admits are drawn.
func (s *Server) each(q *query, yield func(*point) bool) {
	from, to := q.filter.bounds()
	first, last := s.first, simulate.DayOf(q.now.In(q.wearer.Zone))+1
	if !from.IsZero() {
		first = max(first, simulate.DayOf(from.In(time.UTC))-2)
	}
	if !to.IsZero() {
		last = min(last, simulate.DayOf(to.In(time.UTC))+2)
	}
	if !q.until.IsZero() {
		last = min(last, simulate.DayOf(q.until.In(q.wearer.Zone))+2)
	}
	tombs := s.tombsOf(q.wearer.account, q.typ)
	for day := last; day >= first; day-- {
		if !s.eachOfDay(q, s.points(q.wearer, q.typ, day), tombs, yield) {
			return
		}
	}
}

func (s *Server) eachOfDay(q *query, points []*point, tombs []tomb, yield func(*point) bool) bool {
	var group []*point // of one start
	flush := func() bool {
		for _, p := range group {
			if q.merged && p.rank > group[0].rank {
				continue
			}
			if !yield(p) {
				return false
			}
		}
		group = group[:0]
		return true
	}
	for _, p := range points {
		held := s.held(q.typ, p, tombs, q.now)
		if held == nil || !held.inFamily(q.family) {
			continue
		}
		at := held.start
		if q.typ.name == "sleep" {
			at = held.end
		}
		if !q.filter.holds(at, civilUTC(at)) {
			continue
		}
		if len(group) > 0 && !group[0].start.Equal(held.start) && !flush() {
			return false
		}
		group = append(group, held)
	}
	return flush()
}

// inFamily reports whether a point belongs to the data source family.
func (p *point) inFamily(family string) bool {
	platform, _ := p.source["platform"].(string)
	switch family {
	case "google-wearables":
		device, _ := p.source["device"].(object)
		form, _ := device["formFactor"].(string)
		return platform == "FITBIT" && p.source["recordingMethod"] != "MANUAL" && form != "PHONE" && form != "SCALE"
	case "google-sources":
		return platform == "FITBIT" || platform == "HEALTH_CONNECT"
	case "self-sources":
		return false // the simulator accepts no writes
	}
	return true
}

// civilUTC returns the clock time of t as a time in UTC.
func civilUTC(t time.Time) time.Time {
	_, o := t.Zone()
	return t.UTC().Add(time.Duration(o) * time.Second)
}

// civilOf returns the civil date and time of t without zeros.
func civilOf(t time.Time) object {
	clock := object{}
	for name, v := range map[string]int{"hours": t.Hour(), "minutes": t.Minute(), "seconds": t.Second(),
		"nanos": t.Nanosecond()} {
		if v != 0 {
			clock[name] = v
		}
	}
	return object{"date": dateOf(t), "time": clock}
}

func dateOf(t time.Time) object {
	return object{"year": t.Year(), "month": int(t.Month()), "day": t.Day()}
}

// render returns a point as list answers it, or as reconcile does if merged.
func render(w *wearer, t *dataType, p *point, merged bool) object {
	body := make(object, len(p.body)+1)
	for k, v := range p.body {
		body[k] = v
	}
	switch {
	case t.kind == daily:
		body["date"] = dateOf(p.start)
	case t.kind == sampled:
		body["sampleTime"] = object{"physicalTime": stamp(p.start), "utcOffset": offsetOf(p.start),
			"civilTime": civilOf(p.start)}
	case body["interval"] == nil:
		span := spanOf(p.start, p.end)
		if t.kind == interval {
			span["civilStartTime"], span["civilEndTime"] = civilOf(p.start), civilOf(p.end)
		}
		body["interval"] = span
	}
	out := object{t.member(): body}
	if merged {
		repeatStages(body, p)
		if p.id != "" {
			out["dataPointName"] = pointName(w, t, p)
		}
		return out
	}
	out["dataSource"] = p.source
	if p.id != "" {
		out["name"] = pointName(w, t, p)
	}
	return out
}

// repeatStages lists every stage of a merged night twice in the summary of every fourth
// night, which was seen live.
func repeatStages(body object, p *point) {
	summary, ok := body["summary"].(object)
	if !ok || simulate.DayOf(p.end)%4 != 0 {
		return
	}
	stages, _ := summary["stagesSummary"].([]any)
	twice := maps.Clone(summary)
	twice["stagesSummary"] = slices.Concat(stages, stages)
	body["summary"] = twice
}

func pointName(w *wearer, t *dataType, p *point) string {
	return fmt.Sprintf("users/%s/dataTypes/%s/dataPoints/%s", w.account, t.name, p.id)
}

// typeFor returns the type of the path if it has the operation and the token may read
// it. own is true if the token may read only what the client wrote.
func (c *call) typeFor(op operations) (t *dataType, own bool, bad *apiError) {
	t = dataTypes[c.request.PathValue("type")]
	if t == nil {
		return nil, false, badType("The parent data type collection is not known.")
	}
	if t.ops&op == 0 {
		return nil, false, badType("The data type collection " + t.name + " does not support this method.")
	}
	if c.may(readScope(t.group)) {
		return t, false, nil
	}
	if c.may(scopePrefix + t.group + ".writeonly") {
		return t, true, nil
	}
	return nil, false, errScope
}

// family returns the data source family that a request names.
func (c *call) family(t *dataType, name string, op operations, own bool) (string, *apiError) {
	noFamily := op == opList && (t.name == "sleep" || t.name == "food" || t.name == "food-measurement-unit")
	if name == "" {
		if own && noFamily {
			return "", denied("The data type does not support the restriction that the scopes imply.")
		}
		if own {
			return "self-sources", nil
		}
		return "", nil
	}
	if noFamily {
		return "", badFamily("Filtering by data source family is not supported for the data type " + t.name + ".")
	}
	for _, user := range []string{"me", c.wearer.account} {
		family, ok := strings.CutPrefix(name, "users/"+user+"/dataSourceFamilies/")
		if !ok {
			continue
		}
		if !slices.Contains([]string{"all-sources", "google-wearables", "google-sources", "self-sources"}, family) {
			break
		}
		if own && family != "self-sources" {
			return "", denied("The scopes permit only data that the client wrote.")
		}
		return family, nil
	}
	return "", badFamily("The data source family is not known.")
}

// read answers list and reconcile.
func (s *Server) read(c *call) (any, *apiError) {
	op := opList
	switch c.request.PathValue("method") {
	case "dataPoints":
	case "dataPoints:reconcile":
		op = opReconcile
	default:
		return nil, errNotFound
	}
	t, own, bad := c.typeFor(op)
	if bad != nil {
		return nil, bad
	}
	if bad := checkQuery(c.request, "dataSourceFamily", "filter", "pageSize", "pageToken"); bad != nil {
		return nil, bad
	}
	params := c.request.URL.Query()
	q := &query{wearer: c.wearer, typ: t, merged: op == opReconcile, now: c.now}
	if q.family, bad = c.family(t, params.Get("dataSourceFamily"), op, own); bad != nil {
		return nil, bad
	}
	if q.filter, bad = parseFilter(t, params.Get("filter")); bad != nil {
		return nil, bad
	}
	preset, most := t.pageLimits()
	size, bad := pageSize(params.Get("pageSize"), preset, most)
	if bad != nil {
		return nil, bad
	}
	tok, bad := s.openToken(params.Get("pageToken"), requestHash(c.request.URL.Path, params))
	if bad != nil {
		return nil, bad
	}
	return s.page(q, tok, size), nil
}

// page returns one page. A full page always has a token, so that the last page may be
// empty; now and then a page in the middle is empty, too.
func (s *Server) page(q *query, tok *pageToken, size int) object {
	if !tok.Empty && (tok.Pages > 0 && s.emptyPage(tok) || s.faults.Draw(simulate.EmptyPage, q.wearer.account)) {
		tok.Empty = true
		return object{"nextPageToken": s.sealToken(tok)}
	}
	var out []any
	if tok.Start != 0 {
		q.until = time.Unix(0, tok.Start)
	}
	s.each(q, func(p *point) bool {
		if !tok.after(p) {
			return true
		}
		if len(out) == size {
			return false
		}
		out = append(out, render(q.wearer, q.typ, p, q.merged))
		tok.advance(p)
		return true
	})
	if len(out) == 0 {
		return object{}
	}
	body := object{"dataPoints": out}
	if len(out) == size {
		tok.Pages, tok.Empty = tok.Pages+1, false
		body["nextPageToken"] = s.sealToken(tok)
	}
	return body
}

// emptyPage reports whether the page of a token is empty although more follow, as one in
// twelve is.
func (s *Server) emptyPage(tok *pageToken) bool {
	return s.key.Named("empty page").With(int(tok.Hash), tok.Pages).Chance(1.0 / 12)
}

func pageSize(text string, preset, most int) (int, *apiError) {
	if text == "" {
		return preset, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, invalid("pageSize", "The page size must be a non-negative number.")
	}
	if n == 0 {
		return preset, nil
	}
	return min(n, most), nil
}

// pageToken is the position after the last point of a page.
type pageToken struct {
	Hash  uint32 // of the request that it continues
	Start int64  // start of the last point in Unix nanoseconds
	Rank  int
	ID    string
	Pages int
	Empty bool // an empty page has been answered at this position
}

// after reports whether p follows the position.
func (t *pageToken) after(p *point) bool {
	if t.Pages == 0 && t.Start == 0 {
		return true
	}
	if n := p.start.UnixNano(); n != t.Start {
		return n < t.Start
	}
	if p.rank != t.Rank {
		return p.rank > t.Rank
	}
	return p.id > t.ID
}

func (t *pageToken) advance(p *point) { t.Start, t.Rank, t.ID = p.start.UnixNano(), p.rank, p.id }

// requestHash identifies a request apart from its page.
func requestHash(path string, params url.Values) uint32 {
	h := fnv.New32a()
	for _, s := range []string{path, params.Get("filter"), params.Get("dataSourceFamily")} {
		_, _ = h.Write([]byte(s + "\x00")) // never fails
	}
	return h.Sum32()
}

// sealToken encodes a page token.
func (s *Server) sealToken(t *pageToken) string {
	b, err := json.Marshal(t)
	if err != nil { // the fields are numbers and strings
		panic("googlehealth: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// openToken decodes a page token of the same request.
func (s *Server) openToken(text string, hash uint32) (*pageToken, *apiError) {
	if text == "" {
		return &pageToken{Hash: hash}, nil
	}
	var t pageToken
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, &t) != nil || t.Hash != hash {
		return nil, invalid("pageToken", "The page token does not belong to this request.")
	}
	return &t, nil
}

// getPoint answers one identifiable data point.
func (s *Server) getPoint(c *call) (any, *apiError) {
	if id, ok := strings.CutSuffix(c.request.PathValue("id"), ":exportExerciseTcx"); ok {
		return s.exportTCX(c, id)
	}
	t, own, bad := c.typeFor(opGet)
	if bad != nil {
		return nil, bad
	}
	if bad := checkQuery(c.request); bad != nil {
		return nil, bad
	}
	var found *point
	if !own {
		found = s.findPoint(c, t, c.request.PathValue("id"))
	}
	if found == nil {
		return nil, errNotFound
	}
	return render(c.wearer, t, found, false), nil
}
