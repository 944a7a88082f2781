package googlehealth

import "strings"

// Scopes of the API.
const (
	scopePrefix   = "https://www.googleapis.com/auth/googlehealth."
	cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"
)

// Groups of scopes. The suffixes ".readonly" and ".writeonly" complete them.
const (
	activity     = "activity_and_fitness"
	metrics      = "health_metrics_and_measurements"
	sleepGroup   = "sleep"
	ecgGroup     = "ecg"
	irnGroup     = "irn"
	nutrition    = "nutrition"
	location     = "location"
	profileGroup = "profile"
	settings     = "settings"
	symptoms     = "logged_symptoms"
	mindfulness  = "mindfulness"
	reproductive = "reproductive_health"
)

// scopeGroups lists the groups in the order of the consent page.
var scopeGroups = []string{activity, metrics, sleepGroup, ecgGroup, irnGroup, nutrition, location, profileGroup,
	settings, symptoms, mindfulness, reproductive}

// readScope returns the read scope of a group.
func readScope(group string) string { return scopePrefix + group + ".readonly" }

func isHealthScope(s string) bool { return strings.HasPrefix(s, scopePrefix) }

// knownScope reports whether a consent may ask for s. The documents name
// nutrition.readonly, which the discovery revision of 2026-10-30 lacks; the
// simulator offers it.
func knownScope(s string) bool {
	name, ok := strings.CutPrefix(s, scopePrefix)
	if !ok {
		return s == "openid" || s == "email" || s == "profile" ||
			strings.HasPrefix(s, "https://www.googleapis.com/auth/userinfo.")
	}
	group, access, _ := strings.Cut(name, ".")
	if access == "writeonly" && (group == ecgGroup || group == irnGroup || group == location) {
		return false
	}
	for _, g := range scopeGroups {
		if g == group {
			return access == "readonly" || access == "writeonly"
		}
	}
	return false
}

// kind is the time that the points of a type have. It decides the members that a
// filter may use.
type kind uint8

const (
	interval kind = iota
	sampled
	daily
	session
)

// operations is a set of the methods of dataPoints.
type operations uint8

const (
	opList operations = 1 << iota
	opReconcile
	opRollUp
	opDailyRollUp
	opGet
)

const (
	opRead    = opList | opReconcile
	opRollups = opRollUp | opDailyRollUp
)

// dataType describes one type of the API.
type dataType struct {
	name    string // daily-resting-heart-rate
	kind    kind
	ops     operations
	group   string // group of the scope
	webhook bool
	bulk    bool   // changes arrive with every sync of the device
	rollup  string // member of a roll-up; the member of the type if empty
}

// member returns the name of the type's JSON member: dailyRestingHeartRate.
func (t *dataType) member() string { return camel(t.name) }

// snake returns the name of the type in filters: daily_resting_heart_rate.
func (t *dataType) snake() string { return strings.ReplaceAll(t.name, "-", "_") }

// rollupMember returns the JSON member of the type's roll-ups.
func (t *dataType) rollupMember() string {
	if t.rollup != "" {
		return t.rollup
	}
	return t.member()
}

// rangeDays returns the longest range of a roll-up, in days, which is also the
// largest page of a daily roll-up.
func (t *dataType) rangeDays() int {
	switch t.name {
	case "calories-in-heart-rate-zone", "heart-rate", "active-minutes", "total-calories":
		return 14
	}
	return 90
}

// pageLimits returns the default and the largest page size of list and
// reconcile. Heart rates were seen to answer 50 points when the size is unset,
// against the documented 1440.
func (t *dataType) pageLimits() (preset, most int) {
	switch t.name {
	case "exercise", "sleep":
		return 25, 25
	case "heart-rate":
		return 50, 10_000
	}
	return 1440, 10_000
}

// camel turns daily-vo2-max into dailyVo2Max.
func camel(s string) string {
	parts := strings.Split(s, "-")
	for i := 1; i < len(parts); i++ {
		parts[i] = strings.ToUpper(parts[i][:1]) + parts[i][1:]
	}
	return strings.Join(parts, "")
}

// allTypes lists the types of the discovery document, revision 20261030. It is never
// modified.
var allTypes = typeTable()

// dataTypes finds the types by name. It is never modified.
var dataTypes = byName(allTypes)

func byName(types []*dataType) map[string]*dataType {
	out := map[string]*dataType{}
	for _, t := range types {
		out[t.name] = t
	}
	return out
}

func typeTable() (out []*dataType) {
	all := opRead | opRollups
	for _, t := range []dataType{
		{name: "active-energy-burned", ops: all, group: activity, bulk: true},
		{name: "active-minutes", ops: all, group: activity, bulk: true},
		{name: "active-zone-minutes", ops: all, group: activity, webhook: true, bulk: true},
		{name: "activity-level", ops: opRead, group: activity, webhook: true, bulk: true},
		{name: "altitude", ops: all, group: activity, webhook: true, bulk: true},
		{name: "basal-energy-burned", ops: opRead, group: activity},
		{name: "calories-in-heart-rate-zone", ops: opRollups, group: activity, webhook: true, bulk: true},
		{name: "daily-vo2-max", kind: daily, ops: opRead, group: activity},
		{name: "distance", ops: all, group: activity, webhook: true, bulk: true},
		{name: "exercise", kind: session, ops: opRead | opGet, group: activity, webhook: true},
		{name: "floors", ops: opReconcile | opRollups, group: activity, webhook: true, bulk: true},
		{name: "run-vo2-max", kind: sampled, ops: all, group: activity, webhook: true},
		{name: "sedentary-period", ops: all, group: activity, webhook: true, bulk: true},
		{name: "steps", ops: all, group: activity, webhook: true, bulk: true},
		{name: "swim-lengths-data", ops: all, group: activity, bulk: true},
		{name: "time-in-heart-rate-zone", ops: all, group: activity, webhook: true, bulk: true},
		{name: "total-calories", ops: opRollups, group: activity, webhook: true, bulk: true},
		{name: "vo2-max", kind: sampled, ops: opRead, group: activity},

		{name: "blood-glucose", kind: sampled, ops: all | opGet, group: metrics, webhook: true, bulk: true},
		{name: "body-fat", kind: sampled, ops: all | opGet, group: metrics, webhook: true},
		{name: "core-body-temperature", kind: sampled, ops: all | opGet, group: metrics},
		{name: "daily-heart-rate-variability", kind: daily, ops: opRead | opDailyRollUp, group: metrics, webhook: true,
			rollup: "heartRateVariabilityPersonalRange"},
		{name: "daily-heart-rate-zones", kind: daily, ops: opRead, group: metrics, webhook: true},
		{name: "daily-oxygen-saturation", kind: daily, ops: opRead, group: metrics, webhook: true},
		{name: "daily-respiratory-rate", kind: daily, ops: opRead, group: metrics, webhook: true},
		{name: "daily-resting-heart-rate", kind: daily, ops: opRead | opDailyRollUp, group: metrics, webhook: true,
			rollup: "restingHeartRatePersonalRange"},
		{name: "daily-sleep-temperature-derivations", kind: daily, ops: opRead, group: metrics, webhook: true},
		{name: "heart-rate", kind: sampled, ops: all, group: metrics, webhook: true, bulk: true},
		{name: "heart-rate-variability", kind: sampled, ops: opRead, group: metrics, webhook: true, bulk: true},
		{name: "height", kind: sampled, ops: opRead | opGet, group: metrics, webhook: true},
		{name: "oxygen-saturation", kind: sampled, ops: opRead, group: metrics, bulk: true},
		{name: "respiratory-rate-sleep-summary", kind: sampled, ops: opRead, group: metrics, webhook: true},
		{name: "weight", kind: sampled, ops: all | opGet, group: metrics, webhook: true},

		{name: "sleep", kind: session, ops: opRead | opGet, group: sleepGroup, webhook: true},
		{name: "electrocardiogram", kind: session, ops: opList | opGet, group: ecgGroup},
		{name: "irregular-rhythm-notification", kind: session, ops: opList | opGet, group: irnGroup},

		{name: "hydration-log", kind: session, ops: all | opGet, group: nutrition, webhook: true},
		{name: "nutrition-log", kind: session, ops: all | opGet, group: nutrition, webhook: true},
		{name: "food", kind: session, ops: opList | opGet, group: nutrition},
		{name: "food-measurement-unit", kind: session, ops: opList | opGet, group: nutrition},
		{name: "symptoms", kind: sampled, ops: opList | opGet, group: symptoms},
		{name: "moods", kind: sampled, ops: opList | opGet, group: mindfulness},
		{name: "menstrual-period", ops: opList | opGet, group: reproductive},
		{name: "ovulation-test", kind: sampled, ops: opList | opGet, group: reproductive},
	} {
		out = append(out, &t)
	}
	return out
}
