package consent

import (
	"context"
	"encoding/json"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
)

// Prefixes of the ids of Consents that the patient's pages create.
const (
	AppPrefix  = "app-"  // followed by the id of the authorization
	StopPrefix = "stop-" // followed by a digest of patient and client
)

// reservedPrefixes are the prefixes of ids that clients may not use. Otherwise the
// patient's pages would mistake a client's Consent for one of their own. Read
// only.
var reservedPrefixes = []string{AppPrefix, StopPrefix}

// Check checks a client's write of a Consent by the rules in the package comment.
// It implements interaction.Check.
func (e *Engine) Check(ctx context.Context, p *access.Principal, next, old *fhir.Resource) (*fhir.Resource, error) {
	const op = "consent.Check"
	if p == nil || p.Grant == nil {
		return nil, fhir.Errorf(fhir.Forbidden, op, "this Consent cannot be written without an access token")
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
	} else if slices.ContainsFunc(reservedPrefixes, func(s string) bool { return strings.HasPrefix(next.ID, s) }) {
		return nil, fhir.Errorf(fhir.Forbidden, op, "Consent ids that begin with %q or %q are reserved for the server",
			AppPrefix, StopPrefix)
	}
	return next, e.mayRecord(ctx, p.ClientID, patient, next)
}

// mayReplace returns an error if a client may not update or delete a Consent.
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
	switch c, eff := compile(old.ID, patient, old.JSON); {
	case eff == withdrawn:
		return fhir.Errorf(fhir.Forbidden, op,
			"a withdrawn Consent cannot be changed; the patient or the operator can create a new one")
	case eff == active && c.root.denies():
		return fhir.Errorf(fhir.Forbidden, op,
			"this Consent denies access; only the patient or the operator may change it")
	}
	return nil
}

// mayRecord checks a new version of a Consent against the patient's earlier
// decisions.
func (e *Engine) mayRecord(ctx context.Context, client, patient string, next *fhir.Resource) error {
	const op = "consent.Check"
	c, eff := compile(next.ID, patient, next.JSON)
	if eff == ignored {
		return nil // for example a draft
	}
	set, err := e.ruleSet(ctx, patient)
	if err != nil {
		return fhir.Wrap(op, err)
	}
	if len(set.ids) >= e.opts.Limit/2 {
		return fhir.Errorf(fhir.Forbidden, op,
			"this patient has %d Consents; clients may not record more than %d", len(set.ids), e.opts.Limit/2)
	}
	if namesAuthorization(&c.root) || mentions(next.JSON, AuthorizationSystem) {
		return fhir.Errorf(fhir.Forbidden, op,
			"Consent.provision.actor must not name an authorization; the server records it when a person authorizes an app")
	}
	if eff != active || !c.root.permits() {
		return nil
	}
	if len(set.withdrawn) > 0 {
		return fhir.Errorf(fhir.Forbidden, op,
			"this patient has withdrawn a Consent; only the patient or the operator can create new permits")
	}
	req := request{now: e.opts.Clock().UnixMilli(), recipient: client}
	for _, c := range set.all {
		if c.author == "" && c.root.refuses(&req) {
			return fhir.Errorf(fhir.Forbidden, op, "this patient has stopped this client; it cannot record permits")
		}
	}
	return nil
}

// refuses reports whether r is a denial in force that names the recipient of req.
func (r *rule) refuses(req *request) bool {
	return !r.permit && req.now >= r.from && req.now < r.to && slices.Contains(r.recipients, req.recipient)
}

// namesAuthorization reports whether r or a provision in it names an
// authorization as recipient.
func namesAuthorization(r *rule) bool {
	return slices.ContainsFunc(r.recipients, func(s string) bool { return strings.HasPrefix(s, authorizedBy) }) ||
		slices.ContainsFunc(r.nested, func(n rule) bool { return namesAuthorization(&n) })
}

// mentions reports whether a string in a JSON body equals text, or whether the
// body cannot be parsed. It decodes the strings, because they may contain escapes.
func mentions(body []byte, text string) bool {
	var v any
	return json.Unmarshal(body, &v) != nil || contains(v, text)
}

func contains(v any, text string) bool {
	switch v := v.(type) {
	case string:
		return v == text
	case []any:
		return slices.ContainsFunc(v, func(item any) bool { return contains(item, text) })
	case map[string]any:
		for _, member := range v {
			if contains(member, text) {
				return true
			}
		}
	}
	return false
}

// subjectOf returns the id of the patient of a Consent.
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
