package mapping

import (
	"cmp"
	"strconv"
	"strings"
	"time"

	"pulsegate/mapping/decimal"
	"pulsegate/mapping/sample"
)

// appendValue appends value[x], converted by the unit and the scale of r and
// checked against its range.
func (r *rule) appendValue(b []byte, v *sample.Value, channel string, slots *slots) ([]byte, error) {
	var err error
	switch v.Kind {
	case sample.Number:
		b = append(b, `,"valueQuantity":`...)
		return r.appendQuantity(b, v.Num, v.Unit, channel, slots)
	case sample.Interval:
		b = append(b, `,"valueRange":{"low":`...)
		if b, err = r.appendQuantity(b, v.Num, v.Unit, channel, slots); err != nil {
			return nil, err
		}
		b = append(b, `,"high":`...)
		if b, err = r.appendQuantity(b, v.High, v.Unit, channel, slots); err != nil {
			return nil, err
		}
		return append(b, '}'), nil
	case sample.Code:
		if v.Text == "" {
			return nil, reject(sample.ReasonMissing, "the code is empty")
		}
		b = append(b, `,"valueCodeableConcept":`...)
		if concept := r.values[v.Text]; concept != nil {
			return append(b, concept...), nil
		}
		return appendConcept(b, r.system, v.Text, ""), nil
	case sample.Text:
		if strings.TrimSpace(v.Text) == "" {
			return nil, reject(sample.ReasonMissing, "the text is empty")
		}
		if r.concept {
			b = append(b, `,"valueCodeableConcept":`...)
			if concept := r.values[v.Text]; concept != nil {
				return append(b, concept...), nil
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
		return r.appendSeries(b, v.Series, channel, slots)
	}
	return b, nil
}

// appendQuantity appends a Quantity with the number in the unit of r.
func (r *rule) appendQuantity(b []byte, num, unit, channel string, slots *slots) ([]byte, error) {
	d, ok := decimal.Parse(num)
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the value is not a decimal number")
	}
	b = append(b, `{"value":`...)
	at := len(b)
	if r.units == nil { // no row: write the unit as it is, without a code
		b = d.Append(b)
		slots.addNumber(at, len(b))
		slots.converted(d, unit, decimal.Conversion{}, d, r)
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
	sent := d
	if r.zeroAbsent && d.IsZero() {
		return nil, reject(sample.DropPlaceholder, "zero means that nothing was measured")
	}
	d = c.Apply(d)
	if !r.plausible(d) {
		return nil, reject(sample.ReasonBadValue, "the value is out of range")
	}
	if d.IsJSON() {
		b = append(b, num...)
	} else {
		b = d.Append(b)
	}
	slots.addNumber(at, len(b))
	slots.converted(sent, unit, c, d, r)
	b = append(b, r.quantity...)
	return append(b, '}'), nil
}

// appendSeries appends SampledData. It rejects a conversion with an offset,
// because SampledData.factor can express only a factor.
func (r *rule) appendSeries(b []byte, s *sample.SeriesData, channel string, slots *slots) ([]byte, error) {
	if s == nil || s.Period <= 0 {
		return nil, reject(sample.ReasonBadValue, "the series has no period")
	}
	if !isSampledData(s.Data) {
		return nil, reject(sample.ReasonBadValue,
			"the data of the series is not a list of decimals, E, U or L separated by one space")
	}
	origin, ok := decimal.Parse(cmp.Or(s.Origin, "0"))
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the origin is not a number")
	}
	factor, ok := decimal.Parse(cmp.Or(s.Factor, "1"))
	if !ok {
		return nil, reject(sample.ReasonBadValue, "the factor is not a number")
	}
	if r.hasImplausiblePoint(s, channel) {
		return nil, &partError{"", &RejectError{sample.ReasonBadValue, "points of the series are out of range"}}
	}
	quantity := r.quantity
	if r.units != nil {
		c, ok := r.conversion(s.Unit, channel)
		if !ok || c.HasOffset() {
			return nil, reject(sample.ReasonBadUnit, "the row does not accept this unit")
		}
		sent := factor
		origin, factor = c.Apply(origin), c.Apply(factor)
		slots.converted(sent, s.Unit, c, factor, r)
	} else if s.Unit != "" {
		quantity = append([]byte(`,"unit":`), appendString(nil, s.Unit)...)
		quantity = append(quantity, `,`+ucumSystem+`,"code":`...)
		quantity = appendString(quantity, s.Unit)
	}
	b = append(b, `,"valueSampledData":{"origin":{"value":`...)
	b = origin.Append(b)
	b = append(b, quantity...)
	b = append(b, `},"period":`...)
	b = strconv.AppendFloat(b, float64(s.Period)/float64(time.Millisecond), 'f', -1, 64)
	if !factor.IsOne() {
		b = append(b, `,"factor":`...)
		b = factor.Append(b)
	}
	b = append(b, `,"dimensions":1,"data":`...)
	b = appendString(b, s.Data)
	return append(b, '}'), nil
}

// isSampledData reports whether s has the syntax of SampledData.data.
func isSampledData(s string) bool {
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
