package preferred

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/yield"
	"pulsegate/mapping/sleep"
)

// reader reads inputs of one patient from the store.
type reader struct {
	store   store.Store
	policy  *Policy
	filter  access.Filter
	at      store.Seq
	patient string
	kinds   map[string]string // kind of device by reference
}

// kindOf returns the kind of a source. The Device is read without a filter: the reader
// already has a measurement that names it.
func (r *reader) kindOf(ctx context.Context) func(source) string {
	return func(s source) string {
		if kind, ok := r.kinds[s.device]; ok {
			return kind
		}
		kind := account
		if ref, ok := fhir.ParseRef(s.device); ok && ref.Type == "Device" {
			if res, _, err := r.store.Read(ctx, ref, 0); err == nil && !res.Deleted {
				kind = r.policy.kindOf(deviceText(res.JSON))
			}
		}
		r.kinds[s.device] = kind
		return kind
	}
}

// deviceText returns the type, names and model of a Device.
func deviceText(body []byte) string {
	var d struct {
		Type       struct{ Text string } `json:"type"`
		DeviceName []struct {
			Name string `json:"name"`
		} `json:"deviceName"`
		ModelNumber string `json:"modelNumber"`
	}
	if err := json.Unmarshal(body, &d); err != nil {
		return ""
	}
	parts := []string{d.Type.Text, d.ModelNumber}
	for _, n := range d.DeviceName {
		parts = append(parts, n.Name)
	}
	return strings.Join(parts, " ")
}

// escapeToken escapes the separators of search values (FHIR R4, 3.1.1.4.9).
var escapeToken = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`)

// find returns a search for Observations with one of the codes in a time. dates are further
// conditions.
func (r *reader) find(codes []element.Coding, from, to time.Time, dates ...string) (store.Find, error) {
	var list []string
	for _, c := range codes {
		list = append(list, escapeToken.Replace(c.System)+"|"+escapeToken.Replace(c.Code))
	}
	params := [][2]string{{"patient", r.patient}, {"code", strings.Join(list, ",")},
		{"date", "ge" + from.UTC().Format(time.RFC3339)}, {"date", "le" + to.UTC().Format(time.RFC3339)}}
	for _, d := range dates {
		params = append(params, [2]string{"date", d})
	}
	q, err := search.Parse("Observation", params, search.ParseOptions{})
	return store.Find{Query: q, Filter: r.filter, At: r.at}, fhir.Wrap("preferred.find", err)
}

// yieldEvery is the number of samples after which the reader yields the processor.
const yieldEvery = 2048

// each calls fn for the measurements of one of the codes in a time. fn must not keep them.
func (r *reader) each(ctx context.Context, codes []element.Coding, from, to time.Time, fn func(*measurement)) error {
	f, err := r.find(codes, from, to)
	if err != nil {
		return err
	}
	return r.eachOf(ctx, f, fn)
}

// eachOf calls fn for the measurements that a search finds, except preferred values.
func (r *reader) eachOf(ctx context.Context, f store.Find, fn func(*measurement)) error {
	pace := yield.Counter{Every: yieldEvery}
	doc := func(found *store.Found) bool {
		if m, preferred, ok := read(found.Resource.JSON, found.Resource.ID, found.Facts.Vendor); ok && !preferred {
			fn(&m)
		}
		pace.Add(16)
		return true
	}
	columnar, ok := r.store.(store.Columnar)
	if !ok {
		return fhir.Wrap("preferred.read", r.store.Find(ctx, f, doc))
	}
	templates := map[*series.Template]*measurement{} // nil if the samples have no number
	zones := fixedZone{}
	var failure error
	err := columnar.FindRuns(ctx, f, doc, func(run *store.Run) bool {
		var columns *series.Columns
		if columns, failure = run.Load(); failure != nil {
			return false
		}
		m, seen := templates[run.Template]
		if !seen {
			if s, ok := specimen(run.Template, columns.At(run.From)); ok {
				m = &s
			}
			templates[run.Template] = m
		}
		for i := run.From; m != nil && i < run.To; i++ {
			s := columns.At(i)
			m.start = zones.at(s.Start, s.Off)
			if m.end = m.start; s.End != series.NoEnd {
				m.end = zones.at(s.End, s.EndOff)
			}
			m.value, m.text = s.Values[0].Float(), ""
			fn(m)
			pace.Add(1)
		}
		return true
	})
	return fhir.Wrap("preferred.read", cmp.Or(err, failure))
}

// offsets is the greatest difference between a local day and the day in UTC.
const offsets = 15 * time.Hour

// window returns the time that contains some days in every zone.
func window(first, last int64) (from, to time.Time) {
	return time.Unix(first*86400, 0).Add(-offsets), time.Unix((last+1)*86400, 0).Add(offsets)
}

// days returns the collector with the inputs of some days.
func (r *reader) days(ctx context.Context, c *Concept, first, last int64) (*collector, error) {
	k := newCollector(r.policy, c, r.kindOf(ctx))
	from, to := window(first, last)
	switch c.Kind {
	case night:
		return r.nights(ctx, c, first, last)
	case nightValue:
		var err error
		if k.nights, err = r.ownNights(ctx, first, last); err != nil {
			return nil, err
		}
		from = from.Add(-maxSession) // a night that ends on the first day
	}
	return k, r.each(ctx, c.inputs, from, to, k.add)
}

// ownNights returns the longest sleep session of each vendor and day of waking.
func (r *reader) ownNights(ctx context.Context, first, last int64) (map[string][]measurement, error) {
	i := slices.IndexFunc(r.policy.Concepts, func(c Concept) bool { return c.Kind == night })
	if i < 0 {
		return nil, nil
	}
	type key struct {
		vendor string
		day    int64
	}
	longest := map[key]measurement{}
	from, to := window(first-1, last+1)
	k := newCollector(r.policy, &r.policy.Concepts[i], nil)
	if err := r.each(ctx, r.policy.Concepts[i].inputs, from, to, k.add); err != nil {
		return nil, err
	}
	for _, m := range k.sessions {
		at := key{m.vendor, dayOf(m.end)}
		if o, ok := longest[at]; !ok || cmp.Or(cmp.Compare(m.end.Sub(m.start), o.end.Sub(o.start)),
			o.start.Compare(m.start), cmp.Compare(o.id, m.id)) > 0 {
			longest[at] = m
		}
	}
	out := map[string][]measurement{}
	for at, m := range longest {
		out[at.vendor] = append(out[at.vendor], m)
	}
	for _, list := range out { // sessions of two days may overlap
		slices.SortFunc(list, func(a, b measurement) int {
			return cmp.Or(a.start.Compare(b.start),
				cmp.Compare(a.id, b.id))
		})
	}
	return out, nil
}

// maxMargin bounds the days that are read before and after some days, for sessions that
// continue.
const maxMargin = 32

// nights returns the collector with the sleep sessions of some days and of the days around
// them. No night that ends on these days is cut.
func (r *reader) nights(ctx context.Context, c *Concept, first, last int64) (*collector, error) {
	for margin := int64(2); ; margin *= 2 {
		k := newCollector(r.policy, c, r.kindOf(ctx))
		from, to := window(first-margin, last+margin)
		if err := r.each(ctx, c.inputs, from, to, k.add); err != nil {
			return nil, err
		}
		cut := false
		for _, n := range clustersOf(k.sessions) {
			day := k.prefer(&n).day
			cut = cut || day >= first && day <= last && (n.start.Sub(from) <= sleep.Gap || to.Sub(n.end) <= sleep.Gap)
		}
		if !cut || margin >= maxMargin {
			return k, nil
		}
	}
}
