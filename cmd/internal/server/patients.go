package server

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"pulsegate/adapters/vendors"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// AddPatient creates a Patient by the create or update interaction, which validate
// and record it.
func (ops operations) AddPatient(ctx context.Context, op admin.Operator, in admin.NewPatient) (admin.ID, error) {
	if in.ID != "" && !fhir.ValidID(in.ID) {
		return admin.ID{}, fhir.Errorf(fhir.Invalid, "patient add",
			"--id: must be 1 to 64 letters, digits, hyphens or periods")
	}
	if in.TimeZone != "" {
		if _, err := time.LoadLocation(in.TimeZone); err != nil {
			return admin.ID{}, fhir.Errorf(fhir.Invalid, "patient add",
				"--timezone: must be an IANA time zone such as Europe/Berlin")
		}
	}
	p := map[string]any{
		"resourceType": "Patient",
		"name":         []any{map[string]any{"family": in.Family, "given": []string{in.Given}}},
	}
	if in.ID != "" {
		p["id"] = in.ID
	}
	if in.BirthDate != "" {
		p["birthDate"] = in.BirthDate
	}
	if in.Gender != "" {
		p["gender"] = in.Gender
	}
	if in.TimeZone != "" {
		p["extension"] = []any{map[string]any{"url": timezoneURL, "valueCode": in.TimeZone}}
	}
	body, err := json.Marshal(p)
	if err != nil {
		return admin.ID{}, fhir.Wrap("patient add", err)
	}
	if in.ID != "" {
		if _, _, err := ops.store.Read(ctx, fhir.Ref{Type: "Patient", ID: in.ID},
			0); fhir.KindOf(err) != fhir.NotFound {
			if err != nil {
				return admin.ID{}, err
			}
			return admin.ID{}, fhir.Errorf(fhir.Conflict, "patient add", "Patient/%s exists already", in.ID)
		}
	}
	if in.ID == "" {
		id, err := ops.put(ctx, ops.request(op), "Patient", "", body)
		return admin.ID{ID: id}, err
	}
	absent, err := interaction.ParseTags("*")
	if err != nil {
		return admin.ID{}, err
	}
	_, err = ops.fhir.Update(ctx, ops.request(op), fhir.Ref{Type: "Patient", ID: in.ID}, body,
		interaction.Preconditions{IfNoneMatch: absent})
	if err != nil && fhir.KindOf(err) == fhir.PreconditionFailed { // it was added meanwhile
		return admin.ID{}, fhir.Errorf(fhir.Conflict, "patient add", "Patient/%s exists already", in.ID)
	}
	return admin.ID{ID: in.ID}, err
}

// havePatient returns an error if the patient does not exist.
func (ops operations) havePatient(ctx context.Context, id string) error {
	r, _, err := ops.store.Read(ctx, fhir.Ref{Type: "Patient", ID: id}, 0)
	if fhir.KindOf(err) == fhir.NotFound && err != nil || err == nil && r.Deleted {
		return admin.Advise(fhir.Errorf(fhir.NotFound, "operator", "no such patient"),
			"see the patients with `pulsegate patient list`, or add one with `pulsegate patient add`")
	}
	return err
}

// knownVendor returns an error if there is no adapter for the vendor.
func (ops operations) knownVendor(v string) error {
	for _, a := range ops.adapters {
		if a.Vendor() == v {
			return nil
		}
	}
	return fhir.Errorf(fhir.Invalid, "operator", "--vendor: must be one of %s", vendors.Codes())
}

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
