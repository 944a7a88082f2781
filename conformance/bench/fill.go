package main

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"math"
	mrand "math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/store/pebblestore"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/sample"
)

// fill puts n invented but lifelike samples into the data directory of a
// server that is not running: a heart rate every 5 seconds with jitter and
// gaps, integer rates and the motion context of a watch. The patients must
// exist and have consented. It takes the whole path from decoded samples
// through mapping to durable commits, and returns how many samples were
// created and the time that took.
func fill(data string, patients []string, n int) (created int, took time.Duration, err error) {
	db, err := pebblestore.Open(filepath.Join(data, "store"), pebblestore.Options{})
	if err != nil {
		return created, 0, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	rec, err := audit.NewRecorder(audit.Options{Store: db, Clock: time.Now, Rand: rand.Reader,
		Observer: "https://fill.example"})
	if err != nil {
		return created, 0, err
	}
	consents, err := consent.New(consent.Options{Store: db, Clock: time.Now})
	if err != nil {
		return created, 0, err
	}
	defer consents.Close()
	key, err := ingest.Key(context.Background(), db, rand.Reader)
	if err != nil {
		return created, 0, err
	}
	m, err := mapping.New(mapping.Builtin(), mapping.Options{Key: key})
	if err != nil {
		return created, 0, err
	}
	p := &ingest.Pipeline{Store: db, Audit: rec, Consents: consents, Mapper: m, Clock: time.Now, SpoolDir: data,
		Limits: ingest.Limits{MaxBytes: math.MaxInt64}}
	who := &access.Principal{Operator: "fill", Grant: access.All()}
	began := time.Now()
	for i, id := range patients {
		each := n*(i+1)/len(patients) - n*i/len(patients)
		p.Adapters = []adapters.Adapter{&heart{seed: uint64(i), n: each}}
		s, err := p.Run(context.Background(), ingest.Request{Patient: id, Vendor: "apple", Format: "decoded",
			Body: io.LimitReader(strings.NewReader(id), 1<<10), Caller: audit.Caller{Principal: who}})
		if err != nil {
			return created, 0, err
		}
		created += s.Created
	}
	return created, time.Since(began), nil
}

// heart is an adapter of samples that are decoded already.
type heart struct {
	seed uint64
	n    int
}

func (*heart) Vendor() string                       { return "apple" }
func (*heart) Name() string                         { return "Apple Health" }
func (*heart) Formats() []adapters.Format           { return []adapters.Format{{Name: "decoded"}} }
func (*heart) Detect(string, []byte) (string, bool) { return "decoded", true }

// Decode makes the samples, the last of them half an hour ago at the latest.
func (h *heart) Decode(_ context.Context, _ adapters.Input, sink adapters.Sink) error {
	var rates [256]string
	for i := range rates {
		rates[i] = strconv.Itoa(i)
	}
	rnd := mrand.New(mrand.NewPCG(h.seed, 1))
	at := time.Now().Add(-time.Duration(
		float64(h.n)*5.2*1.03) * time.Second).Add(-48 * time.Hour).Truncate(time.Second).In(time.FixedZone("", 3600))
	s := sample.Sample{Metric: "HKQuantityTypeIdentifierHeartRate", Channel: "export.xml", Zone: sample.ZoneInstant,
		KeyValue: true,
		Value:    sample.Value{Kind: sample.Number, Unit: "count/min"},
		Device: sample.Device{Name: "Apple Watch", Manufacturer: "Apple Inc.", Model: "Watch",
			Hardware: "Watch6,7", Software: "11.0"},
		Source:     sample.Source{Name: "Watch", Version: "11.0"},
		Components: []sample.Component{{Name: "motionContext", Value: sample.Value{Kind: sample.Code, Text: "1"}}}}
	level := 62.0
	for range h.n {
		at = at.Add(time.Duration(4+rnd.IntN(3)) * time.Second)
		if rnd.IntN(10_000) == 0 { // off the wrist
			at = at.Add(time.Duration(rnd.IntN(3600)) * time.Second)
		}
		aim := 58.0
		switch hour := at.Hour(); {
		case hour == 18:
			aim = 140
		case hour > 6 && hour < 23:
			aim = 75
		}
		level += (aim-level)/60 + rnd.NormFloat64()
		if rnd.IntN(500) == 0 {
			s.Components[0].Value.Text = rates[rnd.IntN(3)]
		}
		s.Start, s.Value.Num = at, rates[min(max(int(level), 35), 210)]
		if err := sink.Sample(&s); err != nil {
			return err
		}
	}
	return nil
}
