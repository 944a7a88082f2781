package subscription

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"pulsegate/fhir"
)

// setStatus returns the bytes of a Subscription with another status and another
// Subscription.error. An empty reason removes Subscription.error. All other bytes
// are unchanged.
func setStatus(body []byte, status, reason string) ([]byte, error) {
	out, err := setMember(body, "status", status)
	if err != nil {
		return nil, err
	}
	return setMember(out, "error", reason)
}

// withoutFilters returns the bytes of a Subscription without some of the extensions of
// criteria, given by their indexes in ascending order.
func withoutFilters(body []byte, dropped []int) ([]byte, error) {
	const op = "subscription.withoutFilters"
	var w struct {
		Criteria json.RawMessage `json:"_criteria"`
	}
	if err := json.Unmarshal(body, &w); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var c struct{ Extension []json.RawMessage }
	if err := json.Unmarshal(w.Criteria, &c); err != nil {
		return nil, fhir.Wrap(op, err)
	}
	var kept [][]byte
	for i, x := range c.Extension {
		if !slices.Contains(dropped, i) {
			kept = append(kept, x)
		}
	}
	criteria, err := setRaw(w.Criteria, "extension", concat([]byte("["), bytes.Join(kept, []byte(",")), []byte("]")))
	if err != nil {
		return nil, err
	}
	return setRaw(body, "_criteria", criteria)
}

// setMember sets a string member of the top level. It adds an absent member at
// the end and removes the member if value is empty.
func setMember(body []byte, name, value string) ([]byte, error) {
	if value == "" {
		return setRaw(body, name, nil)
	}
	quoted, err := json.Marshal(value)
	if err != nil {
		return nil, fhir.Wrap("subscription.setMember", err)
	}
	return setRaw(body, name, quoted)
}

// setRaw is setMember for a value of any type, or nil.
func setRaw(body []byte, name string, quoted []byte) ([]byte, error) {
	const op = "subscription.setMember"
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fhir.Wrap(op, errors.New("not an object"))
	}
	end := int(d.InputOffset()) // after the brace or the previous value
	for d.More() {
		start := end
		k, err := d.Token()
		if err != nil {
			return nil, fhir.Wrap(op, err)
		}
		var v json.RawMessage
		if err := d.Decode(&v); err != nil {
			return nil, fhir.Wrap(op, err)
		}
		valueEnd := int(d.InputOffset())
		if k == name {
			if quoted == nil {
				// The first member is always resourceType, so the bytes between
				// start and the name contain a comma, which goes with the member.
				return concat(body[:start], body[valueEnd:]), nil
			}
			return concat(body[:valueEnd-len(v)], quoted, body[valueEnd:]), nil
		}
		end = valueEnd
	}
	if quoted == nil {
		return body, nil
	}
	return concat(body[:end], []byte(`,"`+name+`":`), quoted, body[end:]), nil
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// unstamp removes the version and time that the store inserted (fhir.Stamp), so
// that the resource can be written again.
func unstamp(r *fhir.Resource) ([]byte, error) {
	head := fhir.Stamp([]byte(fhir.Prefix(r.Type, r.ID)+"}"), r.Type, r.ID, r.Version, r.LastUpdated)
	rest, ok := bytes.CutPrefix(r.JSON, head[:len(head)-1])
	if !ok {
		return nil, fhir.Wrap("subscription.unstamp", errors.New("the stored bytes have no version stamp"))
	}
	rest, _ = bytes.CutPrefix(rest, []byte(","))
	return append([]byte(fhir.Prefix(r.Type, r.ID)), rest...), nil
}
