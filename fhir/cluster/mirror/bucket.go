package mirror

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.mongodb.org/mongo-driver/v2/bson"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/search"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
)

// samplesCollection holds the buckets of samples.
const samplesCollection = "samples"

const day = 24 * time.Hour

// maxDays bounds the days that are read at once.
const maxDays = 31

// cluster names the samples of a patient that one search finds.
type cluster struct{ patient, system, code string }

// bucketsOf returns the buckets of the samples of a cluster on the days [first, first+n),
// as of a commit.
func bucketsOf(ctx context.Context, st store.Store, c cluster, first time.Time, n int,
	at store.Seq) (out []bson.D, err error) {
	const op = "mirror.bucketsOf"
	columnar, ok := st.(store.Columnar)
	if !ok {
		return nil, nil // the store keeps no samples
	}
	last := first.Add(time.Duration(n) * day)
	q, err := search.Parse("Observation", [][2]string{{"patient", c.patient},
		{"code", escapeToken.Replace(c.system) + "|" + escapeToken.Replace(c.code)},
		{"date", "ge" + first.Format(time.RFC3339)}, {"date", "lt" + last.Format(time.RFC3339)}}, search.ParseOptions{})
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	found := map[string]*bucket{}
	names := map[*series.Template]string{}
	var failure error
	err = columnar.FindRuns(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search), At: at},
		func(*store.Found) bool { return true }, func(r *store.Run) bool {
			var cols *series.Columns
			if cols, failure = r.Load(); failure != nil {
				return false
			}
			name := names[r.Template]
			if name == "" {
				id := series.IDOf(series.AppendTemplate(nil, r.Template))
				name = hex.EncodeToString(id[:])
				names[r.Template] = name
			}
			for i := r.From; i < r.To; i++ {
				s := cols.At(i)
				start := time.UnixMicro(s.Start).UTC()
				if start.Before(first) || !start.Before(last) {
					continue // an interval that only overlaps the days
				}
				key := name + "/" + start.Format(time.DateOnly)
				b := found[key]
				if b == nil {
					b = &bucket{key: key, series: name, template: r.Template, first: s}
					found[key] = b
				}
				b.add(&s)
			}
			return ctx.Err() == nil
		})
	if err == nil {
		err = failure
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	for _, b := range found {
		d, err := b.document(at)
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		out = append(out, d)
	}
	slices.SortFunc(out, func(a, b bson.D) int { return strings.Compare(a[0].Value.(string), b[0].Value.(string)) })
	return out, nil
}

// escapeToken escapes the separators of search values (FHIR R4, 3.1.1.4.9).
var escapeToken = strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`)

// bucket collects the samples of a series on one day.
type bucket struct {
	key, series string
	template    *series.Template
	first       series.Sample
	lo, hi      int64 // starts of the first and last sample
	samples     bson.A
}

func (b *bucket) add(s *series.Sample) {
	if len(b.samples) == 0 || s.Start < b.lo {
		b.lo = s.Start
	}
	if len(b.samples) == 0 || s.Start > b.hi {
		b.hi = s.Start
	}
	d := bson.D{{Key: "at", Value: time.UnixMicro(s.Start).UTC()}}
	if s.End != series.NoEnd {
		d = append(d, bson.E{Key: "until", Value: time.UnixMicro(s.End).UTC()})
	}
	switch n := b.template.Values; n {
	case 0:
	case 1:
		d = append(d, bson.E{Key: "value", Value: s.Values[0].Float()})
	default:
		vs := make(bson.A, n)
		for i := range n {
			vs[i] = s.Values[i].Float()
		}
		d = append(d, bson.E{Key: "values", Value: vs})
	}
	b.samples = append(b.samples, d)
}

func (b *bucket) document(at store.Seq) (bson.D, error) {
	common, err := object(b.template.Append(nil, &b.first))
	if err != nil {
		return nil, err
	}
	dayText := b.key[len(b.series)+1:]
	start, err := time.Parse(time.DateOnly, dayText)
	if err != nil {
		return nil, err
	}
	d := bson.D{{Key: "_id", Value: b.key}, {Key: memberCommit, Value: int64(at)},
		{Key: "series", Value: b.series}, {Key: "stream", Value: stream(b.template.Identity)},
		{Key: "day", Value: start},
		{Key: memberTime, Value: bson.D{{Key: "start", Value: time.UnixMicro(b.lo).UTC()},
			{Key: "end", Value: time.UnixMicro(b.hi).UTC()}}},
		{Key: "observation", Value: withoutSample(common)}, {Key: "count", Value: int64(len(b.samples))},
		{Key: "samples", Value: b.samples}}
	if raw, err := bson.Marshal(d); err != nil || len(raw) > maxDocument {
		d = append(d[:len(d)-1], bson.E{Key: memberOmitted, Value: true})
	}
	return d, nil
}

func stream(id series.Identity) string { return hex.EncodeToString(id[:]) }

// withoutSample returns an Observation without what belongs to one sample: its id,
// times and numbers.
func withoutSample(d bson.D) bson.D {
	out := bson.D{}
	for _, e := range d {
		switch e.Key {
		case "id", "effectiveDateTime", "effectivePeriod", "identifier":
			continue
		case "meta":
			e.Value = dropped(e.Value, "versionId", "lastUpdated")
		case "valueQuantity":
			e.Value = dropped(e.Value, "value")
		case "component":
			list, _ := e.Value.(bson.A)
			parts := bson.A{}
			for _, c := range list {
				part, ok := c.(bson.D)
				if !ok {
					continue
				}
				part = slices.Clone(part)
				for i := range part {
					if part[i].Key == "valueQuantity" {
						part[i].Value = dropped(part[i].Value, "value")
					}
				}
				parts = append(parts, part)
			}
			e.Value = parts
		}
		out = append(out, e)
	}
	return out
}

// dropped returns an object without some members.
func dropped(v any, names ...string) any {
	d, ok := v.(bson.D)
	if !ok {
		return v
	}
	return slices.DeleteFunc(slices.Clone(d), func(e bson.E) bool { return slices.Contains(names, e.Key) })
}

// clusterOf returns the cluster of a template's samples.
func clusterOf(t *series.Template) (cluster, error) {
	var s series.Sample
	s.End = series.NoEnd
	v, err := search.Extract("Observation", t.Append(nil, &s))
	if err != nil {
		return cluster{}, fhir.Wrap("mirror.clusterOf", err)
	}
	for _, c := range v.ByParam["code"] {
		if c.Code != "" {
			return cluster{patient: t.Patient, system: c.System, code: c.Code}, nil
		}
	}
	return cluster{}, fmt.Errorf("mirror: the Observations of a series have no code")
}

// clusterIn returns the cluster to which the Observation of a bucket belongs.
func clusterIn(observation bson.D) (c cluster) {
	for _, e := range observation {
		switch e.Key {
		case "subject":
			ref, _ := e.Value.(bson.D)
			for _, m := range ref {
				if text, ok := m.Value.(string); ok && m.Key == "reference" {
					c.patient = strings.TrimPrefix(text, "Patient/")
				}
			}
		case "code":
			coding := firstCoding(e.Value)
			c.system, c.code = coding.System, coding.Code
		}
	}
	return c
}

// firstCoding returns the first coding of a CodeableConcept.
func firstCoding(v any) (c element.Coding) {
	concept, _ := v.(bson.D)
	for _, e := range concept {
		list, ok := e.Value.(bson.A)
		if e.Key != "coding" || !ok || len(list) == 0 {
			continue
		}
		first, _ := list[0].(bson.D)
		for _, m := range first {
			text, _ := m.Value.(string)
			switch m.Key {
			case "system":
				c.System = text
			case "code":
				c.Code = text
			}
		}
	}
	return c
}
