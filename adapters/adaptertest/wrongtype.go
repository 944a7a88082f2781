package adaptertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

// wrongText and wrongNumber are parts of the wrong values. They must not occur in
// errors, rejects and drops.
const (
	wrongText   = "Qvortrup 7193"
	wrongNumber = "719300719"
)

// wrongValue is a value that replaces values of other kinds.
type wrongValue struct {
	kind byte // as in place
	text string
}

var (
	wrongJSON = []wrongValue{{'{', `{"` + wrongText + `":"` + wrongText + `"}`}, {'[', `["` + wrongText + `"]`},
		{'"', `"` + wrongText + `"`}, {'0', wrongNumber + ".5"}, {'t', "true"}, {'n', "null"}}
	wrongCell = []wrongValue{{0, wrongText}}
)

// Limits for the places of one shape and for the variants of one payload.
const (
	completeShapes = 1 // places that get every wrong value
	sampledShapes  = 3 // further places that get one wrong value each
	maxVariants    = 700
)

// variant is a payload with one value replaced.
type variant struct {
	place
	wrong wrongValue
}

func (v variant) String() string {
	return v.path + " replaced by " + map[byte]string{'{': "an object", '[': "an array", '"': "a string",
		'0': "a number", 't': "true", 'n': "null", 0: "another text"}[v.wrong.kind]
}

// variants returns the variants of a payload. They are the same in every run.
func (l *layout) variants() []variant {
	var out []variant
	shapes := map[string]int{}
	for _, p := range l.places {
		values := wrongCell
		if p.kind != 'a' {
			values = slices.DeleteFunc(slices.Clone(wrongJSON), func(v wrongValue) bool {
				return v.kind == p.kind || v.kind == 't' && p.kind == 'f'
			})
		}
		switch n := shapes[p.shape]; {
		case n < completeShapes:
		case n < completeShapes+sampledShapes:
			i := n % len(values)
			values = values[i : i+1]
		default:
			values = nil
		}
		shapes[p.shape]++
		for _, v := range values {
			out = append(out, variant{p, v})
		}
	}
	if step := float64(len(out)) / maxVariants; step > 1 {
		for i := range maxVariants {
			out[i] = out[int(float64(i)*step)]
		}
		out = out[:maxVariants]
	}
	return out
}

// outcome is the result of decoding a body.
type outcome struct {
	*Recorder
	err      error
	panicked any
	// Three multisets: counts holds samples, rejects without their positions, and
	// drops; facts holds samples without the texts that only describe them; rejects
	// holds rejects with their positions.
	counts, facts, rejects map[string]int
	values                 int // values, components and times of all samples
	ignored                int // drops of parts that are ignored
}

// decodeBody decodes body in place of that of p.
func (s *suite) decodeBody(ctx context.Context, p payload, body []byte) (o *outcome) {
	o = &outcome{Recorder: NewRecorder(), counts: map[string]int{}, facts: map[string]int{},
		rejects: map[string]int{}}
	p.body = body
	func() {
		defer func() { o.panicked = recover() }()
		o.err = s.adapter.Decode(ctx, p.input(), o.Recorder)
	}()
	for _, s := range o.Samples {
		l := view(s)
		o.counts[l.key()]++
		l.Device, l.Source, l.Note, l.Method = nil, nil, "", ""
		o.facts[l.key()]++
		o.values += len(s.Components)
		for _, given := range []bool{s.Value.Kind != sample.None, !s.Start.IsZero(), !s.End.IsZero(),
			!s.Day.IsZero()} {
			if given {
				o.values++
			}
		}
	}
	for _, r := range o.Rejects {
		text := strings.Join([]string{r.Reason, r.Metric, r.Component, r.Detail, r.VendorID}, "\x00")
		o.counts["reject "+text]++
		o.rejects[r.Where+"\x00"+text]++
	}
	for k, n := range o.Drops {
		o.counts["drop "+k] += n
		if strings.HasPrefix(k, sample.DropIgnored) {
			o.ignored += n
		}
	}
	return o
}

// key returns a text that is equal for equal lines.
func (l line) key() string {
	b, err := json.Marshal(l)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// missing returns the number of members of b that a lacks.
func missing(a, b map[string]int) int {
	n := 0
	for k, count := range b {
		n += max(0, count-a[k])
	}
	return n
}

// typeCheck checks the variants of one payload.
type typeCheck struct {
	suite    *suite
	payload  payload
	layout   layout
	complete *outcome
	without  map[int]*outcome // outcomes without the item of an element, nil if it has none
}

// checkWrongTypes replaces the values of a payload by values of wrong types.
func (s *suite) checkWrongTypes(t *testing.T, p payload) {
	n, problems := s.wrongTypes(t.Context(), p)
	for _, problem := range problems {
		t.Error(problem)
	}
	t.Logf("%d variants", n)
}

// wrongTypes returns the number of variants of p and the broken requirements.
func (s *suite) wrongTypes(ctx context.Context, p payload) (n int, problems []string) {
	l, err := layoutOf(p)
	if err != nil {
		return 0, []string{err.Error()}
	}
	c := &typeCheck{s, p, l, s.decodeBody(ctx, p, p.body), map[int]*outcome{}}
	for i := range l.elements {
		c.item(ctx, i)
	}
	variants := l.variants()
	for _, v := range variants {
		body := slices.Concat(p.body[:v.from], []byte(v.wrong.text), p.body[v.to:])
		got := s.decodeBody(ctx, p, body)
		if problem := c.problem(v, got, c.item(ctx, v.within)); problem != "" {
			problems = append(problems, v.String()+": "+problem)
		}
	}
	return len(variants), problems
}

// item returns the outcome of the payload without the item that holds the element i. An
// item is the innermost element without which the payload has fewer samples, rejects or
// drops, and otherwise the same. A part of a night, for example, is none: without it the
// night has other values. item returns nil if the payload cannot lack the element.
func (c *typeCheck) item(ctx context.Context, i int) *outcome {
	if i < 0 {
		return nil
	}
	if o, ok := c.without[i]; ok {
		return o
	}
	e := c.layout.elements[i]
	o := c.suite.decodeBody(ctx, c.payload, slices.Concat(c.payload.body[:e.from], c.payload.body[e.to:]))
	if o.panicked != nil || o.err != nil || missing(c.complete.counts, o.counts) > 0 ||
		missing(o.counts, c.complete.counts) == 0 {
		o = c.item(ctx, e.parent)
	}
	c.without[i] = o
	return o
}

// problem returns the requirement that the outcome of a variant breaks, or "". others is
// the outcome of the payload without the item of the variant.
func (c *typeCheck) problem(v variant, got, others *outcome) string {
	if got.panicked != nil {
		return fmt.Sprint("Decode panics: ", got.panicked)
	}
	if text := c.suite.leak(got.Recorder, got.err, wrongText, wrongNumber); text != "" {
		return text
	}
	if text := unclear(got); text != "" {
		return text
	}
	if others != nil && (got.err == nil || !c.holdsItems(v.within)) {
		if n := missing(got.counts, others.counts); n > 0 {
			return fmt.Sprintf("%d samples, rejects or drops of other items are missing (error: %v)", n, got.err)
		}
	}
	if v.wrong.kind == 'n' || got.err != nil || missing(c.complete.rejects, got.rejects) > 0 {
		return ""
	}
	if others != nil && len(c.complete.Rejects) > len(others.Rejects) {
		return "" // the item has a reject, which may cover the variant
	}
	// A vendor may write a number as a text and the reverse. Other values cannot stand
	// for what they replace.
	if n := len(c.complete.Samples) - len(got.Samples); n > 0 {
		return fmt.Sprintf("%d samples are missing without a reject or an error", n)
	}
	if strings.IndexByte(`{["`, v.wrong.kind) < 0 || v.kind == 'a' {
		return ""
	}
	if got.ignored > c.complete.ignored {
		return "" // the adapter says that it leaves the value out
	}
	if v.wrong.kind == '"' && v.kind != '{' && v.kind != '[' {
		if n := c.complete.values - got.values; n > 0 {
			return fmt.Sprintf("%d values and times are missing without a reject or an error", n)
		}
		return ""
	}
	if n := missing(got.facts, c.complete.facts); n > 0 {
		return fmt.Sprintf("%d samples have lost or changed a value without a reject or an error", n)
	}
	return ""
}

// holdsItems reports whether the item of the element i is a container, such as a page, with
// items in it. An error may end the payload if a member of a container has a wrong
// type.
func (c *typeCheck) holdsItems(i int) bool {
	own := c.without[i]
	for j, o := range c.without {
		if o == nil || o == own {
			continue
		}
		for k := j; k >= 0; k = c.layout.elements[k].parent {
			if k == i {
				return true
			}
		}
	}
	return false
}

// unclear returns why a sample, a reject or the error of an outcome breaks its contract.
func unclear(got *outcome) string {
	var pe *adapters.PayloadError
	switch {
	case errors.As(got.err, &pe):
		if pe.Where == "" || pe.Rule == "" {
			return fmt.Sprintf("the error names no place or no rule: %v", got.err)
		}
	case got.err != nil && !errors.Is(got.err, adapters.ErrUnknownFormat):
		return fmt.Sprintf("the error is not a PayloadError: %v", got.err)
	}
	for _, r := range got.Rejects {
		if r.Where == "" || r.Detail == "" || r.Reason == "" {
			return fmt.Sprintf("a reject names no place, rule or reason: %q %q %q", r.Where, r.Detail, r.Reason)
		}
	}
	for _, s := range got.Samples {
		if err := Check(s); err != nil {
			return fmt.Sprintf("a sample of %s: %v", s.Metric, err)
		}
	}
	return ""
}
