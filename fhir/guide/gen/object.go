package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
)

// object is a JSON object that keeps the order of its members.
type object []member

type member struct {
	name  string
	value json.RawMessage // compact
}

// UnmarshalJSON implements json.Unmarshaler.
func (o *object) UnmarshalJSON(b []byte) error {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return errors.Join(err, errors.New("want an object"))
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, _ := t.(string)
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return err
		}
		var compact bytes.Buffer
		if err := json.Compact(&compact, value); err != nil {
			return err
		}
		*o = append(*o, member{name, compact.Bytes()})
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	b := []byte{'{'}
	for i, m := range o {
		if i > 0 {
			b = append(b, ',')
		}
		name, err := json.Marshal(m.name)
		if err != nil {
			return nil, err
		}
		b = append(append(append(b, name...), ':'), m.value...)
	}
	return append(b, '}'), nil
}

func (o object) clone() object { return slices.Clone(o) }

func (o *object) remove(name string) {
	*o = slices.DeleteFunc(*o, func(m member) bool { return m.name == name })
}

// text returns the value of a string member, or "".
func (o object) text(name string) string {
	var s string
	for _, m := range o {
		if m.name == name && json.Unmarshal(m.value, &s) != nil {
			return ""
		}
	}
	return s
}

// renamed returns a copy with another id.
func (o object) renamed(id string) object {
	out := o.clone()
	for i := range out {
		if out[i].name == "id" {
			out[i].value, _ = json.Marshal(id) // a string cannot fail
		}
	}
	return out
}
