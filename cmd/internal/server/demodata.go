package server

import (
	"context"
	"time"

	"pulsegate/adapters"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/mapping/sample"
)

// demoZone returns the time zone of the invented wearers.
func demoZone() *time.Location {
	l, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		return time.UTC // the binary embeds the zones
	}
	return l
}

// demoDays returns the first day of the demo's data and the number of days up to
// and including today. The store keeps the first day, so that a later start adds
// days and leaves the earlier ones unchanged.
func demoDays(ctx context.Context, db database, at time.Time) (start time.Time, days int, err error) {
	now := at.In(demoZone())
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	stored, err := db.Get(ctx, demoStart)
	if err != nil {
		return start, 0, err
	}
	if stored == nil {
		start = today.AddDate(0, 0, 1-demoMonth)
		_, err = db.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: demoStart,
			Value: []byte(start.Format(time.RFC3339))}}})
		return start, demoMonth, err
	}
	if start, err = time.Parse(time.RFC3339, string(stored)); err != nil {
		return start, 0, fhir.Wrap("server.demoDays", err)
	}
	// The generators write the UTC offset of the first day throughout.
	return start, max(1, int(today.Sub(start).Hours()+12)/24+1), nil
}

// untilNow wraps adapters so that they omit samples after now.
func untilNow(all []adapters.Adapter, now time.Time) []adapters.Adapter {
	out := make([]adapters.Adapter, len(all))
	for i, a := range all {
		out[i] = limitedAdapter{a, now}
	}
	return out
}

type limitedAdapter struct {
	adapters.Adapter
	now time.Time
}

func (a limitedAdapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	return a.Adapter.Decode(ctx, in, limitedSink{sink, a.now})
}

type limitedSink struct {
	adapters.Sink
	now time.Time
}

func (l limitedSink) Sample(s *sample.Sample) error {
	if s.Start.After(l.now) || s.End.After(l.now) {
		return nil
	}
	return l.Sink.Sample(s)
}

// DemoToken issues another token for the demo's client.
func (ops operations) DemoToken(ctx context.Context, op admin.Operator) (admin.DemoToken, error) {
	if !ops.config.Demo {
		return admin.DemoToken{}, admin.Advise(fhir.Errorf(fhir.Forbidden, "demo token", "this server is not a demo"),
			"get a token of your own client with `pulsegate client token`, or serve a demo with `pulsegate serve --demo`")
	}
	t, err := ops.oauth.tokens.Issue(ctx, demoClient, demoScope, demoTokenLife, op.Name)
	if err != nil {
		return admin.DemoToken{}, err
	}
	return admin.DemoToken{Token: t.Access, Seconds: int(demoTokenLife / time.Second), Scope: demoScope}, nil
}

// ServerInfo returns the base URL and version of the server.
func (ops operations) ServerInfo(ctx context.Context, op admin.Operator) (admin.ServerInfo, error) {
	return admin.ServerInfo{BaseURL: ops.base, Version: ops.version},
		ops.record(ctx, ops.request(op), "server info", "")
}
