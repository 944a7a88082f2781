package fhirpath

import (
	"strings"
	"unicode"

	"github.com/cockroachdb/apd/v3"
)

// equalCollections compares collections item by item, in order.
func (ev *evaluation) equalCollections(x, y []Value) (logic, error) {
	if len(x) == 0 || len(y) == 0 {
		return unknown, nil
	}
	if len(x) != len(y) {
		return no, nil
	}
	result := yes
	for i := range x {
		l, err := ev.equal(x[i], y[i])
		if err != nil || l == no {
			return l, err
		}
		if l == unknown {
			result = unknown
		}
	}
	return result, nil
}

// equal compares two items. The result is unknown if precisions or units leave it open.
func (ev *evaluation) equal(x, y Value) (logic, error) {
	if err := ev.step(1); err != nil {
		return unknown, err
	}
	a, b := x.system(), y.system()
	if err := ev.cost(&a, &b); err != nil {
		return unknown, err
	}
	if a.kind == KindQuantity && b.kind == KindQuantity && x.kind == KindElement && y.kind == KindElement {
		if same, err := ev.sameTree(x, y, false); same || err != nil {
			return logical(same), err
		}
	}
	switch {
	case a.kind == KindElement && b.kind == KindElement:
		if a.typ != b.typ {
			return no, nil
		}
		same, err := ev.sameTree(a, b, false)
		return logical(same), err
	case a.kind == KindElement || b.kind == KindElement:
		return no, nil
	case a.kind == KindString && b.kind == KindString:
		return logical(a.text == b.text), nil
	case a.kind == KindBoolean && b.kind == KindBoolean:
		return logical(a.num == b.num), nil
	case a.kind == kindType && b.kind == kindType:
		return logical(a.text == b.text && a.typeName() == b.typeName()), nil
	}
	order, known, ok := compare(a, b)
	switch {
	case !ok:
		return no, nil
	case !known:
		return unknown, nil
	}
	return logical(order == 0), nil
}

func numeric(k Kind) bool { return k == KindInteger || k == KindDecimal }

// compare orders two items in System. ok is false if their kinds have no order, and
// known is false if precisions or units leave the order open.
func compare(x, y Value) (order int, known, ok bool) {
	switch {
	case numeric(x.kind) && numeric(y.kind):
		return compareNumbers(x, y), true, true
	case x.kind == KindString && y.kind == KindString:
		return strings.Compare(x.text, y.text), true, true
	case x.kind == KindTime && y.kind == KindTime,
		(x.kind == KindDate || x.kind == KindDateTime) && (y.kind == KindDate || y.kind == KindDateTime):
		order, known = compareTemporals(x.temporal(), y.temporal())
		return order, known, true
	case x.kind == KindQuantity && numeric(y.kind):
		return compare(x, quantity(y, "1", unitUCUM))
	case numeric(x.kind) && y.kind == KindQuantity:
		return compare(quantity(x, "1", unitUCUM), y)
	case x.kind == KindQuantity && y.kind == KindQuantity:
		order, known = compareQuantities(x, y)
		return order, known, true
	}
	return 0, false, false
}

// contains reports whether an item of c is equal to v.
func (ev *evaluation) contains(c []Value, v Value) (bool, error) {
	for i := range c {
		l, err := ev.equal(c[i], v)
		if err != nil || l == yes {
			return l == yes, err
		}
	}
	return false, nil
}

// hashFrom is the number of items from which distinct uses a hash table.
const hashFrom = 16

// distinct appends the items of in to dst, each once.
func (ev *evaluation) distinct(in, dst []Value) ([]Value, error) {
	if err := ev.size(in); err != nil {
		return nil, err
	}
	if len(in) <= 1 {
		return append(dst, in...), nil
	}
	start := len(dst)
	var seen map[string]bool
	if len(in) >= hashFrom && allStrings(in) {
		seen = make(map[string]bool, len(in))
	}
	for i := range in {
		if seen != nil {
			s := in[i].system().text
			if err := ev.step(len(s) / 64); err != nil {
				return nil, err
			}
			if !seen[s] {
				seen[s] = true
				dst = append(dst, in[i])
			}
			continue
		}
		found, err := ev.contains(dst[start:], in[i])
		if err != nil {
			return nil, err
		}
		if !found {
			dst = append(dst, in[i])
		}
	}
	return dst, ev.step(len(in))
}

func allStrings(in []Value) bool {
	for i := range in {
		if in[i].system().kind != KindString {
			return false
		}
	}
	return true
}

// sameTree compares two elements with all that is in them. Members may be in any
// order. If equivalent is set, strings are compared as ~ does, and arrays as sets.
func (ev *evaluation) sameTree(x, y Value, equivalent bool) (bool, error) {
	if x.doc == nil || y.doc == nil {
		return x.doc == y.doc, nil
	}
	if x.doc == y.doc && x.node == y.node && x.shadow == y.shadow {
		return true, nil
	}
	for _, n := range [2][2]int32{{x.node, y.node}, {x.shadow, y.shadow}} {
		if n[0] == 0 || n[1] == 0 {
			if n[0] != n[1] {
				return false, nil
			}
			continue
		}
		if same, err := ev.sameNodes(x.doc, n[0], y.doc, n[1], equivalent); !same || err != nil {
			return false, err
		}
	}
	return true, nil
}

func (ev *evaluation) sameNodes(dx *Document, x int32, dy *Document, y int32, equivalent bool) (bool, error) {
	if err := ev.step(1); err != nil {
		return false, err
	}
	p, q := &dx.nodes[x], &dy.nodes[y]
	if err := ev.step(int(min(p.end-p.start, q.end-q.start)) / 64); err != nil {
		return false, err
	}
	if p.kind != q.kind {
		return false, nil
	}
	switch p.kind {
	case nodeString:
		if equivalent {
			return fold(dx.text(x)) == fold(dy.text(y)), nil
		}
		return dx.text(x) == dy.text(y), nil
	case nodeNumber:
		a, okA := parseDecimal(dx.text(x))
		b, okB := parseDecimal(dy.text(y))
		if !okA || !okB {
			return dx.text(x) == dy.text(y), nil
		}
		if equivalent {
			return equivalentNumbers(a, b), nil
		}
		return compareNumbers(a, b) == 0, nil
	case nodeObject:
		return ev.sameObjects(dx, p.child, dy, y, equivalent)
	case nodeArray:
		return ev.sameArrays(dx, p.child, dy, q.child, equivalent)
	}
	return true, nil
}

func (ev *evaluation) sameObjects(dx *Document, child int32, dy *Document, y int32, equivalent bool) (bool, error) {
	n := 0
	for c := child; c != 0; c = dx.nodes[c].next {
		other := dy.member(y, dx.key(&dx.nodes[c]))
		if other == 0 {
			return false, nil
		}
		if same, err := ev.sameNodes(dx, c, dy, other, equivalent); !same || err != nil {
			return false, err
		}
		n++
	}
	for c := dy.nodes[y].child; c != 0; c = dy.nodes[c].next {
		n--
	}
	return n == 0, nil
}

func (ev *evaluation) sameArrays(dx *Document, x int32, dy *Document, y int32, equivalent bool) (bool, error) {
	if !equivalent {
		for x != 0 && y != 0 {
			if same, err := ev.sameNodes(dx, x, dy, y, false); !same || err != nil {
				return false, err
			}
			x, y = dx.nodes[x].next, dy.nodes[y].next
		}
		return x == 0 && y == 0, nil
	}
	var rest []int32
	for ; y != 0; y = dy.nodes[y].next {
		rest = append(rest, y)
	}
	for ; x != 0; x = dx.nodes[x].next {
		found := false
		for i, r := range rest {
			same, err := ev.sameNodes(dx, x, dy, r, true)
			if err != nil {
				return false, err
			}
			if found = same; found {
				rest = append(rest[:i], rest[i+1:]...)
				break
			}
		}
		if !found {
			return false, nil
		}
	}
	return len(rest) == 0, nil
}

// equivalentCollections compares collections regardless of order.
func (ev *evaluation) equivalentCollections(x, y []Value) (bool, error) {
	if len(x) != len(y) {
		return false, nil
	}
	used := make([]bool, len(y))
	for i := range x {
		found := false
		for j := range y {
			if used[j] {
				continue
			}
			same, err := ev.equivalent(x[i], y[j])
			if err != nil {
				return false, err
			}
			if same {
				found, used[j] = true, true
				break
			}
		}
		if !found {
			return false, nil
		}
	}
	return true, nil
}

func (ev *evaluation) equivalent(x, y Value) (bool, error) {
	if err := ev.step(1); err != nil {
		return false, err
	}
	a, b := x.system(), y.system()
	if err := ev.cost(&a, &b); err != nil {
		return false, err
	}
	switch {
	case a.kind == KindElement && b.kind == KindElement:
		if a.typ != b.typ {
			return false, nil
		}
		return ev.sameTree(a, b, true)
	case a.kind == KindString && b.kind == KindString:
		return fold(a.text) == fold(b.text), ev.step((len(a.text) + len(b.text)) / 16)
	case numeric(a.kind) && numeric(b.kind):
		return equivalentNumbers(a, b), nil
	case a.kind == KindQuantity && b.kind == KindQuantity:
		return equivalentQuantities(a, b), nil
	}
	l, err := ev.equal(x, y)
	return l == yes, err
}

// fold normalizes a string for ~: lower case, and runs of white space as one space.
func fold(s string) string {
	return strings.ToLower(strings.Join(strings.FieldsFunc(s, unicode.IsSpace), " "))
}

// equivalentNumbers compares numbers rounded to the precision of the less precise one.
func equivalentNumbers(x, y Value) bool {
	if x.kind == KindInteger && y.kind == KindInteger {
		return x.num == y.num
	}
	digits := min(places(x), places(y))
	return round(x.decimal(), digits).Cmp(round(y.decimal(), digits)) == 0
}

// places returns the number of decimal places without trailing zeros.
func places(v Value) int {
	var d apd.Decimal
	d.Reduce(v.decimal())
	return max(0, -int(d.Exponent))
}

// round rounds d half up to a number of decimal places.
func round(d *apd.Decimal, places int) *apd.Decimal {
	out, _ := quantize(d, places, apd.RoundHalfUp)
	return out
}
