package listing_test

import (
	"strings"
	"testing"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/adaptertest"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/adapters/internal/listing"
	"pulsegate/mapping/sample"
)

// spec has a list next to its facts and a member that must be "ok".
var spec = listing.Spec{Format: "api",
	Check: func(name string, n *jsonitem.Node) string {
		if name == "state" && n.String() != "ok" {
			return "the state is not ok"
		}
		return ""
	},
	Lists: map[string]func(*listing.Item) error{"days": func(it *listing.Item) error {
		if !it.OnDay(it.Node.Get("day"), it.Fact("zone")) {
			return it.Reject(sample.ReasonBadTime, "days", "", "day is not a day")
		}
		return it.Panel(it.Node, "days", listing.Field{Name: "total", Unit: "s"}, listing.Field{Name: "part", Unit: "s"})
	}},
}

// TestDecode checks rules, positions, facts, and values of wrong types.
func TestDecode(t *testing.T) {
	for _, c := range []struct {
		body, rule              string
		samples, rejects, drops int
	}{
		{`{"days":[{"day":"2026-01-05","total":7,"part":1}]}`, "", 1, 0, 0},
		{`{"days":[{"day":"2026-01-05","total":7}]} {"days":[]}`, "", 1, 0, 0},
		{`{"days":[{"day":"2026-01-05","total":"x","part":1}]}`, "", 1, 1, 0},
		{`{"days":[{"day":"2026-01-05","total":7,"part":[]}]}`, "", 1, 1, 0},
		{`{"days":[{"day":"2026-01-05"}]}`, "", 0, 0, 1},
		{`{"days":[7,null,"x",{"day":7}]}`, "", 0, 4, 0},
		{`{"days":[],"more":{"days":[{}]},"state":"ok"}`, "", 0, 0, 0},
		{`{"state":"bad","days":[]}`, "the state is not ok", 0, 0, 0},
		{`{"days":{}}`, "no known list", 0, 0, 0}, {`{}`, "no known list", 0, 0, 0}, {` `, "the body is empty", 0, 0, 0},
		{`[]`, "", 0, 0, 0}, {`{"days":[`, "", 0, 0, 0},
	} {
		rec := adaptertest.NewRecorder()
		err := spec.Decode(t.Context(), adapters.Input{Body: strings.NewReader(c.body),
			Received: adaptertest.Received()}, rec)
		broken := c.rule != "" || c.body == "[]" || strings.HasSuffix(c.body, "[")
		if (err != nil) != broken || err != nil && !strings.Contains(err.Error(), c.rule) {
			t.Errorf("%s: %v, want %q", c.body, err, c.rule)
		}
		if len(rec.Samples) != c.samples || len(rec.Rejects) != c.rejects || len(rec.Drops) != c.drops {
			t.Errorf("%s: %d samples, %d rejects, drops %v", c.body, len(rec.Samples), len(rec.Rejects), rec.Drops)
		}
	}
	if err := spec.Decode(t.Context(), adapters.Input{Format: "other"}, nil); err != adapters.ErrUnknownFormat {
		t.Error(err)
	}
}

// TestPreliminary checks that the zone of the wearer decides whether a day is over.
func TestPreliminary(t *testing.T) {
	for zone, want := range map[string]sample.Status{"Pacific/Auckland": sample.Final,
		"America/New_York": sample.Preliminary, "Local": sample.Final} {
		rec := adaptertest.NewRecorder()
		err := spec.Decode(t.Context(), adapters.Input{Received: time.Date(2026, 1, 6, 2, 0, 0, 0, time.UTC),
			Body: strings.NewReader(`{"zone":"` + zone + `","days":[{"day":"2026-01-05","total":1}]}`)}, rec)
		if err != nil || len(rec.Samples) != 1 || rec.Samples[0].Status != want {
			t.Errorf("%s: %v, %+v", zone, err, rec.Samples)
		}
	}
}
