package search

import (
	"context"
	"strings"

	"github.com/valyala/fastjson"

	"pulsegate/fhir/fhirpath"
)

// evaluate adds the values of the parameters that have an Expression, for a selection or
// for all parameters if s is nil. An expression that fails on the resource, also because
// it exceeds the limits of fhir/fhirpath, has no value.
func (w *extraction) evaluate(t *typeIndex, s *Selection, json []byte) {
	var doc *fhirpath.Document
	for _, slot := range t.expressions {
		p := t.params[slot]
		if s != nil && !s.wanted(p.Code) {
			continue
		}
		if doc == nil {
			var err error
			if doc, err = fhirpath.Parse(json); err != nil {
				return
			}
		}
		items, err := p.Expression.Evaluate(context.Background(), doc.Root(), nil, nil)
		if err != nil {
			continue
		}
		if p.Type == typeParts {
			w.elements(slot, p, doc.Root(), items)
			continue
		}
		for _, item := range items {
			w.item(slot, p.Type, item)
		}
	}
}

// item adds the values of one item of the result of an expression.
func (w *extraction) item(slot int, typ ParamType, item fhirpath.Value) {
	name, element := strings.CutPrefix(item.Type(), "FHIR.")
	if !element {
		w.plain(slot, typ, item)
		return
	}
	text := item.JSON()
	if text == "" {
		return
	}
	var parser fastjson.Parser
	v, err := parser.Parse(text)
	if err != nil {
		return
	}
	if rt := v.GetStringBytes("resourceType"); rt != nil && typ == TypeReference { // Bundle.entry.resource
		x := Value{RefType: string(rt), RefID: string(v.GetStringBytes("id"))}
		if x.RefID == "" {
			x = Value{Unvalued: true}
		}
		w.add(slot, x)
		return
	}
	w.leaf(&leaf{slot: slot, typ: typ, path: &Path{Type: name}}, v)
}

// plain adds the value of an item that is not an element, such as a Boolean.
func (w *extraction) plain(slot int, typ ParamType, item fhirpath.Value) {
	text, ok := item.Text()
	if !ok || text == "" {
		return
	}
	x := Value{Code: text}
	switch typ {
	case TypeToken, TypeURI:
	case TypeString:
		x.Text = Fold(text)
	case TypeDate:
		d, ok := parseInstant(strings.TrimPrefix(text, "@"))
		if !ok {
			return
		}
		x = d.value()
	case TypeNumber, TypeQuantity:
		num, ok := parseNumber(text)
		if !ok {
			return
		}
		x = Value{Num: num.num, NumLo: num.lo, NumHi: num.hi}
	default:
		return
	}
	w.add(slot, x)
}
