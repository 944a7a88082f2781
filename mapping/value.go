package mapping

import (
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/sample"
)

// appendValue appends value[x] of v by the rule's unit, scale and range.
func (r *rule) appendValue(b []byte, v *sample.Value, channel string, h *holes) ([]byte, error) {
	var err error
	switch v.Kind {
	case sample.Number:
		b = append(b, `,"valueQuantity":`...)
		return r.appendQuantity(b, v.Num, v.Unit, channel, h)
	case sample.Interval:
		b = append(b, `,"valueRange":{"low":`...)
		if b, err = r.appendQuantity(b, v.Num, v.Unit, channel, h); err != nil {
			return nil, err
		}
		b = append(b, `,"high":`...)
		if b, err = r.appendQuantity(b, v.High, v.Unit, channel, h); err != nil {
			return nil, err
		}
		return append(b, '}'), nil
	case sample.Code:
		if v.Text == "" {
			return nil, reject(sample.ReasonMissing, "an empty code")
		}
		b = append(b, `,"valueCodeableConcept":`...)
		if known := r.values[v.Text]; known != nil {
			return append(b, known...), nil
		}
		return appendConcept(b, r.system, v.Text, ""), nil
	case sample.Text:
		if strings.TrimSpace(v.Text) == "" {
			return nil, reject(sample.ReasonMissing, "an empty text")
		}
		if r.concept {
			b = append(b, `,"valueCodeableConcept":`...)
			if known := r.values[v.Text]; known != nil {
				return append(b, known...), nil
			}
			b = append(b, `{"text":`...)
			return append(appendString(b, v.Text), '}'), nil
		}
		b = append(b, `,"valueString":`...)
		return appendString(b, v.Text), nil
	case sample.Boolean:
		b = append(b, `,"valueBoolean":`...)
		return strconv.AppendBool(b, v.Bool), nil
	case sample.Series:
		return r.appendSeries(b, v.Series, channel)
	}
	return b, nil
}

func (r *rule) conversion(unit, channel string) (conversion, bool) {
	c, ok := r.accepts(unit)
	if !ok {
		return c, false
	}
	if scale, scaled := r.scale[channel]; scaled {
		c = c.after(scale)
	}
	return c, true
}

func (r *rule) appendQuantity(b []byte, num, unit, channel string, h *holes) ([]byte, error) {
	d, ok := parseDecimal(num)
	if !ok {
		return nil, reject(sample.ReasonBadValue, "not a decimal number")
	}
	b = append(b, `{"value":`...)
	at := len(b)
	if r.units == nil { // a component without a row: the unit as written, no code
		b = d.append(b)
		h.number(at, len(b))
		if unit != "" {
			b = append(b, `,"unit":`...)
			b = appendString(b, unit)
		}
		return append(b, '}'), nil
	}
	c, ok := r.conversion(unit, channel)
	if !ok {
		return nil, reject(sample.ReasonBadUnit, "the row does not accept this unit")
	}
	if r.zeroAbsent && d.zero() {
		return nil, reject(sample.DropPlaceholder, "zero stands for not measured")
	}
	d = c.apply(d)
	if !r.possible(d) {
		return nil, reject(sample.ReasonBadValue, "outside what is possible")
	}
	if d.plain {
		b = append(b, num...)
	} else {
		b = d.append(b)
	}
	h.number(at, len(b))
	b = append(b, r.quantity...)
	return append(b, '}'), nil
}

// possible is the check of the row's range.
func (r *rule) possible(d decimal) bool {
	if !r.ranged {
		return true
	}
	f := 0.0
	if v, ok := d.short(); ok {
		f = v.Float()
	} else {
		f = d.float()
	}
	return f >= r.low && f <= r.high
}

// appendSeries appends SampledData. Only a conversion that is a factor can be
// said by SampledData.factor.
func (r *rule) appendSeries(b []byte, s *sample.SeriesData, channel string) ([]byte, error) {
	if s == nil || s.Period <= 0 {
		return nil, reject(sample.ReasonBadValue, "a series without period")
	}
	if !seriesText(s.Data) {
		return nil, reject(sample.ReasonBadValue, "a series that is not decimals, E, U or L with one space between")
	}
	origin, ok := parseDecimal(orZero(s.Origin))
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the origin is no number")
	}
	factor, ok := parseDecimal(orOne(s.Factor))
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the factor is no number")
	}
	if r.outside(s, channel) {
		return nil, &partError{"", &RejectError{sample.ReasonBadValue, "points outside what is possible"}}
	}
	quantity := r.quantity
	if r.units != nil {
		c, ok := r.conversion(s.Unit, channel)
		if !ok || c.plus != nil {
			return nil, reject(sample.ReasonBadUnit, "the row does not accept this unit")
		}
		origin, factor = c.apply(origin), c.apply(factor)
	} else if s.Unit != "" {
		quantity = append([]byte(`,"unit":`), appendString(nil, s.Unit)...)
		quantity = append(quantity, `,`+ucum+`,"code":`...)
		quantity = appendString(quantity, s.Unit)
	}
	b = append(b, `,"valueSampledData":{"origin":{"value":`...)
	b = origin.append(b)
	b = append(b, quantity...)
	b = append(b, `},"period":`...)
	b = strconv.AppendFloat(b, float64(s.Period)/float64(time.Millisecond), 'f', -1, 64)
	if factor.digits != "1" || factor.scale != 0 || factor.neg {
		b = append(b, `,"factor":`...)
		b = factor.append(b)
	}
	b = append(b, `,"dimensions":1,"data":`...)
	b = appendString(b, s.Data)
	return append(b, '}'), nil
}

func orZero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}

// seriesText checks the form that FHIR gives SampledData.data.
func seriesText(s string) bool {
	space := true
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ' ':
			if space {
				return false
			}
			space = true
		case c >= '0' && c <= '9', c == '.', c == '-', c == 'E', c == 'U', c == 'L':
			space = false
		default:
			return false
		}
	}
	return !space
}
