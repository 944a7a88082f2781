package subscription

import (
	"bytes"
	"encoding/json"
	"errors"

	"pulsegate/fhir"
)

// setStatus returns the bytes of a Subscription with another status, and with
// Subscription.error set ("" takes it out). Everything else stays as it was
// written.
func setStatus(body []byte, status, reason string) ([]byte, error) {
	out, err := setMember(body, "status", status)
	if err != nil {
		return nil, err
	}
	return setMember(out, "error", reason)
}

// setMember sets a string member of the top level, adding it at the end when
// absent; "" removes it.
func setMember(body []byte, name, value string) ([]byte, error) {
	const op = "subscription.setMember"
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fhir.Wrap(op, errors.New("not an object"))
	}
	quoted, err := json.Marshal(value)
	if err != nil {
		return nil, fhir.Wrap(op, err)
	}
	end := int(d.InputOffset()) // behind the brace, or behind the last value
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
			if value == "" {
				// The first member is always resourceType, so a comma stands
				// before this one, within start and the name.
				return concat(body[:start], body[valueEnd:]), nil
			}
			return concat(body[:valueEnd-len(v)], quoted, body[valueEnd:]), nil
		}
		end = valueEnd
	}
	if value == "" {
		return body, nil
	}
	return concat(body[:end], []byte(`,"`+name+`":`), quoted, body[end:]), nil
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// unstamp takes the store's version facts out of stored bytes, so that they
// can be written again.
func unstamp(r *fhir.Resource) ([]byte, error) {
	head := fhir.Stamp([]byte(fhir.Prefix(r.Type, r.ID)+"}"), r.Type, r.ID, r.Version, r.LastUpdated)
	rest, ok := bytes.CutPrefix(r.JSON, head[:len(head)-1])
	if !ok {
		return nil, fhir.Wrap("subscription.unstamp", errors.New("stored bytes without their stamp"))
	}
	rest, _ = bytes.CutPrefix(rest, []byte(","))
	return append([]byte(fhir.Prefix(r.Type, r.ID)), rest...), nil
}
