package oura

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
)

// reader is an authenticated request of the data API.
type reader struct {
	http.ResponseWriter
	req    *http.Request
	grant  *grant
	wearer *simulate.Wearer
	now    time.Time
	query  url.Values
}

// rateWindow is the interval in which Options.RateLimit requests are allowed.
const rateWindow = 5 * time.Minute

// data checks the token, the membership and the rate of a request and injects faults.
func (s *Server) data(handle func(*reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		now := s.opts.Clock.Now()
		text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok {
			detail(w, http.StatusBadRequest, "Token is missing from the request")
			return
		}
		s.mu.Lock()
		s.stats.Requests++
		g := s.live(text)
		wait := time.Duration(0)
		lapsed := false
		if g != nil {
			wait = g.limit(s.opts.Wall(), s.opts.RateLimit)
			lapsed = slices.ContainsFunc(s.lapses[g.account], func(w simulate.Window) bool { return w.Contains(now) })
		}
		s.mu.Unlock()
		if g == nil {
			if !s.faults.Before(w, r, "unauthorized", now) {
				w.WriteHeader(http.StatusUnauthorized) // without a body, as the live service
			}
			return
		}
		wearer, subject := s.accounts[g.account], g.account+" "+r.PathValue("type")
		if s.faults.Before(w, r, subject, now) {
			return
		}
		if wait == 0 && s.faults.Draw(simulate.RateLimit, subject) {
			wait = time.Minute
		}
		switch {
		case wait > 0:
			s.tooMany(w, wait)
		case lapsed, s.faults.Lapsed(*wearer, now):
			s.faults.Count(simulate.Lapse)
			detail(w, http.StatusForbidden, "The user's Oura membership has expired; their data is not available")
		default:
			handle(&reader{w, r, g, wearer, now, r.URL.Query()})
		}
	}
}

// limit counts a request and returns how long its client has to wait, or 0. The caller
// holds Server.mu.
func (given *grant) limit(now time.Time, most int) time.Duration {
	if now.Sub(given.windowStart) >= rateWindow || now.Before(given.windowStart) {
		given.windowStart, given.requests = now, 0
	}
	if given.requests >= most {
		return given.windowStart.Add(rateWindow).Sub(now)
	}
	given.requests++
	return 0
}

// tooMany answers 429 with the headers of the live service.
func (s *Server) tooMany(w http.ResponseWriter, wait time.Duration) {
	s.mu.Lock()
	s.stats.Limited++
	s.mu.Unlock()
	seconds := int(math.Ceil(wait.Seconds()))
	h := w.Header()
	h.Set("Retry-After", strconv.Itoa(seconds))
	h.Set("X-RateLimit-Limit", strconv.Itoa(s.opts.RateLimit))
	h.Set("X-RateLimit-Window", strconv.Itoa(int(rateWindow.Seconds())))
	h.Set("X-RateLimit-Reset", strconv.FormatInt(s.opts.Wall().Unix()+int64(seconds), 10))
	h.Set("X-RateLimit-Tier", "token")
	detail(w, http.StatusTooManyRequests, "Request Rate Limit Exceeded.")
}

// allowed reports whether the grant has a scope; if not, it answers 403.
func (r *reader) allowed(scope string) bool {
	if r.grant.has(scope) {
		return true
	}
	detail(r, http.StatusForbidden, "Forbidden")
	return false
}

func (s *Server) person(r *reader) {
	reply(r, http.StatusOK, s.model.personalInfo(r.wearer, r.now, r.grant.has))
}

// invalidParameter answers 422 as the framework of the live service does.
func (r *reader) invalidParameter(place, name, typ, message string, input any) {
	reply(r, http.StatusUnprocessableEntity, map[string]any{"detail": []any{
		map[string]any{"type": typ, "loc": []string{place, name}, "msg": message, "input": input}}})
}

// layouts lists the accepted forms of dates and times.
var layouts = []string{time.DateOnly, time.RFC3339Nano, "2006-01-02T15:04:05.999999999", "2006-01-02T15:04"}

// instant reads a parameter. It returns standard if there is none, and ok is false if it
// has answered 422. Times without an offset are in UTC.
func (r *reader) instant(name string, standard time.Time) (t time.Time, ok bool) {
	text := r.query.Get(name)
	if text == "" {
		return standard, true
	}
	for _, layout := range layouts {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	r.invalidParameter("query", name, "datetime_from_date_parsing", "Input should be a valid date or datetime", text)
	return time.Time{}, false
}

// floating returns the calendar date and clock time of t as a time in UTC.
func floating(t time.Time) time.Time {
	_, offset := t.Zone()
	return t.Add(time.Duration(offset) * time.Second).UTC()
}

// contains reports whether a window of two floating times contains a day.
func (e edge) contains(day simulate.Day, start, end time.Time) bool {
	t := day.At(time.UTC, 0, 0)
	switch e {
	case exclusive:
		return day >= simulate.DayOf(start) && t.Before(end)
	case afterward:
		return t.After(start) && !t.After(end)
	}
	return day >= simulate.DayOf(start) && day <= simulate.DayOf(end)
}

// cursor is the content of a next_token: the last document or row of the page before.
type cursor struct {
	Query string       // digest of account, type and parameters
	Day   simulate.Day // of a document
	Slot  int
	After int64 // time of a row in Unix seconds
}

func (c cursor) String() string {
	b, _ := json.Marshal(c) // never fails
	return base64.RawURLEncoding.EncodeToString(b)
}

// cursor reads the parameter next_token. ok is false if it has answered 400: the token is
// damaged, or comes from a request with other parameters.
func (r *reader) cursor() (c cursor, ok bool) {
	rest := url.Values{}
	for name, v := range r.query {
		if name != "next_token" {
			rest[name] = v
		}
	}
	digest := simulate.Key(0).Named(r.grant.account + r.req.URL.Path + "?" + rest.Encode()).Hex(16)
	text := r.query.Get("next_token")
	if text == "" {
		return cursor{Query: digest, Day: -1}, true
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || json.Unmarshal(b, &c) != nil || c.Query != digest {
		detail(r, http.StatusBadRequest, "Invalid next_token")
		return c, false
	}
	return c, true
}

// list answers GET /v2/usercollection/{type}.
func (s *Server) list(r *reader) {
	switch typ := r.req.PathValue("type"); typ {
	case "heartrate":
		s.series(r, typ, "heartrate")
	case "ring_battery_level":
		s.series(r, typ, "ring_configuration")
	case "interbeat_interval":
		detail(r, http.StatusForbidden, "Forbidden") // needs a scope that is not granted
	default:
		if k := kindNamed(typ); k != nil {
			s.documents(r, k)
			return
		}
		detail(r, http.StatusNotFound, "Not Found")
	}
}

// documents answers a list of documents.
func (s *Server) documents(r *reader, k *kind) {
	if !r.allowed(k.scope) {
		return
	}
	today := simulate.DayOf(r.now.UTC()).At(time.UTC, 0, 0)
	var start, end time.Time
	if !k.single {
		var ok bool
		if end, ok = r.instant("end_date", today); !ok {
			return
		}
		if start, ok = r.instant("start_date", end.AddDate(0, 0, -1)); !ok {
			return
		}
		start, end = floating(start), floating(end)
		if start.After(end) {
			detail(r, http.StatusBadRequest,
				fmt.Sprintf("Start date is greater than end date: [start_date: %s; end_date: %s]",
					start.Format(time.DateOnly), end.Format(time.DateOnly)))
			return
		}
	}
	after, ok := r.cursor()
	if !ok {
		return
	}
	data := []any{}
	var next any
	if s.faults.Draw(simulate.EmptyPage, r.grant.account+" "+k.name) {
		reply(r, http.StatusOK, map[string]any{"data": data, "next_token": after.String()})
		return
	}
	last := min(simulate.DayOf(r.now.In(r.wearer.Zone)), simulate.DayOf(end))
	s.model.items(r.wearer, k, max(simulate.DayOf(start), after.Day), last, func(it item) bool {
		if it.day < after.Day || it.day == after.Day && it.slot <= after.Slot ||
			!k.single && !k.edge.contains(it.day, start, end) {
			return true
		}
		v, ok := s.model.state(it, r.now)
		if !ok {
			return true
		}
		if len(data) == s.opts.PageSize {
			next = after.String()
			return false
		}
		after.Day, after.Slot = it.day, it.slot
		data = append(data, r.selected(k, s.model.document(it, v)))
		return true
	})
	reply(r, http.StatusOK, map[string]any{"data": data, "next_token": next})
}

// always lists the members that a selection of fields cannot leave out.
var always = []string{"id", "day", "start_day", "meta", "timestamp", "timestamp_unix"}

// selected leaves out the members that the parameter fields does not name. Tags do not
// support it. k is nil for rows.
func (r *reader) selected(k *kind, doc object) object {
	fields := r.query.Get("fields")
	if fields == "" || k != nil && strings.HasSuffix(k.name, "tag") {
		return doc
	}
	wanted := append(strings.Split(fields, ","), always...)
	out := object{}
	for name, v := range doc {
		if slices.Contains(wanted, name) {
			out[name] = v
		}
	}
	return out
}

// longestSeries bounds the window of a time series.
const longestSeries = 31 * 24 * time.Hour

// series answers a list of rows, which are in the window from start up to but not
// including end.
func (s *Server) series(r *reader, typ, scope string) {
	if !r.allowed(scope) {
		return
	}
	end, ok := r.instant("end_datetime", r.now)
	if !ok {
		return
	}
	start, ok := r.instant("start_datetime", end.Add(-24*time.Hour))
	if !ok {
		return
	}
	latest, err := strconv.ParseBool(r.query.Get("latest"))
	if err != nil && r.query.Get("latest") != "" {
		r.invalidParameter("query", "latest", "bool_parsing", "Input should be a valid boolean", r.query.Get("latest"))
		return
	}
	switch {
	case start.After(end):
		detail(r, http.StatusBadRequest, "Start datetime is greater than end datetime")
		return
	case end.Sub(start) > longestSeries:
		detail(r, http.StatusBadRequest, "The range between start_datetime and end_datetime is too long")
		return
	}
	after, ok := r.cursor()
	if !ok {
		return
	}
	body := map[string]any{"data": []any{}}
	if s.faults.Draw(simulate.EmptyPage, r.grant.account+" "+typ) {
		body["next_token"] = after.String()
		reply(r, http.StatusOK, body)
		return
	}
	win := simulate.Window{From: start, To: end}
	if t := time.Unix(after.After+1, 0); t.After(start) {
		win.From = t
	}
	data, more := s.page(r, typ, win, latest)
	body["data"] = data
	if more {
		after.After = data[len(data)-1].at.Unix()
		body["next_token"] = after.String()
	}
	docs := make([]any, len(data))
	for i := range data {
		docs[i] = r.selected(nil, data[i].doc)
	}
	body["data"] = docs
	reply(r, http.StatusOK, body)
}

// page returns the rows of one page. Rows of the same second are never separated, so that
// a cursor is a time. The last page has no next_token.
func (s *Server) page(r *reader, typ string, win simulate.Window, latest bool) (rows []row, more bool) {
	s.model.rowsOf(r.wearer, typ, win, r.now, func(next row) bool {
		if latest {
			rows = append(rows[:0], next)
			return true
		}
		if len(rows) >= 10*s.opts.PageSize && !next.at.Equal(rows[len(rows)-1].at) {
			more = true
			return false
		}
		rows = append(rows, next)
		return true
	})
	return rows, more
}

// read answers GET /v2/usercollection/{type}/{id}.
func (s *Server) read(r *reader) {
	k := kindNamed(r.req.PathValue("type"))
	if k == nil {
		detail(r, http.StatusNotFound, "Not Found")
		return
	}
	if !r.allowed(k.scope) {
		return
	}
	if it, ok := s.model.itemOf(r.wearer, k, r.req.PathValue("id")); ok {
		if v, ok := s.model.state(it, r.now); ok {
			reply(r, http.StatusOK, s.model.document(it, v))
			return
		}
	}
	detail(r, http.StatusNotFound, "Document not found.")
}
