package server

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// ListPatients lists all Patients and records an AuditEvent for each of them.
func (ops operations) ListPatients(ctx context.Context, op admin.Operator) (admin.Patients, error) {
	out := admin.Patients{Patients: []admin.Patient{}}
	err := ops.each(ctx, "Patient", nil, func(r fhir.Resource) {
		out.Patients = append(out.Patients, patientInfo(r))
	})
	if err != nil {
		return out, err
	}
	var ids []string
	for _, p := range out.Patients {
		ids = append(ids, p.ID)
	}
	return out, ops.recordAll(ctx, ops.request(op), "patient list", ids)
}

// ShowPatient returns a Patient with its Consents and Devices.
func (ops operations) ShowPatient(ctx context.Context, op admin.Operator, id string) (admin.PatientDetails, error) {
	out := admin.PatientDetails{Consents: []admin.Consent{}, Devices: []admin.Device{}}
	if err := ops.havePatient(ctx, id); err != nil {
		return out, err
	}
	r, _, err := ops.store.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0)
	if err != nil {
		return out, err
	}
	out.Patient = patientInfo(r)
	if err := ops.each(ctx, "Consent", [][2]string{{"patient", id}}, func(r fhir.Resource) {
		out.Consents = append(out.Consents, consentInfo(r))
	}); err != nil {
		return out, err
	}
	if err := ops.each(ctx, "Device", [][2]string{{"patient", id}}, func(r fhir.Resource) {
		out.Devices = append(out.Devices, deviceInfo(r))
	}); err != nil {
		return out, err
	}
	return out, ops.record(ctx, ops.request(op), "patient show", id)
}

// each calls fn for the current resources of type typ that match params.
func (ops operations) each(ctx context.Context, typ string, params [][2]string, fn func(fhir.Resource)) error {
	q, err := search.Parse(typ, params, search.ParseOptions{Base: ops.fhirBase()})
	if err != nil {
		return err
	}
	return ops.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			fn(f.Resource)
			return true
		})
}

func patientInfo(r fhir.Resource) admin.Patient {
	var p struct {
		Name []struct {
			Text, Family string
			Given        []string
		}
		BirthDate, Gender string
	}
	out := admin.Patient{ID: r.ID, TimeZone: timezone(r.JSON)}
	if json.Unmarshal(r.JSON, &p) != nil {
		return out
	}
	out.BirthDate, out.Gender = p.BirthDate, p.Gender
	for _, n := range p.Name {
		if out.Name = n.Text; out.Name == "" {
			out.Name = strings.TrimSpace(strings.Join(n.Given, " ") + " " + n.Family)
		}
		if out.Name != "" {
			break
		}
	}
	return out
}

func deviceInfo(r fhir.Resource) admin.Device {
	var d struct {
		Status     string
		DeviceName []struct{ Name string }
	}
	out := admin.Device{ID: r.ID}
	if json.Unmarshal(r.JSON, &d) != nil {
		return out
	}
	out.Status = d.Status
	if len(d.DeviceName) > 0 {
		out.Name = d.DeviceName[0].Name
	}
	return out
}

// recordAll records an AuditEvent for each patient about whom a command disclosed
// data, or one without a patient if there are none.
func (ops operations) recordAll(ctx context.Context, rq *interaction.Request, command string, patients []string) error {
	slices.Sort(patients)
	patients = slices.Compact(patients)
	if len(patients) == 0 {
		return ops.record(ctx, rq, command, "")
	}
	events := make([]audit.Event, len(patients))
	for i, id := range patients {
		events[i] = commandEvent(rq, command, id)
	}
	return ops.audit.recorder.Record(ctx, events...)
}
