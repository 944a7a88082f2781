package fhirpath

import (
	"strconv"

	"github.com/cockroachdb/apd/v3"
)

// Kind is the kind of a Value: an element of a resource, or a type in System.
type Kind uint8

const (
	KindElement  Kind = iota // an element of a resource, also a primitive one, or a resource
	KindBoolean              // System.Boolean
	KindInteger              // System.Integer
	KindDecimal              // System.Decimal
	KindString               // System.String
	KindDate                 // System.Date
	KindDateTime             // System.DateTime
	KindTime                 // System.Time
	KindQuantity             // System.Quantity
	kindType                 // the result of type()
)

var systemNames = [...]string{ // read only
	KindBoolean: "Boolean", KindInteger: "Integer", KindDecimal: "Decimal", KindString: "String",
	KindDate: "Date", KindDateTime: "DateTime", KindTime: "Time", KindQuantity: "Quantity",
}

func (k Kind) String() string {
	if k == KindElement || int(k) >= len(systemNames) {
		return "element"
	}
	return systemNames[k]
}

// Value is an item of a collection. The zero Value is none.
//
// The fields hold, by kind:
//   - an element: typ, doc, the node of its value, and as shadow that of the member
//     with "_" before its name; either node may be 0. Without both, the Value stands
//     for a resource of which only the type is known.
//   - Boolean and Integer: num.
//   - Decimal: dec, or, if dec is nil, num * 10^-scale.
//   - String: text.
//   - Date, DateTime and Time: the seconds in num, the nanoseconds in node, the digits in
//     scale, and the offset in shadow; see temporal.
//   - Quantity: the value as a Decimal, the unit in text, and its kind in shadow.
//   - the result of type(): the namespace in text, the name in name.
type Value struct {
	kind         Kind
	scale        uint8
	typ          typeID
	node, shadow int32
	num          int64
	doc          *Document
	text         string
	dec          *apd.Decimal
}

// Collection is the result of an expression.
type Collection []Value

func boolean(b bool) Value {
	v := Value{kind: KindBoolean}
	if b {
		v.num = 1
	}
	return v
}

func integer(n int64) Value      { return Value{kind: KindInteger, num: n} }
func stringValue(s string) Value { return Value{kind: KindString, text: s} }

// Kinds of units of a Quantity.
const (
	unitUCUM     = iota
	unitCalendar // a unit of the calendar, such as month
	unitOther    // of another system, or only a text
)

// quantity returns the Quantity of a number and a unit.
func quantity(number Value, unit string, unitKind int32) Value {
	number.kind, number.text, number.shadow = KindQuantity, unit, unitKind
	return number
}

// String returns a System.String as a Value.
func String(s string) Value { return stringValue(s) }

// Boolean returns a System.Boolean as a Value.
func Boolean(b bool) Value { return boolean(b) }

// Integer returns a System.Integer as a Value.
func Integer(n int64) Value { return integer(n) }

// Kind returns the kind of v as it is, without a conversion.
func (v Value) Kind() Kind { return v.kind }

// Type returns the type of v, "FHIR.Patient" or "System.Boolean". For an element that
// R4 does not define it is empty.
func (v Value) Type() string {
	switch {
	case v.kind != KindElement && v.kind != kindType:
		return "System." + systemNames[v.kind]
	case v.typ == noType:
		return ""
	}
	return "FHIR." + model().types[v.typ].name
}

// IsZero reports whether v is the zero Value.
func (v Value) IsZero() bool { return v.kind == KindElement && v.typ == noType && v.doc == nil }

// Document returns the Document of an element, or nil.
func (v Value) Document() *Document { return v.doc }

// JSON returns the JSON text of an element, or "" for one without a value and for
// other values.
func (v Value) JSON() string {
	if v.kind != KindElement || v.doc == nil || v.node == 0 {
		return ""
	}
	p := &v.doc.nodes[v.node]
	if p.kind == nodeString {
		return v.doc.src[p.start-1 : p.end+1]
	}
	return v.doc.src[p.start:p.end]
}

// Pointer returns the place of an element in its Document as a JSON Pointer
// (RFC 6901), such as /name/0/given/1.
func (v Value) Pointer() string {
	if v.kind != KindElement || v.doc == nil {
		return ""
	}
	n := v.node
	if n == 0 {
		n = v.shadow
	}
	return v.doc.pointer(n)
}

func (d *Document) pointer(n int32) string {
	p := &d.nodes[n]
	if p.parent == 0 {
		return ""
	}
	if d.nodes[p.parent].kind == nodeObject {
		return d.pointer(p.parent) + "/" + escapePointer(d.key(p))
	}
	i := 0
	for c := d.nodes[p.parent].child; c != n; c = d.nodes[c].next {
		i++
	}
	return d.pointer(p.parent) + "/" + strconv.Itoa(i)
}

func escapePointer(s string) string {
	var b []byte
	for i := range len(s) {
		switch s[i] {
		case '~':
			b = append(b, "~0"...)
		case '/':
			b = append(b, "~1"...)
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

// Elements appends the elements of v that have a name in FHIRPath, such as coding or
// value, to dst.
func (v Value) Elements(dst Collection, name string) Collection {
	if v.kind != KindElement || v.doc == nil {
		return dst
	}
	if e := model().types[v.typ].elements[name]; e != nil {
		return v.member(e, dst)
	}
	return dst
}

// Text returns v as toString() does, and whether v converts to a String.
func (v Value) Text() (string, bool) {
	s := v.system()
	if s.kind == KindElement || s.kind == kindType {
		return "", false
	}
	return s.toText(), true
}

// Bool returns the value of a Boolean or of FHIR's boolean, and whether v is one.
func (v Value) Bool() (value, ok bool) {
	s := v.system()
	return s.num == 1, s.kind == KindBoolean
}

// hasValue reports whether v is a primitive with a value.
func (v Value) hasValue() bool {
	if v.kind != KindElement {
		return true
	}
	return v.node != 0 && v.doc.nodes[v.node].kind < nodeObject && v.doc.nodes[v.node].kind != nodeNull
}

// system returns v in System: a primitive element with a value and a Quantity
// become the value that they stand for. Other elements stay as they are, and so does
// a primitive with a text that is not one of its type.
func (v Value) system() Value {
	if v.kind != KindElement || v.node == 0 {
		return v
	}
	kind := model().types[v.typ].system
	p := &v.doc.nodes[v.node]
	if kind == KindElement && v.typ == noType { // by its form in JSON
		switch p.kind {
		case nodeTrue, nodeFalse:
			kind = KindBoolean
		case nodeNumber:
			kind = KindDecimal
		case nodeString:
			kind = KindString
		}
	}
	switch kind {
	case KindBoolean:
		if p.kind == nodeTrue || p.kind == nodeFalse {
			return boolean(p.kind == nodeTrue)
		}
	case KindInteger:
		if n, err := strconv.ParseInt(v.doc.src[p.start:p.end], 10, 64); p.kind == nodeNumber && err == nil {
			return integer(n)
		}
	case KindDecimal:
		if d, ok := parseDecimal(v.doc.src[p.start:p.end]); p.kind == nodeNumber && ok {
			return d
		}
	case KindQuantity:
		return v.quantity()
	case KindElement:
	default:
		if p.kind == nodeString {
			return textual(kind, v)
		}
	}
	return v
}

// textual converts a primitive that JSON has as a string.
func textual(kind Kind, v Value) Value {
	s := v.doc.text(v.node)
	switch kind {
	case KindDate:
		if t, ok := parseTemporal(s, false); ok {
			return t.value(KindDate)
		}
	case KindDateTime:
		if t, ok := parseTemporal(s, true); ok {
			return t.value(KindDateTime)
		}
	case KindTime:
		if t, ok := parseClock(s); ok {
			return t.value(KindTime)
		}
	default:
		return stringValue(s)
	}
	return v
}

// systemUCUM is the URI of UCUM as a code system.
const systemUCUM = "http://unitsofmeasure.org"

// quantity converts an element of type Quantity. Its unit is the code if the system is
// UCUM, or else the text of unit. A Quantity without a value stays as it is.
func (v Value) quantity() Value {
	d := v.doc
	n := d.member(v.node, "value")
	if n == 0 || d.nodes[n].kind != nodeNumber || d.member(v.node, "comparator") != 0 {
		return v
	}
	num, ok := parseDecimal(d.text(n))
	if !ok {
		return v
	}
	unit, unitKind := "1", int32(unitUCUM)
	system, code, name := d.member(v.node, "system"), d.member(v.node, "code"), d.member(v.node, "unit")
	switch {
	case system != 0 && code != 0 && d.text(system) == systemUCUM:
		unit = d.text(code)
	case code != 0:
		unit, unitKind = d.text(code), unitOther
	case name != 0:
		unit, unitKind = d.text(name), unitOther
	}
	return quantity(num, unit, unitKind)
}
