package interaction

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/search"
)

// PhoneMadeProfile marks an Observation that an app made on a phone from a sample of
// HealthKit and that is to be repaired, as one of its meta.profile. The stored
// Observation does not have it.
const PhoneMadeProfile = fhir.Canonical + "/StructureDefinition/phone-made-observation"

// Receiver repairs and stores phone-made Observations.
type Receiver interface {
	// Repair returns the Observation that body, a valid Observation about a patient,
	// becomes. It writes nothing. If body cannot be mapped, the error names the element
	// and the rule.
	Repair(ctx context.Context, patient string, body []byte) (Repaired, error)
	// Receive stores body like a payload of the vendor. Unless changes is set, it leaves a
	// stored Observation as it is. It returns the id of the stored Observation and
	// whether it is new. The id is empty if the consent has ended since Repair.
	Receive(ctx context.Context, by audit.Caller, patient string, body []byte, changes bool,
		tie Tie) (id string, created bool, err error)
	// ReceiveAll stores bodies, of which Repair has returned different ids, as one payload
	// of the vendor. It returns the stored Observation of each, which is zero unless it is
	// known to be stored.
	ReceiveAll(ctx context.Context, by audit.Caller, patient string, ids []string, bodies [][]byte,
		changes bool) ([]audit.DataRef, error)
}

// Tie ties what a Receiver stores to what the request has read. The zero value ties it to
// nothing.
type Tie struct {
	// Guards are guards and touches of the commit (store.Batch).
	Guards []string
	// Again is called before each attempt to commit, after Seen was read, and reads again
	// what the guards stand for. Receive returns its error. It may be nil.
	Again func(context.Context) error
}

// errMatched is the error of Tie.Again if another request has stored a match.
var errMatched = errors.New("a match of the criteria was stored")

// Repaired is an Observation that Receiver.Repair has made.
type Repaired struct {
	Resource fhir.Resource
	Vendor   string
	// Barred is set if the patient does not exist, or if no consent of the patient covers
	// the collection of this Observation.
	Barred bool
	// Deletion is set if the sample was deleted on the phone. Resource then has only the
	// id under which the Observation is stored if there is one.
	Deletion bool
}

// phoneMade reports whether a resource is a phone-made Observation: if it says so by
// its profile, or if the client is registered as one that sends no others.
func (s *Service) phoneMade(rq *Request, typ string, body []byte) bool {
	if s.Receiver == nil || typ != "Observation" {
		return false
	}
	if rq.Principal.Grant.PhoneMade {
		return true
	}
	var r struct {
		Meta struct {
			Profile []string `json:"profile"`
		} `json:"meta"`
	}
	return json.Unmarshal(body, &r) == nil && slices.ContainsFunc(r.Meta.Profile, func(p string) bool {
		p, _, _ = strings.Cut(p, "|")
		return p == PhoneMadeProfile
	})
}

// errPhoneMade returns the error of an interaction that a phone-made Observation
// cannot have.
func errPhoneMade(op, with, instead string) error {
	return &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
		Severity: "error", Code: "business-rule", Expression: []string{"Observation"},
		Diagnostics: "Observation: a phone-made Observation cannot be written " + with +
			", because the server finds its id by comparing it with what is stored; " + instead,
	}}}
}

// refusePut returns an error if an update would write a phone-made Observation.
func (s *Service) refusePut(rq *Request, op, typ string, body []byte) error {
	if s.phoneMade(rq, typ, body) {
		return errPhoneMade(op, "with PUT", "use POST")
	}
	return nil
}

// refuseInTransaction returns an error if an entry of a transaction would write a
// phone-made Observation.
func (s *Service) refuseInTransaction(rq *Request, op string, e *entry) error {
	if (e.Method == "POST" || e.Method == "PUT") && s.phoneMade(rq, e.target.typ, e.Resource) {
		return errPhoneMade(op, "in a transaction", "use a batch")
	}
	return nil
}

// receive creates a phone-made Observation, of which sent is the valid form that the
// client sent in body. The client's scopes must cover the repaired Observation, as for
// a create, and the patient must permit its collection.
//
// A measurement that is stored already is found, as by a conditional create. If it
// differs, a client that may update it amends it, and for others it stays as it is.
// Clients that may not read the stored Observation always get the answer to a create
// without content, so that they do not learn what is stored.
func (s *Service) receive(ctx context.Context, rq *Request, op string, sent *fhir.Resource, body []byte,
	c *criteria, disc *disclosures) (Written, error) {
	subject, repaired, changes, err := s.repair(ctx, rq, op, sent, body)
	if err != nil {
		return Written{}, err
	}
	if err := rq.Principal.Grant.Live(ctx); err != nil {
		return Written{}, err
	}
	var tie Tie
	if c != nil {
		tie = Tie{Guards: c.guards(), Again: func(ctx context.Context) error {
			err := s.find(ctx, rq, op, c)
			if err == nil && c.match != nil && c.match.ID != repaired.Resource.ID {
				return errMatched
			}
			return err
		}}
	}
	id, created, err := s.Receiver.Receive(ctx, rq.Caller, subject.ref.ID, body, changes, tie)
	if errors.Is(err, errMatched) {
		disc.add(c)
		return Written{Resource: *c.match, Matched: true}, s.Audit.Record(ctx, disc.events(rq, nil)...)
	}
	if err != nil {
		return Written{}, err
	}
	if id == "" {
		return Written{}, concealing(errDangling(op, subject),
			disclosed{ref: subject.ref, patients: []string{subject.ref.ID}})
	}
	return s.received(ctx, rq, subject.ref.ID, id, created || repaired.Deletion, disc)
}

// repair repairs a phone-made Observation and checks that it may be stored. changes reports
// whether the scopes also cover updating it.
func (s *Service) repair(ctx context.Context, rq *Request, op string, sent *fhir.Resource,
	body []byte) (subject subjectRef, repaired Repaired, changes bool, err error) {
	if subject, err = s.subjectOf(rq, op, sent); err != nil {
		return subject, repaired, false, err
	}
	if repaired, err = s.Receiver.Repair(ctx, subject.ref.ID, body); err != nil {
		return subject, repaired, false, err
	}
	if changes, err = s.mayReceive(ctx, rq, op, subject.ref.ID, &repaired); err != nil {
		return subject, repaired, false, err
	}
	if repaired.Barred {
		err = concealing(errDangling(op, subject), disclosed{ref: subject.ref, patients: []string{subject.ref.ID}})
	}
	return subject, repaired, changes, err
}

// subjectOf returns the patient of a phone-made Observation: its subject or, if it has
// none, the patient in context.
func (s *Service) subjectOf(rq *Request, op string, sent *fhir.Resource) (subjectRef, error) {
	values, err := search.Extract(sent.Type, sent.JSON)
	if err != nil {
		return subjectRef{}, fhir.Wrap(op, err)
	}
	patient := values.Patient
	if patient == "" && len(values.ByParam["subject"]) == 0 {
		patient = rq.Principal.Patient
	}
	if patient == "" {
		return subjectRef{}, &fhir.Error{Kind: fhir.Unprocessable, Op: op, Issues: []fhir.Issue{{
			Severity: "error", Code: "required", Expression: []string{"Observation.subject"},
			Diagnostics: "Observation.subject: a phone-made Observation must name its Patient",
		}}}
	}
	return subjectRef{ref: fhir.Ref{Type: "Patient", ID: patient}, path: "Observation.subject"}, nil
}

// mayReceive returns an error unless the scopes cover the repaired Observation.
// changes reports whether they also cover updating it.
func (s *Service) mayReceive(ctx context.Context, rq *Request, op, patient string,
	repaired *Repaired) (changes bool, err error) {
	facts := &access.Facts{Type: "Observation", ID: repaired.Resource.ID, Patient: patient, Vendor: repaired.Vendor,
		Tokens: func(string) []access.Token { return nil }}
	if repaired.Deletion {
		old, err := s.current(ctx, repaired.Resource.Ref())
		if err != nil {
			return false, err
		}
		if old != nil {
			facts = old.facts
		}
		if !rq.filter(access.Update).Covers(facts) {
			return false, fhir.Errorf(fhir.Forbidden, op,
				"the granted scopes do not allow to mark this Observation as entered in error")
		}
		return true, nil
	}
	values, err := search.Extract("Observation", repaired.Resource.JSON)
	if err != nil {
		return false, fhir.Wrap(op, err)
	}
	facts = factsOf(&repaired.Resource, values, repaired.Vendor, "")
	if !rq.filter(access.Create).Covers(facts) {
		return false, fhir.Errorf(fhir.Forbidden, op, "scope or consent does not allow to create this Observation")
	}
	return rq.filter(access.Update).Covers(facts), nil
}

// received records the interaction and returns its answer.
func (s *Service) received(ctx context.Context, rq *Request, patient, id string, created bool,
	disc *disclosures) (Written, error) {
	ref := fhir.Ref{Type: "Observation", ID: id}
	old, err := s.current(ctx, ref)
	if err != nil {
		return Written{}, err
	}
	ev := rq.event("create", "Observation")
	ev.Patient, ev.Data = patient, []audit.DataRef{{Ref: ref}}
	w := Written{Resource: fhir.Resource{Type: ref.Type, ID: ref.ID, Version: 1}, Created: true}
	if old.live() && rq.filter(access.Read).Allow(old.facts) {
		w = Written{Resource: old.res, Created: created, Matched: !created}
		ev.Data[0].Version = old.res.Version
	}
	return w, s.disclose(ctx, rq, append(disc.events(rq, nil), ev)...)
}
