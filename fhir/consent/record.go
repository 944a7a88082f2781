package consent

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// reserved are the beginnings of ids of Consents that the patient's pages
// make: what a person allowed an app, and what a patient refuses one. If a
// client wrote one first, the pages would take it for theirs.
var reserved = []string{AppPrefix, StopPrefix}

// Beginnings of the ids of Consents that the patient's pages make.
const (
	AppPrefix  = "app-"  // and the id of the authorization
	StopPrefix = "stop-" // and a digest of patient and client
)

// Check holds a client's write of a Consent to what a client may record (see
// the package comment). It implements interaction.Check.
func (e *Engine) Check(ctx context.Context, p *access.Principal, next, old *fhir.Resource) (*fhir.Resource, error) {
	const op = "consent.Check"
	if p == nil || p.Grant == nil {
		return nil, fhir.Errorf(fhir.Forbidden, op, "nobody may write this Consent")
	}
	if p.Grant.AllPatients {
		return next, nil // the operator
	}
	if p.ClientID == "" || !p.Grant.RecordsConsent {
		return nil, fhir.Errorf(fhir.Forbidden, op, "this client is not registered to record Consents")
	}
	if old != nil {
		if err := e.mayReplace(ctx, p.ClientID, old); err != nil {
			return nil, err
		}
	}
	if next == nil {
		return nil, nil
	}
	patient, err := subjectOf(next)
	if err != nil {
		return nil, err
	}
	if old != nil {
		if before, err := subjectOf(old); err != nil || before != patient {
			return nil, fhir.Errorf(fhir.Forbidden, op, "Consent.patient cannot be changed")
		}
	} else if slices.ContainsFunc(reserved, func(s string) bool { return strings.HasPrefix(next.ID, s) }) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "ids of Consents that begin with %q or %q are the server's own",
			AppPrefix, StopPrefix)
	}
	return next, e.mayRecord(ctx, p.ClientID, patient, next)
}

// mayReplace refuses the update and the removal of what a client has no say
// in.
func (e *Engine) mayReplace(ctx context.Context, client string, old *fhir.Resource) error {
	const op = "consent.Check"
	_, facts, err := e.opts.Store.Read(ctx, old.Ref(), 0)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if facts == nil || facts.Author == "" || facts.Author != client {
		return fhir.Errorf(fhir.Forbidden, op,
			"this Consent was recorded by the patient, the operator or another client; only they may change it")
	}
	patient, err := subjectOf(old)
	if err != nil {
		return err
	}
	switch c, is := compile(old.ID, patient, old.JSON); {
	case is == withdrawn:
		return fhir.Errorf(fhir.Forbidden, op,
			"a withdrawn Consent stays as it is; what is agreed anew is a new Consent, of the patient's pages or the operator")
	case is == active && c.root.denies():
		return fhir.Errorf(fhir.Forbidden, op,
			"this Consent denies something; only the patient's pages and the operator end a denial")
	}
	return nil
}

// mayRecord holds the new form to what the patient said before.
func (e *Engine) mayRecord(ctx context.Context, client, patient string, next *fhir.Resource) error {
	const op = "consent.Check"
	c, is := compile(next.ID, patient, next.JSON)
	if is == ignored {
		return nil // a draft, say
	}
	b, err := e.book(ctx, patient)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if len(b.ids) >= e.opts.Limit/2 {
		return fhir.Errorf(fhir.Forbidden, op,
			"this patient has %d Consents that count; a client may not add to more than %d", len(b.ids), e.opts.Limit/2)
	}
	if namesAuthorization(&c.root) || mentions(next.JSON, AuthorizationSystem) {
		return fhir.Errorf(fhir.Forbidden, op,
			"Consent.provision.actor: what a person allows an app is recorded by the server, when the person allows it")
	}
	if is != active || !c.root.permits() {
		return nil
	}
	if len(b.withdrawn) > 0 {
		return fhir.Errorf(fhir.Forbidden, op,
			"this patient has withdrawn a Consent; since then only the patient's own pages and the operator open anything")
	}
	q := ask{now: e.opts.Clock().UnixMilli(), recipient: client}
	for _, x := range b.all {
		if x.author == "" && x.root.refuses(&q) {
			return fhir.Errorf(fhir.Forbidden, op, "this patient has stopped this client; it records no permission")
		}
	}
	return nil
}

// refuses reports whether the root of r is a denial that names who asks.
func (r *rule) refuses(q *ask) bool {
	return !r.permit && q.now >= r.from && q.now < r.to && slices.Contains(r.recipients, q.recipient)
}

func namesAuthorization(r *rule) bool {
	return slices.ContainsFunc(r.recipients, func(s string) bool { return strings.HasPrefix(s, authorizedBy) }) ||
		slices.ContainsFunc(r.nested, func(n rule) bool { return namesAuthorization(&n) })
}

// mentions reports whether text stands in a body in which characters may be
// escaped.
func mentions(body []byte, text string) bool {
	var v any
	return json.Unmarshal(body, &v) != nil || holds(v, text)
}

func holds(v any, text string) bool {
	switch x := v.(type) {
	case string:
		return x == text
	case []any:
		return slices.ContainsFunc(x, func(y any) bool { return holds(y, text) })
	case map[string]any:
		for _, y := range x {
			if holds(y, text) {
				return true
			}
		}
	}
	return false
}

// subjectOf is the id of the Patient whose Consent r is.
func subjectOf(r *fhir.Resource) (string, error) {
	var d document
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return "", fhir.Errorf(fhir.Unprocessable, "consent.Check", "the Consent cannot be read")
	}
	id, ok := strings.CutPrefix(d.Patient.Reference, "Patient/")
	if !ok || !fhir.ValidID(id) {
		return "", fhir.Errorf(fhir.Unprocessable, "consent.Check",
			"Consent.patient must be a reference to a Patient of this server (Patient/[id])")
	}
	return id, nil
}
