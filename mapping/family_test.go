package mapping_test

import (
	"maps"
	"testing"

	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
)

// TestTypesOf checks which metrics belong to types, and which of their values.
func TestTypesOf(t *testing.T) {
	type member = mapping.Membership
	m := mappingtest.Mapper(t)
	both := func(typ string) member { return member{Type: typ, Days: true, Times: true} }
	for _, c := range []struct {
		vendor string
		types  []string
		want   map[string]member
	}{
		{"oura", []string{"daily_spo2"}, map[string]member{"daily_spo2.spo2_percentage": both("daily_spo2"),
			"daily_spo2.breathing_disturbance_index": both("daily_spo2")}},
		{"oura", []string{"vO2_max", "unheard_of"}, map[string]member{"vO2_max": both("vO2_max")}},
		{"oura", []string{"daily"}, map[string]member{}},
		{"acme", []string{"sleep"}, map[string]member{}},
		{"fitbit", []string{"steps"}, map[string]member{"steps": both("steps")}},
		{"fitbit", []string{"steps/day"}, map[string]member{"steps/day": {Type: "steps/day", Days: true}}},
		{"fitbit", []string{"sedentary-period"}, map[string]member{"sedentary-period": {Type: "sedentary-period"}}},
		{"fitbit", []string{"sedentary-period/day"},
			map[string]member{"sedentary-period": {Type: "sedentary-period/day", Days: true}}},
		{"fitbit", []string{"sedentary-period", "sedentary-period/rollup"},
			map[string]member{"sedentary-period": {Type: "sedentary-period", Times: true}}},
		{"apple", []string{"HKQuantityTypeIdentifierHeartRate"},
			map[string]member{"HKQuantityTypeIdentifierHeartRate": both("HKQuantityTypeIdentifierHeartRate")}},
	} {
		if got := m.TypesOf(c.vendor, c.types); !maps.Equal(got, c.want) {
			t.Errorf("%s %v: %v, want %v", c.vendor, c.types, got, c.want)
		}
	}
	if got := m.ObjectTypesOf("fitbit", []string{"sedentary-period"}); len(got) != 1 ||
		got["sedentary-period"] != both("sedentary-period") {
		t.Errorf("%v", got)
	}
	if all := m.ObjectTypesOf("oura", nil); all["sleep.average_hrv"] != both("sleep") || len(all) < 30 {
		t.Errorf("%v", all)
	}
}
