package search

import (
	"cmp"
	"strings"
)

// Key returns the value by which a resource is sorted: its least value for
// ascending order, its greatest for descending order. The second result is false
// if it has no value; such resources come last in either order.
func Key(typ string, v *Values, s SortKey) (Value, bool) { return (*Registry)(nil).Key(typ, v, s) }

// Key is like the function Key, for the parameters of r.
func (r *Registry) Key(typ string, v *Values, s SortKey) (Value, bool) {
	p, ok := r.Lookup(typ, s.Param)
	if !ok {
		return Value{}, false
	}
	var best Value
	found := false
	for i := range v.ByParam[s.Param] {
		k, ok := sortValue(p.Type, &v.ByParam[s.Param][i])
		if !ok {
			continue
		}
		if c := Compare(k, best); !found || s.Desc && c > 0 || !s.Desc && c < 0 {
			best, found = k, true
		}
	}
	return best, found
}

// sortValue returns the part of v that determines the order.
func sortValue(k ParamType, v *Value) (Value, bool) {
	if v.Unvalued {
		return Value{}, false
	}
	switch k {
	case TypeDate:
		return Value{Lo: v.Lo}, true
	case TypeQuantity, TypeNumber:
		return Value{Num: v.Num}, true
	case TypeString:
		return Value{Code: v.Text}, true
	case TypeReference:
		if v.RefType != "" {
			return Value{Code: v.RefType + "/" + v.RefID}, true
		}
	}
	return Value{Code: v.Code, System: v.System}, v.Code != ""
}

// Compare orders two values that Key returned.
func Compare(a, b Value) int {
	if c := cmp.Compare(a.Lo, b.Lo); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Num, b.Num); c != 0 {
		return c
	}
	if c := strings.Compare(a.Code, b.Code); c != 0 {
		return c
	}
	return strings.Compare(a.System, b.System)
}

// CompareValues compares two resources of one type by _sort. If it returns 0, the
// store orders them by id.
func CompareValues(typ string, sort []SortKey, a, b *Values) int {
	for _, s := range sort {
		x, okX := Key(typ, a, s)
		y, okY := Key(typ, b, s)
		switch {
		case !okX && !okY:
			continue
		case !okX:
			return 1
		case !okY:
			return -1
		}
		if c := Compare(x, y); c != 0 {
			if s.Desc {
				return -c
			}
			return c
		}
	}
	return 0
}
