package server

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"time"

	"pulsegate/adapters"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/element"
	"pulsegate/mapping"
	"pulsegate/mapping/ingest"
	"pulsegate/mapping/table"
)

// newPipeline returns the pipeline that turns vendor payloads into resources.
func newPipeline(ctx context.Context, env environment, db database, rec *audit.Recorder,
	consents *consent.Engine, all []adapters.Adapter) (*ingest.Pipeline, error) {
	key, err := ingest.Key(ctx, db, rand.Reader)
	if err != nil {
		return nil, err
	}
	packs, err := env.config.Packs()
	if err != nil {
		return nil, err
	}
	mapper, err := mapping.New(table.Builtin(), mapping.Options{SeriesFrom: env.config.SeriesFrom, Key: key,
		Packs: packs})
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if !mapper.HasTable(a.Vendor()) {
			return nil, fhir.Errorf(fhir.Internal, "server.newPipeline", "the metric table has no file %s.yaml",
				a.Vendor())
		}
	}
	p := &ingest.Pipeline{Store: db, Audit: rec, Consents: consents, Mapper: mapper, Adapters: all,
		Clock: env.now, Zone: func(ctx context.Context, patient string) (*time.Location, error) {
			return zoneOf(ctx, db, patient)
		}, SpoolDir: env.config.Data,
		Limits: ingest.Limits{MaxBytes: env.config.MaxIngestBytes}, Logger: env.log}
	return p, p.RecordPacks(ctx)
}

// withAdapters returns a pipeline that differs from p in its adapters.
func withAdapters(p *ingest.Pipeline, all []adapters.Adapter) *ingest.Pipeline {
	return &ingest.Pipeline{Store: p.Store, Audit: p.Audit, Consents: p.Consents, Mapper: p.Mapper, Adapters: all,
		Clock: p.Clock, Zone: p.Zone, SpoolDir: p.SpoolDir, Limits: p.Limits, Logger: p.Logger}
}

// timezoneURL is the standard extension for the time zone of a patient.
const timezoneURL = element.StructureDefinition + "timezone"

// zoneOf returns the time zone that the Patient resource names, or nil. An
// unknown name counts as none, so that the rules for payloads without a zone
// apply.
func zoneOf(ctx context.Context, db database, patient string) (*time.Location, error) {
	r, _, err := db.Read(ctx, fhir.Ref{Type: "Patient", ID: patient}, 0)
	if err != nil || r.Deleted {
		return nil, err
	}
	name := timezone(r.JSON)
	if name == "" {
		return nil, nil
	}
	if l, err := time.LoadLocation(name); err == nil {
		return l, nil
	}
	return nil, nil
}

// timezone returns the value of a Patient's timezone extension, or "".
func timezone(patient []byte) string {
	var p struct {
		Extension []struct {
			URL       string `json:"url"`
			ValueCode string `json:"valueCode"`
		} `json:"extension"`
	}
	if err := json.Unmarshal(patient, &p); err != nil {
		return ""
	}
	for _, e := range p.Extension {
		if e.URL == timezoneURL {
			return e.ValueCode
		}
	}
	return ""
}
