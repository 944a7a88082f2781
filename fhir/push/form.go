package push

import (
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
)

// Source is a stored Observation that is to be sent.
type Source struct {
	Resource fhir.Resource // as stored, with version and time
	Facts    *access.Facts
	Subject  string // reference to the patient at the target, such as "Patient/123"
	// Device is the Device that the Observation names, if Form.Device is set and the
	// recipient may see it.
	Device []byte
	// Revision is the number of values that this Observation had at the target before
	// and that were retracted there.
	Revision int
}

// Form converts Observations to what targets accept. The same Source and content of
// the store must give the same result.
type Form struct {
	// Create returns the body of a conditional create, and the query of If-None-Exist
	// by which the target finds what was created before. ok is false if the form
	// cannot represent the Observation, which is then not sent.
	Create func(ctx context.Context, src *Source) (body []byte, ifNoneExist string, ok bool, err error)
	// Retract returns the same resource with the status entered-in-error, and the query
	// that finds it. ok is as in Create.
	Retract func(ctx context.Context, src *Source) (body []byte, query string, ok bool, err error)
	// Device is set if the form uses Source.Device.
	Device bool
	// Updates is set if a changed Observation may be sent as an update. Otherwise the
	// only update is the one to entered-in-error.
	Updates bool
}

// stored returns the form "stored": the Observation as it is, with the patient of
// the target as its subject, an identifier that names it, and other references made
// absolute.
func stored(base string) Form {
	return Form{Updates: true,
		Create: func(_ context.Context, src *Source) ([]byte, string, bool, error) {
			body, err := sendable(base, src, "")
			return body, identityQuery(base, src.Resource.ID), true, err
		},
		Retract: func(_ context.Context, src *Source) ([]byte, string, bool, error) {
			body, err := sendable(base, src, "entered-in-error")
			return body, identityQuery(base, src.Resource.ID), true, err
		}}
}

func identityQuery(base, id string) string {
	return "identifier=" + url.QueryEscape(element.URI+"|"+identity(base, id))
}

// identity returns the identifier by which a target recognizes an Observation.
func identity(base, id string) string { return base + "/Observation/" + id }

// decodeObject decodes a JSON object without changing its numbers.
func decodeObject(body []byte) (map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	var m map[string]any
	err := dec.Decode(&m)
	return m, fhir.Wrap("push.decodeObject", err)
}

func encodeObject(m map[string]any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err := enc.Encode(m)
	return bytes.TrimSpace(b.Bytes()), fhir.Wrap("push.encodeObject", err)
}

func sendable(base string, src *Source, status string) ([]byte, error) {
	m, err := decodeObject(src.Resource.JSON)
	if err != nil {
		return nil, err
	}
	delete(m, "id")
	if meta, ok := m["meta"].(map[string]any); ok {
		for _, name := range []string{"versionId", "lastUpdated", "source"} {
			delete(meta, name)
		}
		if len(meta) == 0 {
			delete(m, "meta")
		}
	}
	absolute(m, base)
	m["subject"] = map[string]any{"reference": src.Subject}
	own, _ := m["identifier"].([]any)
	m["identifier"] = append(own[:len(own):len(own)],
		map[string]any{"system": element.URI, "value": identity(base, src.Resource.ID)})
	if status != "" {
		m["status"] = status
	}
	return encodeObject(m)
}

// absolute makes relative literal references absolute, because they mean resources
// of this server.
func absolute(v any, base string) {
	switch v := v.(type) {
	case map[string]any:
		if ref, ok := v["reference"].(string); ok {
			if _, ok := fhir.ParseRef(ref); ok {
				v["reference"] = base + "/" + ref
			}
		}
		for _, x := range v {
			absolute(x, base)
		}
	case []any:
		for _, x := range v {
			absolute(x, base)
		}
	}
}

// withID sets the id of a resource, as an update requires.
func withID(body []byte, id string) ([]byte, error) {
	m, err := decodeObject(body)
	if err != nil {
		return nil, err
	}
	m["id"] = id
	return encodeObject(m)
}

// content holds the elements of an Observation that decide what is sent.
type content struct {
	Status     string `json:"status"`
	Identifier []struct {
		Value string `json:"value"`
	} `json:"identifier"`
	Device struct {
		Reference string `json:"reference"`
	} `json:"device"`
	Code             element.CodeableConcept `json:"code"`
	Effective        string                  `json:"effectiveDateTime"`
	EffectiveInstant string                  `json:"effectiveInstant"`
}

// at returns the time of a value at an instant, or "" if there is none.
func (c *content) at() string {
	if c.Effective != "" {
		return c.Effective
	}
	return c.EffectiveInstant
}

// from reports whether the Observation came from the server at base.
func (c *content) from(base string) bool {
	for _, id := range c.Identifier {
		if strings.HasPrefix(id.Value, base+"/") {
			return true
		}
	}
	return false
}

// measuredSingly reports whether people measure the value one by one, so that two
// that follow one another closely both matter.
func (c *content) measuredSingly() bool {
	for _, code := range []string{"85354-9", "8480-6", "8462-4", "29463-7", "8302-2", "39156-5"} {
		if c.Code.Has(element.LOINC, code) {
			return true
		}
	}
	return false
}
