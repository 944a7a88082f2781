package server

import (
	"context"
	"strconv"
	"time"

	"pulsegate/adapters"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/push"
	"pulsegate/fhir/store"
	"pulsegate/mapping/uscore"
	"pulsegate/mapping/uscore/forms"
	"pulsegate/smart/backend"
	"pulsegate/smart/client"
	"pulsegate/smart/proof/keys"
)

// newPush starts sending to targets. The assertions for their token endpoints are
// signed with the keys at keys.AssertionPath.
func newPush(ctx context.Context, env environment, db database, rec *audit.Recorder, grants clientGrants,
	ring *keys.Ring, all []adapters.Adapter) (*push.Engine, error) {
	http := env.client(10*time.Second, 64<<10)
	return push.New(ctx, push.Options{Store: db, Audit: rec, Clock: env.now, Base: env.fhirBase(), Policy: env.egress,
		GrantFor: grants.registered, Roles: env.roles, Logger: env.log,
		Forms: map[string]push.Form{formUSCore: usCore(env.fhirBase(), vendorsOf(all))},
		TokensFor: func(t push.Target) (push.Tokens, error) {
			return backend.New(backend.Config{Base: t.Base, ClientID: t.ClientID, Scope: t.Scope, TokenURL: t.TokenURL},
				backend.Options{HTTP: http, Sign: ring.SignAssertion, Clock: env.now, NewID: fhir.RandomID})
		}})
}

const (
	// targetScope is requested at a target if the operator names no scope.
	targetScope = "system/Observation.crus"
	// matchScope is requested in addition where patients are matched by an identifier.
	matchScope = " system/Patient.rs"
	// receiverScope is the scope of the clients that stand for targets.
	receiverScope = "system/Observation.rs system/Device.rs system/Patient.rs"
)

// instantOf parses a date or an instant; an empty text is the zero time.
func instantOf(flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, nil
		}
	}
	return time.Time{}, fhir.Errorf(fhir.Invalid, "server.instantOf",
		"--%s: must be a date like 2026-01-31 or a time like 2026-01-31T08:00:00Z", flag)
}

// AddTarget adds a target, and unless the operator names another client as the
// recipient, registers a receiver with the target's name, in one commit.
func (ops operations) AddTarget(ctx context.Context, op admin.Operator, in admin.NewTarget) (admin.AddedTarget, error) {
	since, err := instantOf("since", in.Since)
	if err != nil {
		return admin.AddedTarget{}, err
	}
	t := push.Target{Name: in.Name, Base: in.URL, ClientID: in.ClientID, Scope: scopeText(in.Scope),
		TokenURL: in.TokenURL, Recipient: in.Recipient, Form: in.Form, Categories: in.Categories, Codes: in.Codes,
		Every: time.Duration(in.Every) * time.Second, PatientSystem: in.PatientSystem, Batch: in.Batch}
	if t.Form == "" {
		t.Form = push.FormStored
	}
	if t.Scope == "" {
		if t.Scope = targetScope; t.PatientSystem != "" {
			t.Scope += matchScope
		}
	}
	var writes []store.StateWrite
	if t.Recipient == "" {
		t.Recipient = t.Name
		w, err := ops.receiver(ctx, t.Name)
		if err != nil {
			return admin.AddedTarget{}, err
		}
		writes = append(writes, w)
	} else if _, err := ops.clients.Get(ctx, t.Recipient); err != nil {
		return admin.AddedTarget{}, admin.Advise(err, "see the clients with `pulsegate client list`")
	}
	t, err = ops.followers.push.Add(ctx, t, since, ops.targetCommit(op, "target add",
		[][2]string{{"target", in.Name}, {"recipient", t.Recipient}}, writes...))
	return admin.AddedTarget{Name: t.Name, Recipient: t.Recipient, JWKSURL: ops.base + keys.AssertionPath}, err
}

// receiver returns the write that registers the client of a target, or that enables
// the one of an earlier target of the same name.
func (ops operations) receiver(ctx context.Context, name string) (store.StateWrite, error) {
	if !fhir.ValidID(name) {
		return store.StateWrite{}, fhir.Errorf(fhir.Invalid, "target add",
			"name: must have 1 to 64 letters, digits, - and .")
	}
	old, err := ops.clients.Get(ctx, name)
	switch {
	case fhir.KindOf(err) == fhir.NotFound:
		_, w, err := ops.clients.Prepare(client.Client{ID: name, Name: name, Method: client.Receiver,
			Scope: receiverScope})
		return w, err
	case err != nil:
		return store.StateWrite{}, err
	case old.Method != client.Receiver || !old.Disabled:
		return store.StateWrite{}, fhir.Errorf(fhir.Conflict, "target add",
			"name: there is a client with this id; choose another name, or name the client with --recipient")
	}
	_, w, err := ops.clients.PrepareChange(ctx, name, func(c *client.Client) error { c.Disabled = false; return nil })
	return w, err
}

// targetCommit returns the push.Commit of a command. It commits more together with
// the command's own writes.
func (ops operations) targetCommit(op admin.Operator, command string, extra [][2]string,
	more ...store.StateWrite) push.Commit {
	return func(ctx context.Context, ws ...store.StateWrite) error {
		return ops.commit(ctx, op, command, extra, append(ws, more...)...)
	}
}

// ListTargets describes all targets.
func (ops operations) ListTargets(ctx context.Context, op admin.Operator) (admin.Targets, error) {
	all, err := ops.followers.push.List(ctx)
	if err != nil {
		return admin.Targets{}, err
	}
	return admin.Targets{Targets: all}, ops.record(ctx, ops.request(op), "target list", "")
}

// ShowTarget describes a target with the patients and Observations that do not get on.
func (ops operations) ShowTarget(ctx context.Context, op admin.Operator, name string) (push.Details, error) {
	d, err := ops.followers.push.Show(ctx, name)
	if err != nil {
		return d, err
	}
	var patients []string
	for _, u := range d.Unmatched {
		patients = append(patients, u.Patient)
	}
	for _, a := range d.Asides {
		patients = append(patients, a.Patient)
	}
	return d, ops.recordAll(ctx, ops.request(op), "target show", patients)
}

// PauseTarget stops sending to a target.
func (ops operations) PauseTarget(ctx context.Context, op admin.Operator,
	in admin.TargetName) (admin.TargetName, error) {
	return in, ops.followers.push.Pause(ctx, in.Name, ops.targetCommit(op, "target pause",
		[][2]string{{"target", in.Name}}))
}

// ResumeTarget sends to a target again.
func (ops operations) ResumeTarget(ctx context.Context, op admin.Operator,
	in admin.ResumeTarget) (admin.TargetName, error) {
	since, err := instantOf("since", in.Since)
	if err != nil {
		return admin.TargetName{}, err
	}
	return admin.TargetName{Name: in.Name}, ops.followers.push.Resume(ctx, in.Name, since,
		ops.targetCommit(op, "target resume", [][2]string{{"target", in.Name}}))
}

// RetryTarget sends again what was set aside.
func (ops operations) RetryTarget(ctx context.Context, op admin.Operator,
	in admin.TargetName) (admin.RetriedTarget, error) {
	n, err := ops.followers.push.Retry(ctx, in.Name, ops.targetCommit(op, "target retry",
		[][2]string{{"target", in.Name}}))
	return admin.RetriedTarget{Queued: n}, err
}

// RemoveTarget removes a target and disables the receiver that was registered for it.
func (ops operations) RemoveTarget(ctx context.Context, op admin.Operator,
	in admin.TargetName) (admin.TargetName, error) {
	var writes []store.StateWrite
	c, err := ops.clients.Get(ctx, in.Name)
	if err != nil && fhir.KindOf(err) != fhir.NotFound {
		return in, err
	}
	if err == nil && c.Method == client.Receiver {
		w, err := ops.clients.PrepareDisable(ctx, in.Name)
		if err != nil {
			return in, err
		}
		writes = append(writes, w)
	}
	extra := [][2]string{{"target", in.Name}, {"receiver-disabled", strconv.FormatBool(len(writes) > 0)}}
	return in, ops.followers.push.Remove(ctx, in.Name, ops.targetCommit(op, "target remove", extra, writes...))
}

var _ admin.TargetOperations = operations{}

// formUSCore is the name of the form of the vital signs of US Core.
const formUSCore = interaction.DefaultForm

// usCore returns the form of the vital signs of US Core, of which the only update is the
// one to entered-in-error.
func usCore(base string, vendors map[string]forms.Vendor) push.Form {
	source := func(src *push.Source) *uscore.Source {
		v := vendors[src.Facts.Vendor]
		return &uscore.Source{Observation: src.Resource.JSON, Device: src.Device, Vendor: src.Facts.Vendor,
			VendorName: v.Name, VendorURL: v.URL, PatientRef: src.Subject, Base: base, Revision: src.Revision}
	}
	return push.Form{Device: true,
		Create: func(_ context.Context, src *push.Source) ([]byte, string, bool, error) {
			return uscore.VitalSign(source(src))
		},
		Retract: func(_ context.Context, src *push.Source) ([]byte, string, bool, error) {
			return uscore.EnteredInError(source(src), "")
		}}
}
