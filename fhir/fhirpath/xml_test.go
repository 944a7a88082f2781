package fhirpath

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"strings"
	"testing"
)

// jsonOfXML converts a resource in XML to JSON.
func jsonOfXML(t testing.TB, data []byte) []byte {
	t.Helper()
	dec := xml.NewDecoder(bytes.NewReader(data))
	for {
		tok, err := dec.Token()
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := tok.(xml.StartElement); ok {
			x := xmlReader{dec: dec, data: data}
			v, err := x.resource(start)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
	}
}

type xmlReader struct {
	dec  *xml.Decoder
	data []byte
}

func (x *xmlReader) resource(start xml.StartElement) (map[string]any, error) {
	id := model().resourceType(start.Name.Local)
	if id == noType {
		return nil, fmt.Errorf("no resource type %s", start.Name.Local)
	}
	v, err := x.complex(id)
	if err == nil {
		v["resourceType"] = start.Name.Local
	}
	return v, err
}

// complex reads the content of an element up to its end.
func (x *xmlReader) complex(typ typeID) (map[string]any, error) {
	out := map[string]any{}
	for {
		offset := x.dec.InputOffset()
		tok, err := x.dec.Token()
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.EndElement:
			return out, nil
		case xml.StartElement:
			if err := x.child(out, typ, tok, offset); err != nil {
				return nil, err
			}
		}
	}
}

func (x *xmlReader) child(out map[string]any, typ typeID, start xml.StartElement, offset int64) error {
	name := start.Name.Local
	m, ok := model().types[typ].members[name]
	if !ok {
		return fmt.Errorf("%s has no member %s", model().types[typ].name, name)
	}
	if m.typ == model().xhtml {
		if err := x.dec.Skip(); err != nil {
			return err
		}
		div := string(bytes.TrimSpace(x.data[offset:x.dec.InputOffset()]))
		out[name] = strings.NewReplacer("\r\n", "\n", "&quot;", `"`).Replace(div)
		return nil
	}
	var value, shadow any
	var err error
	switch {
	case m.typ == model().resource:
		value, err = x.contained()
	case model().primitive(m.typ):
		value, shadow, err = x.primitive(m.typ, start)
	default:
		var v map[string]any
		v, err = x.complex(m.typ)
		addAttributes(v, start)
		value = v
	}
	if err != nil {
		return err
	}
	if !m.element.many {
		if value != nil {
			out[name] = value
		}
		if shadow != nil {
			out["_"+name] = shadow
		}
		return nil
	}
	list, _ := out[name].([]any)
	out[name] = append(list, value)
	shadows, _ := out["_"+name].([]any)
	for shadow != nil && len(shadows) < len(list) {
		shadows = append(shadows, nil)
	}
	if shadow != nil {
		out["_"+name] = append(shadows, shadow)
	}
	return nil
}

func addAttributes(v map[string]any, start xml.StartElement) {
	for _, a := range start.Attr {
		if a.Name.Local == "id" || a.Name.Local == "url" {
			v[a.Name.Local] = a.Value
		}
	}
}

func (x *xmlReader) contained() (map[string]any, error) {
	var out map[string]any
	for {
		tok, err := x.dec.Token()
		if err != nil {
			return nil, err
		}
		switch tok := tok.(type) {
		case xml.EndElement:
			return out, nil
		case xml.StartElement:
			if out, err = x.resource(tok); err != nil {
				return nil, err
			}
		}
	}
}

func (x *xmlReader) primitive(typ typeID, start xml.StartElement) (value, shadow any, err error) {
	rest, err := x.complex(typ)
	if err != nil {
		return nil, nil, err
	}
	for _, a := range start.Attr {
		switch a.Name.Local {
		case "id":
			rest["id"] = a.Value
		case "value":
			switch model().types[typ].system {
			case KindBoolean, KindInteger, KindDecimal:
				value = json.RawMessage(a.Value)
			default:
				value = a.Value
			}
		}
	}
	if len(rest) > 0 {
		shadow = rest
	}
	return value, shadow, nil
}
