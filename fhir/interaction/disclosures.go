package interaction

import (
	"cmp"
	"errors"
	"maps"
	"slices"
	"strings"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// disclosed is a stored resource whose content or existence an answer discloses.
type disclosed struct {
	ref      fhir.Ref
	version  uint64
	patients []string // of its compartments
}

func disclosedOf(o *stored) disclosed {
	return disclosed{o.res.Ref(), o.res.Version, o.facts.Patients()}
}

// perPatient returns ev for each of the patients, or once without one.
func perPatient(ev audit.Event, patients []string) []audit.Event {
	if len(patients) == 0 {
		return []audit.Event{ev}
	}
	evs := make([]audit.Event, len(patients))
	for i, p := range patients {
		evs[i] = ev
		evs[i].Patient = p
	}
	return evs
}

// disclosures collects what an answer discloses beyond the resources that the
// request names: the resources that criteria found, and the criteria.
type disclosures struct {
	seen    []disclosed
	queries []found
}

// found is a query with the patients that it concerns. The value is true if a
// resource of the patient matched.
type found struct {
	recorded
	patients map[string]bool
}

// name adds a patient whose data the answer depends on.
func (f *found) name(patient string) { nameIn(f.patients, patient) }

// nameIn adds a patient who is not a match's, unless the patient is there already.
func nameIn(patients map[string]bool, patient string) {
	if _, exists := patients[patient]; patient != "" && !exists {
		patients[patient] = false
	}
}

// events returns one read event per patient that names the disclosed resources,
// and one search event per patient with that patient's part of the criteria, plus
// one with all criteria if necessary. The criteria of a transaction share these
// events.
func (t *disclosures) events(rq *Request, extra [][2]string) []audit.Event {
	evs := disclosureEvents(rq, "read", t.seen)
	for i := range evs {
		evs[i].Extra = extra
	}
	lines := map[string][]string{} // by patient; empty for no compartment
	for i := range t.queries {
		f := &t.queries[i]
		for _, ev := range f.events(rq, f.patients) {
			lines[ev.Patient] = append(lines[ev.Patient], ev.Query)
		}
	}
	for _, p := range sortedKeys(lines) {
		ev := rq.event("search-type", "")
		ev.Patient, ev.Query, ev.Extra = p, strings.Join(lines[p], "\n"), extra
		evs = append(evs, ev)
	}
	return evs
}

// disclosureEvents returns one event per patient that names the resources.
func disclosureEvents(rq *Request, interaction string, seen []disclosed) []audit.Event {
	var evs []audit.Event
	at := map[string]int{}
	for _, d := range seen {
		for _, one := range perPatient(rq.event(interaction, d.ref.Type), d.patients) {
			i, ok := at[one.Patient]
			if !ok {
				i = len(evs)
				at[one.Patient] = i
				evs = append(evs, one)
			}
			data := audit.DataRef{Ref: d.ref, Version: d.version}
			if !slices.Contains(evs[i].Data, data) {
				evs[i].Data = append(evs[i].Data, data)
			}
		}
	}
	return evs
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// errDisclosing is an error that concerns existing resources. hidden is set if
// scope or consent hides them: the caller then gets the error for an absent
// resource, and the trail records a denial.
type errDisclosing struct {
	cause   error
	seen    []disclosed
	queries []found
	hidden  bool
}

func (e *errDisclosing) Error() string { return e.cause.Error() }
func (e *errDisclosing) Unwrap() error { return e.cause }

// disclosing marks err with the resources that it discloses.
func disclosing(err error, seen ...disclosed) error {
	if err == nil {
		return nil
	}
	return &errDisclosing{cause: err, seen: seen}
}

func concealing(err error, seen ...disclosed) error {
	return &errDisclosing{cause: err, seen: seen, hidden: true}
}

// at prefixes the error of an entry with its path.
func at(place string, err error) error {
	var r *errRaced
	if errors.As(err, &r) {
		return &errRaced{at(place, r.cause)}
	}
	var t *errDisclosing
	if errors.As(err, &t) {
		marked := *t
		marked.cause = at(place, t.cause)
		return &marked
	}
	var e *fhir.Error
	if !errors.As(err, &e) {
		return err
	}
	out := *e
	out.Issues = append([]fhir.Issue(nil), e.Issues...)
	for i := range out.Issues {
		if out.Issues[i].Diagnostics != "" {
			out.Issues[i].Diagnostics = place + ": " + out.Issues[i].Diagnostics
		}
		if len(out.Issues[i].Expression) == 0 {
			out.Issues[i].Expression = []string{place}
		}
		out.Issues[i].Line, out.Issues[i].Column = 0, 0 // they count from the entry's resource, not from the body
	}
	return &out
}
