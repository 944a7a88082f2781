package main

import (
	"maps"
	"slices"
)

// Rules of the counts of Oura's documents.
const (
	ruleFields  = "fields of a document that are Observations of their own"
	ruleRetract = "parts of a night that the vendor has deleted"
)

// ouraFields lists the fields of a document by type that become Observations of their
// own. A document becomes one, or as many as it has of these fields.
var ouraFields = map[string][]string{
	"daily_activity": {"steps", "total_calories", "active_calories", "equivalent_walking_distance", "score", "met",
		"class_5_min"},
	"daily_readiness": {"score", "temperature_deviation", "temperature_trend_deviation"},
	"daily_spo2":      {"spo2_percentage", "breathing_disturbance_index"},
	"personal_info":   {"weight", "height"},
}

// ouraParts lists the fields of a document that become Observations in addition to that
// of the document.
var ouraParts = map[string][]string{
	"sleep":   {"average_hrv", "average_heart_rate", "lowest_heart_rate", "average_breath", "heart_rate", "hrv"},
	"session": {"heart_rate", "heart_rate_variability"},
}

// activityTimes lists the fields of a day of activity that together are one Observation.
var activityTimes = []string{"high_activity_time", "medium_activity_time", "low_activity_time", "sedentary_time",
	"resting_time", "non_wear_time", "inactivity_alerts", "average_met_minutes", "high_activity_met_minutes",
	"medium_activity_met_minutes", "low_activity_met_minutes", "sedentary_met_minutes"}

// ouraBody counts a document, a list reply, or an object of list replies and
// documents by type.
func (t *tally) ouraBody(o object) {
	if _, reply := o["data"]; reply {
		t.ouraReply(o, "")
		return
	}
	if !slices.ContainsFunc(slices.Collect(maps.Values(o)), func(v any) bool { return inner(v, "data") != nil }) {
		t.ouraDocument(o, "")
		return
	}
	for typ, v := range o {
		switch reply, ok := v.(object); {
		case ok && reply["data"] != nil:
			t.ouraReply(reply, typ)
		case ok:
			t.ouraDocument(reply, typ)
		}
	}
}

// ouraReply counts the documents of a list reply.
func (t *tally) ouraReply(o object, typ string) {
	for _, v := range listOf(o["data"]) {
		doc, _ := v.(object)
		t.ouraDocument(doc, typ)
	}
}

// ouraDocument counts one document. Without a type, the fields tell it.
func (t *tally) ouraDocument(doc object, typ string) {
	t.items++
	for _, known := range []struct{ typ, field string }{{"sleep", "bedtime_start"},
		{"daily_activity", "equivalent_walking_distance"}, {"daily_readiness", "temperature_trend_deviation"},
		{"daily_spo2", "spo2_percentage"}, {"session", "mood"}, {"personal_info", "biological_sex"}} {
		if _, ok := doc[known.field]; ok && typ == "" {
			typ = known.typ
		}
	}
	if fields := ouraFields[typ]; fields != nil {
		n := present(doc, fields...)
		if typ == "daily_activity" && has(doc, activityTimes...) {
			n++
		}
		t.note(ruleFields, max(n, 1)-1)
	}
	if kind := doc["type"]; typ == "sleep" && (kind == "deleted" || kind == "rest") {
		t.note(ruleRetract, len(ouraParts[typ]))
		return
	}
	t.note(ruleFields, present(doc, ouraParts[typ]...))
}
