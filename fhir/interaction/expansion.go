package interaction

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/fhir/terminology"
)

// expansionAnswer writes the answer of $expand.
type expansionAnswer struct {
	set           *terminology.ValueSet
	filter        string // in lower case
	offset, count int    // count is -1 if it is not given
	designations  bool
	definition    bool
	activeOnly    bool
	stored        []byte // the stored ValueSet, for includeDefinition
}

// matches reports whether a code is part of the answer: its code or one of its texts has the
// filter as a part, regardless of case. R4 leaves the kind of filter to the server.
func (x *expansionAnswer) matches(c *terminology.Code) bool {
	if x.activeOnly && c.Inactive {
		return false
	}
	has := func(s string) bool { return strings.Contains(strings.ToLower(s), x.filter) }
	if x.filter == "" || has(c.Display) || has(c.Code) {
		return true
	}
	for _, d := range c.Designation {
		if has(d.Value) {
			return true
		}
	}
	return false
}

func (x *expansionAnswer) write(codes []terminology.Code, now time.Time) ([]byte, error) {
	b, err := x.head()
	if err != nil {
		return nil, err
	}
	total := 0
	var contains []byte
	for i := range codes {
		c := &codes[i]
		if !x.matches(c) {
			continue
		}
		total++
		if total <= x.offset || x.count >= 0 && total > x.offset+x.count {
			continue
		}
		if len(contains) > 0 {
			contains = append(contains, ',')
		}
		if contains, err = x.code(contains, c); err != nil {
			return nil, err
		}
	}
	b = append(b, `"expansion":{"timestamp":"`...)
	b = now.UTC().AppendFormat(b, fhir.InstantLayout)
	b = append(b, `","total":`...)
	b = strconv.AppendInt(b, int64(total), 10)
	if x.offset > 0 || x.count >= 0 {
		b = append(b, `,"offset":`...)
		b = strconv.AppendInt(b, int64(x.offset), 10)
	}
	b = x.parameters(b)
	if len(contains) > 0 {
		b = append(append(append(b, `,"contains":[`...), contains...), ']')
	}
	return append(b, "}}"...), nil
}

// head returns the ValueSet up to its expansion.
func (x *expansionAnswer) head() ([]byte, error) {
	if x.stored != nil {
		// canonical JSON begins with resourceType, id and meta; an expansion of its own is replaced
		var members map[string]json.RawMessage
		if err := json.Unmarshal(x.stored, &members); err != nil {
			return nil, fhir.Wrap("interaction.expand", err)
		}
		delete(members, "expansion")
		b, err := json.Marshal(members)
		return append(bytes.TrimSuffix(b, []byte("}")), ','), err
	}
	b := []byte(`{"resourceType":"ValueSet",`)
	for _, m := range [][2]string{{"url", x.set.URL}, {"version", x.set.Version}, {"name", x.set.Name}, {"title", x.set.Title}} {
		if m[1] != "" {
			b = element.AppendString(append(b, `"`+m[0]+`":`...), m[1])
			b = append(b, ',')
		}
	}
	return append(b, `"status":"active",`...), nil
}

// parameters adds what the caller asked for, as far as it shaped the expansion.
func (x *expansionAnswer) parameters(b []byte) []byte {
	out := &parametersWriter{[]byte(`,"parameter":[`)}
	empty := len(out.json)
	out.text("filter", "valueString", x.filter)
	if x.count >= 0 {
		out.add("count", "valueInteger", strconv.AppendInt(nil, int64(x.count), 10))
	}
	if x.activeOnly {
		out.flag("activeOnly", true)
	}
	if x.designations {
		out.flag("includeDesignations", true)
	}
	if len(out.json) == empty {
		return b
	}
	return append(append(b, out.json...), ']')
}

func (x *expansionAnswer) code(b []byte, c *terminology.Code) ([]byte, error) {
	b = append(b, '{')
	member := func(name, value string) {
		if value != "" {
			if b[len(b)-1] != '{' {
				b = append(b, ',')
			}
			b = element.AppendString(append(b, `"`+name+`":`...), value)
		}
	}
	member("system", c.System)
	member("version", c.Version)
	member("code", c.Code)
	if c.Abstract {
		b = append(b, `,"abstract":true`...)
	}
	if c.Inactive {
		b = append(b, `,"inactive":true`...)
	}
	member("display", c.Display)
	if x.designations && len(c.Designation) > 0 {
		list, err := json.Marshal(c.Designation)
		if err != nil {
			return nil, fhir.Wrap("interaction.expand", err)
		}
		b = append(append(b, `,"designation":`...), list...)
	}
	return append(b, '}'), nil
}
