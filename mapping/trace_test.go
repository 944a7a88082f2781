package mapping_test

import (
	"encoding/json"
	"math/big"
	"testing"
	"time"

	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// tracedPart holds what a trace tells of an Observation or component.
type tracedPart struct {
	Code struct {
		Coding []struct{ System, Code, Display string }
	}
	Quantity *struct{ Value json.Number } `json:"valueQuantity"`
	Range    *struct {
		Low, High struct{ Value json.Number }
	} `json:"valueRange"`
	Sampled *struct{ Factor json.Number } `json:"valueSampledData"`
}

// numbers returns the numbers of p that are converted.
func (p *tracedPart) numbers() []string {
	switch {
	case p.Quantity != nil:
		return []string{p.Quantity.Value.String()}
	case p.Range != nil:
		return []string{p.Range.Low.Value.String(), p.Range.High.Value.String()}
	case p.Sampled != nil && p.Sampled.Factor != "":
		return []string{p.Sampled.Factor.String()}
	}
	return nil
}

// TestTraceTellsWhatIsWritten checks for an example of each row and variant, and for
// intervals, that the trace holds the codes and numbers of the Observation, in order,
// that its factors lead from the number sent to the number written, and that tracing
// does not change the result.
func TestTraceTellsWhatIsWritten(t *testing.T) {
	m, err := mapping.New(table.Builtin(), mapping.Options{Doubtful: true})
	if err != nil {
		t.Fatal(err)
	}
	tables := mappingtest.Table(t)
	shapes := map[string]int{}
	check := func(v *table.Vendor, r *table.Row, s *sample.Sample) {
		t.Helper()
		want, wantErr := m.Map(nil, v.Vendor, s, "p1", time.UTC)
		trace, err := m.Explain(v.Vendor, s, "p1", time.UTC)
		if (err == nil) != (wantErr == nil) || string(trace.Result.JSON) != string(want.JSON) {
			t.Fatalf("%s: %v %s, want %v %s", r.Metric, err, trace.Result.JSON, wantErr, want.JSON)
		}
		if err != nil || want.JSON == nil {
			return
		}
		shapes[r.Shape]++
		if trace.When != nil {
			shapes["variant"]++
		}
		if s.Value.Kind == sample.Interval {
			shapes["interval"]++
		}
		checkTrace(t, r, &trace)
	}
	mappingtest.EachRow(tables, func(v *table.Vendor, r *table.Row) {
		for _, daily := range []bool{false, true} {
			s := mappingtest.Example(t, tables, v, r, daily)
			check(v, r, s)
			if s.Value.Kind == sample.Number {
				interval := *s
				interval.Value.Kind, interval.Value.High = sample.Interval, s.Value.Num
				check(v, r, &interval)
				for unit := range tables.Units[r.Unit].Accepts {
					other := *s
					other.Value.Unit = unit
					check(v, r, &other)
				}
			}
			for i := range r.Variants {
				w := r.Variants[i].When
				other := *s
				if len(w.Units) > 0 {
					other.Value.Unit = w.Units[0]
				}
				if w.Channel != "" {
					other.Channel = w.Channel
				}
				check(v, r, &other)
			}
		}
	})
	for _, shape := range []string{table.ShapeQuantity, table.ShapeCodeable, table.ShapeComponents, table.ShapeSampled,
		table.ShapeEvent, "variant", "interval"} {
		if shapes[shape] == 0 {
			t.Errorf("no example of the shape %s", shape)
		}
	}
}

func checkTrace(t *testing.T, r *table.Row, trace *mapping.Trace) {
	t.Helper()
	var o struct {
		tracedPart
		Component []tracedPart
	}
	if err := json.Unmarshal(trace.Result.JSON, &o); err != nil {
		t.Fatal(err)
	}
	checkCodes(t, r, trace.Codes, &o.tracedPart)
	components := o.Component
	for i := range trace.Values {
		v := &trace.Values[i]
		p := &o.tracedPart
		if v.Component != "" || v.Sent.Kind == sample.Series {
			if len(components) == 0 {
				t.Fatalf("%s: more values than components", r.Metric)
			}
			p, components = &components[0], components[1:]
			if len(v.Codes) > 0 {
				checkCodes(t, r, v.Codes, p)
			}
		}
		written := p.numbers()
		for j, n := range v.Numbers {
			if v.Sent.Kind == sample.Series && len(written) == 0 {
				written = []string{"1"}
			}
			if j >= len(written) || n.Written != written[j] {
				t.Errorf("%s: %s %+v, written %v", r.Metric, v.Component, n, written)
			}
			checkFactors(t, r, &n)
		}
		if v.Sent.Kind != sample.Series && len(v.Numbers) != len(written) {
			t.Errorf("%s: %s has %d numbers, %v are written", r.Metric, v.Component, len(v.Numbers), written)
		}
	}
}

func checkCodes(t *testing.T, r *table.Row, codes []mapping.CodeFact, p *tracedPart) {
	t.Helper()
	if len(codes) != len(p.Code.Coding) {
		t.Fatalf("%s: codes %v, want %v", r.Metric, codes, p.Code.Coding)
	}
	for i, c := range codes {
		if w := p.Code.Coding[i]; c.System != w.System || c.Code != w.Code || c.Display != w.Display ||
			(c.Why == mapping.CodeVendor) != (i == len(codes)-1) {
			t.Errorf("%s: code %v, want %v", r.Metric, c, w)
		}
	}
}

// checkFactors checks that sent times factor plus offset is what is written.
func checkFactors(t *testing.T, r *table.Row, n *mapping.NumberFact) {
	t.Helper()
	rat := func(text, zero string) *big.Rat {
		if text == "" {
			text = zero
		}
		x, ok := new(big.Rat).SetString(text)
		if !ok {
			t.Fatalf("%s: %q is not a number", r.Metric, text)
		}
		return x
	}
	got := rat(n.Sent, "")
	got.Mul(got, rat(n.Times, "1")).Add(got, rat(n.Plus, "0"))
	diff := got.Sub(got, rat(n.Written, ""))
	if rounded := diff.Sign() != 0; rounded != n.Rounded || diff.Abs(diff).Cmp(big.NewRat(1, 1e9)) > 0 {
		t.Errorf("%s: %+v is off by %s", r.Metric, n, diff.FloatString(12))
	}
}
