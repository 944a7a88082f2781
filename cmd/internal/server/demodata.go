package server

import (
	"context"
	"time"

	"pulsegate/adapters"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/store"
	"pulsegate/fhir/store/pebblestore"
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

// demoDays returns the first day of the demo's data and how many days there
// are up to today. The first day is kept, so that a later start adds the days
// since then and changes nothing of those before.
func demoDays(ctx context.Context, db *pebblestore.DB, at time.Time) (start time.Time, days int, err error) {
	now := at.In(demoZone())
	today := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	kept, err := db.Get(ctx, demoStart)
	if err != nil {
		return start, 0, err
	}
	if kept == nil {
		start = today.AddDate(0, 0, 1-demoMonth)
		_, err = db.Commit(ctx, &store.Batch{State: []store.StateWrite{{Key: demoStart,
			Value: []byte(start.Format(time.RFC3339))}}})
		return start, demoMonth, err
	}
	if start, err = time.Parse(time.RFC3339, string(kept)); err != nil {
		return start, 0, fhir.Wrap("server.demoDays", err)
	}
	// The generators write one offset throughout: that of the first day.
	return start, max(1, int(today.Sub(start).Hours()+12)/24+1), nil
}

// untilNow wraps adapters so that what they read ends with the present.
func untilNow(all []adapters.Adapter, now time.Time) []adapters.Adapter {
	out := make([]adapters.Adapter, len(all))
	for i, a := range all {
		out[i] = ending{a, now}
	}
	return out
}

type ending struct {
	adapters.Adapter
	now time.Time
}

func (e ending) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	return e.Adapter.Decode(ctx, in, endingSink{sink, e.now})
}

type endingSink struct {
	adapters.Sink
	now time.Time
}

func (e endingSink) Sample(s *sample.Sample) error {
	if s.Start.After(e.now) || s.End.After(e.now) {
		return nil
	}
	return e.Sink.Sample(s)
}

// DemoToken issues another token of the demo's client.
func (o operator) DemoToken(ctx context.Context, op admin.Operator) (admin.DemoToken, error) {
	if !o.config.Demo {
		return admin.DemoToken{}, admin.Advise(fhir.Errorf(fhir.Forbidden, "demo token", "this server is not a demo"),
			"get a token of your own client with `pulsegate client token`, or serve a demo with `pulsegate serve --demo`")
	}
	t, err := o.oauth.tokens.Issue(ctx, demoClient, demoScope, demoTokenLife, op.Name)
	if err != nil {
		return admin.DemoToken{}, err
	}
	return admin.DemoToken{Token: t.Access, Seconds: int(demoTokenLife / time.Second), Scope: demoScope}, nil
}

// ServerInfo tells how clients reach this server.
func (o operator) ServerInfo(ctx context.Context, op admin.Operator) (admin.ServerInfo, error) {
	return admin.ServerInfo{BaseURL: o.base, Version: o.version}, o.record(ctx, o.request(op), "server info", "")
}
