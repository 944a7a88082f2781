package pages

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
)

// Sources manages the consents of patients to collect the data of single vendors, in
// whatever way the data arrive.
type Sources interface {
	// List lists all vendors.
	List(ctx context.Context, patient string) ([]Source, error)
	// Agree records the patient's consent to collect the data of a vendor, unless there
	// is one.
	Agree(ctx context.Context, by audit.Caller, patient, vendor string, terms SourceTerms) error
	// Locate records, or ends, the patient's consent to collect where they were during
	// workouts.
	Locate(ctx context.Context, by audit.Caller, patient, vendor string, allow bool) error
	// Withdraw ends every consent of the patient for the data of a vendor. If erase is
	// set, it also ends the connected accounts of the vendor and deletes the data.
	Withdraw(ctx context.Context, by audit.Caller, patient, vendor string, erase bool) error
}

// SourceTerms holds what a patient agrees to.
type SourceTerms struct {
	// Shared allows every registered recipient to see the data.
	Shared bool
	// Locations allows collecting where the patient was during workouts. It does not
	// show that to anyone.
	Locations bool
}

// Source describes the data of one vendor for display.
type Source struct {
	Code, Name string
	Consented  bool      // a consent covers the collection
	Since      time.Time // of that consent; zero if unknown
	SeenByAll  bool      // every registered recipient may see the data
	SeenBy     []string  // names of the apps and clinics that may see the data otherwise
	Ways       []string  // ways in which data arrive
	HasRoutes  bool      // the vendor may send where the patient was
	Located    bool      // a consent covers collecting that
	LocatedTo  []string  // names of those who may see it
}

// sources returns all sources.
func (req *request) sources() ([]Source, error) {
	if err := req.patientOnly(); err != nil {
		return nil, err
	}
	return req.pages.Sources.List(req.http.Context(), req.user.Patient)
}

// source returns the source that the request names.
func (req *request) source() (Source, error) {
	all, err := req.sources()
	if err != nil {
		return Source{}, err
	}
	i := slices.IndexFunc(all, func(s Source) bool { return s.Code == req.value("vendor") })
	if i < 0 {
		return Source{}, fhir.Errorf(fhir.NotFound, "pages.source", "This server knows no such source of data.")
	}
	return all[i], nil
}

// sourcePage shows what the person has agreed to about one source, or asks for it.
func sourcePage(req *request) error { return req.showSource(http.StatusOK, view{}) }

func (req *request) showSource(status int, v view) error {
	s, err := req.source()
	if err != nil {
		return err
	}
	v.Title, v.Narrow, v.Data = "Data from "+s.Name, true, s
	return req.render(status, "source", v)
}

// sourceChange records what the person has decided about one source.
func sourceChange(req *request) error {
	s, err := req.source()
	if err != nil {
		return err
	}
	ctx, patient, to := req.http.Context(), req.user.Patient, req.pages.Sources
	done := req.value("do")
	switch done {
	case "agree":
		sees := req.value("sees")
		if sees != "apps" && sees != "all" {
			return req.showSource(http.StatusUnprocessableEntity,
				view{Wrong: map[string]string{"sees": "Choose who may see the data."}})
		}
		err = to.Agree(ctx, req.by(), patient, s.Code,
			SourceTerms{Shared: sees == "all", Locations: s.HasRoutes && req.value("locations") == "yes"})
	case "locate", "unlocate":
		if done == "locate" && !s.HasRoutes {
			err = fhir.Errorf(fhir.Invalid, "pages.sourceChange", "%s sends no locations.", s.Name)
			break
		}
		err = to.Locate(ctx, req.by(), patient, s.Code, done == "locate")
	case "withdraw":
		data := req.value("data")
		if data != "keep" && data != "delete" {
			return req.showSource(http.StatusUnprocessableEntity,
				view{Wrong: map[string]string{"data": "Choose whether to keep or delete the data."}})
		}
		done += "-" + data
		err = to.Withdraw(ctx, req.by(), patient, s.Code, data == "delete")
	default:
		err = fhir.Errorf(fhir.Invalid, "pages.sourceChange", "Choose one of the buttons of the page.")
	}
	if err != nil {
		return err
	}
	return req.redirect("/auth/devices?done=" + done)
}

// Seen describes who may see the data.
func (s Source) Seen() string {
	switch {
	case s.SeenByAll:
		return "Every clinic and app that is registered here"
	case len(s.SeenBy) == 0:
		return "Nobody but you"
	}
	return strings.Join(s.SeenBy, ", ")
}

// LocatedSeen describes who may see where the person was.
func (s Source) LocatedSeen() string {
	if len(s.LocatedTo) == 0 {
		return "Nobody but you"
	}
	return strings.Join(s.LocatedTo, ", ")
}
