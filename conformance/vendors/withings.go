package main

import (
	"encoding/json"
	"fmt"
	"time"
)

// withingsAnswer counts the groups of measures, nights and days of an answer.
func (t *tally) withingsAnswer(o object) {
	body, _ := o["body"].(object)
	for _, v := range items(body, "measuregrps", "series", "activities") {
		t.items++
		it, _ := v.(object)
		t.note(ruleFields, max(withingsParts(it), 1)-1)
	}
}

// withingsParts returns how many Observations an item becomes, or 0 if it is left out or
// rejected as a whole.
func withingsParts(it object) int {
	whole := func(name string) bool { _, ok := it[name].(json.Number); return ok }
	n := 0
	_, noDay := time.Parse(time.DateOnly, fmt.Sprint(it["date"]))
	switch data, _ := it["data"].(object); {
	case it["measures"] != nil:
		if !whole("grpid") || !whole("date") || fmt.Sprint(it["category"]) == "2" || fmt.Sprint(it["attrib"]) == "1" {
			return 0
		}
		pressure := 0
		for _, m := range items(it, "measures") {
			if typ := fmt.Sprint(inner(m, "type")); typ == "9" || typ == "10" {
				pressure = 1
			} else {
				n++
			}
		}
		return n + pressure
	case it["startdate"] != nil:
		if !whole("id") || fmt.Sprint(it["startdate"]) >= fmt.Sprint(it["enddate"]) {
			return 0
		}
		if has(data, "total_sleep_time", "lightsleepduration", "deepsleepduration", "remsleepduration") {
			n++
		}
		return n + present(data, "hr_average", "hr_min", "rr_average", "sleep_score")
	case fmt.Sprint(it["brand"]) == "18" || noDay != nil:
		return 0
	}
	if _, ok := it["soft"].(json.Number); ok {
		n++
	}
	return n + present(it, "steps", "distance", "elevation", "calories", "totalcalories")
}
