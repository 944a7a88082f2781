package tier

import (
	"bytes"

	"pulsegate/fhir"
	"pulsegate/fhir/series"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore/internal/fault"
	"pulsegate/fhir/store/pebblestore/internal/rows"
	"pulsegate/fhir/yield"
)

// Prepared is a SeriesWrite whose blocks are encoded. Only the headers, which name
// the commit, are incomplete. It is prepared outside the committer.
type Prepared struct {
	Series      *Series
	Blocks      []Block
	Count       int
	First, Last int64 // start of the first and the last sample
	Days        []rows.SampleDay
}

// Block is one encoded block.
type Block struct {
	Header series.Header
	Check  uint32 // check of its first sample
	Body   []byte
}

const maxSamples = 1 << 20 // samples of one SeriesWrite

func (t *Tier) Prepare(w *store.SeriesWrite) (*Prepared, error) {
	const op = "pebblestore.Commit"
	n := w.Columns.Len()
	if n == 0 || n > maxSamples || len(w.Columns.Values) != w.Template.Values {
		return nil, fhir.Errorf(fhir.Invalid, op,
			"a series write has 1 to %d samples with the values of its template", maxSamples)
	}
	ser, err := t.series.ofTemplate(w.Template)
	if err != nil {
		return nil, err
	}
	if err := ordered(w); err != nil {
		return nil, err
	}
	a := &Prepared{Series: ser, Count: n, First: w.Columns.Start[0], Last: w.Columns.Start[n-1],
		Days: rows.SampleDays(w.Columns.Start)}
	for from := 0; from < n; from += BlockSamples {
		cols := w.Columns.Slice(from, min(from+BlockSamples, n))
		cols.Commits = make([]series.Commit, cols.Len())
		s := cols.At(0)
		p := Block{Header: series.Summarize(&cols), Check: ser.Template.Check(&s)}
		if p.Body, err = t.Encode(&cols); err != nil {
			return nil, fault.Wrap(op, err)
		}
		a.Blocks = append(a.Blocks, p)
		if from+BlockSamples < n {
			yield.Now()
		}
	}
	return a, nil
}

// ordered returns an error if the columns are out of order or bounds.
func ordered(w *store.SeriesWrite) error {
	c, t := w.Columns, w.Template
	var before series.Key
	for i, start := range c.Start {
		bad := start < series.MinStart || start > series.MaxStart
		if i > 0 && start <= before.Start && !bad {
			a, b := c.At(i-1), c.At(i)
			x, y := t.Key(&a), t.Key(&b)
			bad = x.Compare(&y) >= 0
		}
		before.Start = start
		if bad {
			return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "sample %d is out of order or bounds", i)
		}
	}
	return nil
}

// CheckDistinct returns an error if a batch has two writes of one series, or the
// same sample under two templates of one identity.
func CheckDistinct(ws []store.SeriesWrite) error {
	byIdentity := map[series.Identity][]int{}
	for i := range ws {
		id := ws[i].Template.Identity
		for _, j := range byIdentity[id] {
			if bytes.Equal(series.AppendTemplate(nil, ws[i].Template), series.AppendTemplate(nil, ws[j].Template)) {
				return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "series writes %d and %d are of the same series", j, i)
			}
			if common(&ws[i], &ws[j]) {
				return fhir.Errorf(fhir.Invalid, "pebblestore.Commit", "series writes %d and %d have a sample in common", j, i)
			}
		}
		byIdentity[id] = append(byIdentity[id], i)
	}
	return nil
}

func common(a, b *store.SeriesWrite) bool {
	i, j := 0, 0
	for i < a.Columns.Len() && j < b.Columns.Len() {
		switch x, y := a.Columns.Start[i], b.Columns.Start[j]; {
		case x < y:
			i++
		case x > y:
			j++
		default:
			s, t := a.Columns.At(i), b.Columns.At(j)
			k, l := a.Template.Key(&s), b.Template.Key(&t)
			switch c := k.Compare(&l); {
			case c == 0:
				return true
			case c < 0:
				i++
			default:
				j++
			}
		}
	}
	return false
}
