package preferred

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
)

// buckets calls $time-buckets and returns the start, the count and the sum of each bucket.
func (w *world) buckets(g *access.Grant, code string, more ...interaction.Parameter) string {
	w.t.Helper()
	ps := append([]interaction.Parameter{{Name: "subject", Value: "Patient/p1"}, {Name: "coding", Value: code},
		{Name: "statistic", Value: "count,sum"}}, more...)
	page, err := w.service.TimeBuckets(w.t.Context(), &interaction.Request{Caller: audit.Caller{
		Principal: &access.Principal{ClientID: "ehr", Operator: "uid:0", Grant: g}}}, ps)
	if err != nil {
		w.t.Fatal(err)
	}
	var out struct {
		Entry []struct {
			Resource struct {
				EffectivePeriod struct{ Start string }
				Component       []struct {
					ValueQuantity struct{ Value json.Number }
				}
			}
		}
	}
	if err := json.Unmarshal(page.Bytes(), &out); err != nil {
		w.t.Fatal(err)
	}
	var list []string
	for _, e := range out.Entry {
		c := e.Resource.Component
		list = append(list, fmt.Sprint(e.Resource.EffectivePeriod.Start, " ", c[0].ValueQuantity.Value, " ",
			c[1].ValueQuantity.Value))
	}
	return strings.Join(list, ", ")
}

// TestPreferredBuckets tests that the buckets have the measurements of the preferred source
// only, and that the value of a day is one of its date, whatever the zone. A client from whom
// the preferred source is hidden gets the other one.
func TestPreferredBuckets(t *testing.T) {
	w := newWorld(t)
	w.deliver("apple", steps("apple", phone, noon, 900), steps("apple", phone, noon.Add(time.Hour), 100))
	w.deliver("fitbit", steps("fitbit", tracker, noon, 1000), steps("fitbit", tracker, noon.Add(2*time.Hour), 234))
	day := noon.Format(time.DateOnly)
	utc := noon.UTC().Truncate(time.Hour)
	hour := func(after time.Duration) string { return utc.Add(after).Format("2006-01-02T15:04:05.000Z") }
	hours := interaction.Parameter{Name: "minutes", Value: "60"}
	days := interaction.Parameter{Name: "calendar", Value: "day"}
	zone := interaction.Parameter{Name: "zone", Value: "Pacific/Kiritimati"}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	check("all", w.buckets(access.All(), stepsOfInterval, hours),
		hour(0)+" 2 1900, "+hour(time.Hour)+" 1 100, "+hour(2*time.Hour)+" 1 234")
	check("preferred", w.buckets(access.All(), stepsOfInterval, hours, viaPreferred),
		hour(0)+" 1 1000, "+hour(2*time.Hour)+" 1 234")
	check("day", w.buckets(access.All(), stepsOfDay, days, zone, viaPreferred), day+"T00:00:00.000+14:00 1 1234")
	check("day by the hour", w.buckets(access.All(), stepsOfDay, hours, viaPreferred), "")
	w.consents.denied = map[string]bool{"fitbit": true}
	check("hidden source", w.buckets(w.client(), stepsOfInterval, hours, viaPreferred),
		hour(0)+" 1 900, "+hour(time.Hour)+" 1 100")
}
