package apple

import (
	"slices"

	"github.com/valyala/fastjson"
)

// Members of items by the type that they must have. Numbers and the members that an item
// needs are checked where they are read.
var (
	haeTexts = []string{"id", "end", "endDate", "inBedEnd", "sleepEnd", "location", "units", "kind", "severity",
		"status", "form", "dosage", "classification", "sleepSource", "mealTime", "reason", "value", "context",
		"motionContext"}
	haeLists = []string{"labels", "associations"}
	haeBools = []string{"userEntered", "isIndoor"}
)

// wrongMember returns the name of the first member of an item that has a wrong type, or "".
func wrongMember(metric string, v *fastjson.Value) (wrong string) {
	v.GetObject().Visit(func(key []byte, x *fastjson.Value) {
		name, typ := string(key), x.Type()
		switch {
		case wrong != "" || typ == fastjson.TypeNull:
		case slices.Contains(haeTexts, name):
			if typ == fastjson.TypeObject || typ == fastjson.TypeArray {
				wrong = name
			}
		case slices.Contains(haeBools, name):
			if typ != fastjson.TypeTrue && typ != fastjson.TypeFalse {
				wrong = name
			}
		case slices.Contains(haeLists, name):
			if !allTexts(x) {
				wrong = name
			}
		case haeWorkoutNumbers[name] != "" || name == "elevation":
			if typ != fastjson.TypeObject {
				wrong = name
			} else if inner := wrongMember(metric, x); inner != "" {
				wrong = name + "." + inner
			}
		case name == "heartRate":
			wrong = wrongRates(metric, x)
		}
	})
	return wrong
}

// allTexts reports whether v is a list of texts.
func allTexts(v *fastjson.Value) bool {
	list, err := v.Array()
	for _, x := range list {
		if x.Type() != fastjson.TypeString {
			return false
		}
	}
	return err == nil
}

// wrongRates checks the heart rates of a notification, a list of objects, and of a
// workout, an object of them.
func wrongRates(metric string, v *fastjson.Value) string {
	const name = "heartRate"
	var all []*fastjson.Value
	switch {
	case v.Type() == fastjson.TypeArray:
		all = v.GetArray()
	case v.Type() == fastjson.TypeObject && metric == typeWorkout:
		for _, key := range []string{"min", "avg", "max"} {
			if x := v.Get(key); x != nil && x.Type() != fastjson.TypeNull {
				all = append(all, x)
			}
		}
	default:
		return name
	}
	for _, x := range all {
		if x.Type() != fastjson.TypeObject || wrongMember(metric, x) != "" {
			return name
		}
	}
	return ""
}
