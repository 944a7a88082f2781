package interaction

import (
	"bytes"
	"context"
	"errors"
	"unicode/utf8"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/r4"
)

// Checker is a Validator that reports everything about a resource (r4.Validator.Check).
type Checker interface {
	Check(typ string, body []byte, profiles []string) (problems, warnings []fhir.Issue, err error)
}

// Validation holds the inputs of $validate.
type Validation struct {
	Type, ID string // ID is empty at the level of a type
	Mode     string // create, update, delete, profile, or empty
	Profiles []string
	Resource []byte // nil if there is none
	// Body is the body that Resource is a part of, and Position its offset in it. The
	// lines and columns of issues count from the beginning of Body.
	Body     []byte
	Position int
}

const maxValidationProfiles = 16

// Validate implements $validate (https://hl7.org/fhir/R4/resource-operation-validate.html).
// It returns an OperationOutcome with all issues and stores nothing but the audit event. The
// modes are
//
//	(none)   the resource is checked by the rules of R4 and of profiles
//	create   and by everything that a create by this caller would be checked by
//	update   likewise, for an update of the instance
//	delete   whether the caller could delete the instance; there is no resource
//	profile  the stored instance is checked against the given profiles
//
// Without a resource, the stored instance is checked. If the resource cannot be accepted,
// the OperationOutcome says so and the operation has succeeded (status 200).
func (s *Service) Validate(ctx context.Context, rq *Request, v Validation) ([]byte, error) {
	out, ref, seen, err := s.validate(ctx, rq, &v)
	if err != nil {
		return nil, s.refuse(ctx, rq, "operation", fhir.Ref{Type: v.Type, ID: v.ID}, err)
	}
	ev := rq.event("operation", v.Type)
	ev.Query = rq.Line
	evs := disclosureEvents(rq, "operation", seen)
	if ref.ID == "" || len(evs) == 0 {
		evs = append(evs, ev)
	}
	if err := s.disclose(ctx, rq, evs...); err != nil {
		return nil, err
	}
	return out, nil
}

func (s *Service) validate(ctx context.Context, rq *Request, v *Validation) ([]byte, fhir.Ref, []disclosed, error) {
	const op = "interaction.Validate"
	ref := fhir.Ref{Type: v.Type, ID: v.ID}
	if err := s.mayValidate(rq, v); err != nil {
		return nil, ref, nil, err
	}
	check, ok := s.Validator.(Checker)
	if !ok {
		return nil, ref, nil, fhir.Errorf(fhir.Unsupported, op, "this server does not offer $validate")
	}
	var seen []disclosed
	body := v.Resource
	if body == nil && v.Mode != "delete" {
		r, facts, err := s.lookUp(rq, op, ref,
			func() (fhir.Resource, *access.Facts, error) { return s.Store.Read(ctx, ref, 0) })
		if err != nil {
			return nil, ref, nil, err
		}
		body, seen = r.JSON, []disclosed{{ref, r.Version, facts.Patients()}}
	}
	var issues []fhir.Issue
	if v.Mode != "delete" {
		problems, warnings, err := check.Check(v.Type, body, v.Profiles)
		if err != nil {
			return nil, ref, nil, err
		}
		issues = v.inBody(append(problems, warnings...))
		if len(problems) > 0 || v.Mode == "" || v.Mode == "profile" {
			return outcomeOfIssues(issues), ref, seen, nil
		}
	}
	err := s.rehearse(ctx, rq, op, v, body)
	var e *fhir.Error
	var d *errDisclosing
	switch {
	case err == nil:
	case errors.As(err, &d):
		seen = append(seen, d.seen...)
		fallthrough
	default:
		if !errors.As(err, &e) || e.Kind == fhir.Internal || e.Kind == fhir.Unavailable {
			return nil, ref, nil, err
		}
		for _, is := range e.Issues {
			is.Line, is.Column = 0, 0
			issues = append(issues, is)
		}
	}
	return outcomeOfIssues(issues), ref, seen, nil
}

// mayValidate checks the inputs and the permission: any interaction with the type.
func (s *Service) mayValidate(rq *Request, v *Validation) error {
	const op = "interaction.Validate"
	const any = access.Create | access.Update | access.Delete | access.Read | access.Search
	if err := rq.may(op, any, v.Type); err != nil {
		return err
	}
	if err := supported(op, v.Type); err != nil {
		return err
	}
	if v.ID != "" && !fhir.ValidID(v.ID) {
		return errHidden(op)
	}
	for _, p := range v.Profiles {
		if p == "" || len(p) > 512 || !utf8.ValidString(p) {
			return fhir.Errorf(fhir.Invalid, op, "profile must be the canonical URL of a profile")
		}
	}
	switch {
	case len(v.Profiles) > maxValidationProfiles:
		return fhir.Errorf(fhir.Invalid, op, "profile is given more than %d times", maxValidationProfiles)
	case v.Mode != "" && v.Mode != "create" && v.Mode != "update" && v.Mode != "delete" && v.Mode != "profile":
		return fhir.Errorf(fhir.Invalid, op, "mode must be create, update, delete or profile")
	case v.Mode == "create" && v.ID != "":
		return fhir.Errorf(fhir.Invalid, op, "mode create is for $validate of a type; leave out the id in the URL")
	case (v.Mode == "update" || v.Mode == "delete" || v.Mode == "profile") && v.ID == "":
		return fhir.Errorf(fhir.Invalid, op,
			"mode %s needs the id of an instance in the URL, [type]/[id]/$validate", v.Mode)
	case (v.Mode == "delete" || v.Mode == "profile") && v.Resource != nil:
		return fhir.Errorf(fhir.Invalid, op, "mode %s is about the stored resource; leave out resource", v.Mode)
	case v.Mode == "profile" && len(v.Profiles) == 0:
		return fhir.Errorf(fhir.Invalid, op, "mode profile needs the parameter profile")
	case (v.Mode == "create" || v.Mode == "update" || v.ID == "") && v.Resource == nil:
		return &fhir.Error{Kind: fhir.Invalid, Op: op, Issues: []fhir.Issue{{Code: "required",
			Diagnostics: "$validate needs a resource: as the body, or as the parameter resource"}}}
	}
	return nil
}

// rehearse does everything that a write does but commit.
func (s *Service) rehearse(ctx context.Context, rq *Request, op string, v *Validation, body []byte) error {
	ref := fhir.Ref{Type: v.Type, ID: v.ID}
	if v.Mode == "delete" {
		if _, err := s.draftDelete(ctx, rq, op, ref, Preconditions{}); err != nil || v.Type != "Patient" {
			return err
		}
		return s.unreferenced(ctx, op, v.ID, nil)
	}
	may := access.Create
	if v.Mode == "update" {
		may = access.Update
	}
	if err := writable(rq, op, may, v.Type); err != nil {
		return err
	}
	var d *draft
	if v.Mode == "update" {
		res, err := s.admit(op, ref, body, nil)
		if err != nil {
			return err
		}
		old, err := s.current(ctx, ref)
		if err != nil {
			return err
		}
		if d, err = s.draftUpdate(ctx, rq, op, res, old, Preconditions{}); err != nil {
			return err
		}
	} else {
		id, err := s.newID()
		if err != nil {
			return err
		}
		res, err := s.admitNew(op, v.Type, id, body, nil)
		if err != nil {
			return err
		}
		if d, err = s.draftPut(ctx, rq, op, res, nil); err != nil {
			return err
		}
	}
	return s.mustExist(ctx, rq, op, []*draft{d}, nil)
}

// inBody lets the lines and columns of issues count from the beginning of the body.
func (v *Validation) inBody(issues []fhir.Issue) []fhir.Issue {
	before := v.Body[:min(v.Position, len(v.Body))]
	lines := bytes.Count(before, []byte{'\n'})
	columns := utf8.RuneCount(before[bytes.LastIndexByte(before, '\n')+1:])
	for i := range issues {
		if is := &issues[i]; is.Line > 0 {
			if is.Line == 1 {
				is.Column += columns
			}
			is.Line += lines
		}
	}
	return issues
}

// outcomeOfIssues returns the OperationOutcome with issues.
func outcomeOfIssues(issues []fhir.Issue) []byte {
	if len(issues) == 0 {
		issues = []fhir.Issue{{Severity: "information", Code: "informational", Diagnostics: "No issues were found."}}
	}
	return r4.OutcomeJSON(&fhir.Error{Kind: fhir.Unprocessable, Issues: issues})
}
