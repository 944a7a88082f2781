package pages

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

type appRow struct {
	ID, Name               string
	Sees                   []string
	Patient                string
	By                     string // name of the person who approved it, if that is someone else
	Offline                bool
	Lasts                  string // duration of access, as on the consent screen
	Created, Used, Expires time.Time
	foreign
}

// foreign describes why an app that someone else opened can see the person's
// data.
type foreign struct {
	Consented bool      // its scopes cover data that needs the patient's consent
	Treated   bool      // its scopes cover data that needs no consent
	Opened    []opening // the person's consents that allow the app to see data
	Refused   bool
}

type opening struct {
	Date time.Time
	All  bool // for every app, not only this one
}

// refusedRow describes an app that the person has stopped.
type refusedRow struct {
	Client, Name string
	Since        time.Time
}

type appsData struct {
	Own    []appRow
	Others []appRow // apps with the person's data, approved by others
	About  bool     // the person is a patient
	Ended  []refusedRow
}

func appsPage(req *request) error {
	ctx := req.http.Context()
	authorizations, err := req.pages.Apps.Authorizations(ctx, req.user.ID)
	if err != nil {
		return err
	}
	data := appsData{About: req.user.Patient != ""}
	if data.Own, err = req.appRows(authorizations); err != nil {
		return err
	}
	if data.About {
		if authorizations, err = req.pages.Apps.About(ctx, req.user.Patient); err != nil {
			return err
		}
		authorizations = slices.DeleteFunc(authorizations,
			func(a authz.Authorization) bool { return a.Subject.ID == req.user.ID })
		if data.Others, err = req.appRows(authorizations); err != nil {
			return err
		}
		if data.Ended, err = req.explain(authorizations, data.Others); err != nil {
			return err
		}
	}
	v := view{Title: "Apps with access", Data: data}
	switch req.value("done") {
	case "":
	case "refused":
		v.Good = "The app can no longer see your measurements and devices."
	case "allowed":
		v.Good = "The app can again see the data that your consents allow."
	default:
		v.Good = "The app no longer has access."
	}
	return req.render(http.StatusOK, "apps", v)
}

func (req *request) appRows(authorizations []authz.Authorization) ([]appRow, error) {
	rows := []appRow{}
	for _, a := range authorizations {
		row := appRow{ID: a.ID, Name: a.ClientID, Offline: a.Offline, Created: a.Created, Used: a.Used,
			Expires: a.Expires}
		if c, err := req.pages.Clients.Get(req.http.Context(), a.ClientID); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return nil, err
		}
		if set, err := req.pages.Scopes.Parse(a.Scope); err == nil {
			row.Lasts = lasts(kept(set), req.pages.UserLife)
		}
		whom := self
		if a.Context.Patient != "" && a.Context.Patient != req.user.Patient {
			row.Patient, whom = a.Context.Patient, "that patient"
		}
		if a.Subject.ID != req.user.ID {
			if row.By = a.Subject.Name; row.By == "" {
				row.By = "A staff member"
			}
		}
		for _, s := range sees(req.pages.Scopes, a.Scope, whom) {
			if row.By == "" {
				row.Sees = append(row.Sees, s.text)
			} else if s.data { // the other scopes are about the person who approved them
				row.Sees = append(row.Sees,
					strings.Replace(s.text, everybody, "everyone whose data its user may see", 1))
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// explain fills in the reasons why each app can see the person's data, and
// returns the apps that the person has stopped.
func (req *request) explain(authorizations []authz.Authorization, rows []appRow) ([]refusedRow, error) {
	ctx := req.http.Context()
	refused, err := req.pages.Refusals.Refused(ctx, req.user.Patient)
	if err != nil {
		return nil, err
	}
	var ended []refusedRow
	for _, r := range refused {
		row := refusedRow{Client: r.Client, Name: r.Client, Since: r.Since}
		if c, err := req.pages.Clients.Get(ctx, r.Client); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return nil, err
		}
		ended = append(ended, row)
	}
	for i, a := range authorizations {
		f := &rows[i].foreign
		f.Consented, f.Treated = reaches(req.pages.Scopes, a.Scope)
		f.Refused = slices.ContainsFunc(refused, func(r appconsent.Refusal) bool { return r.Client == a.ClientID })
		opened, err := req.pages.Refusals.Opened(ctx, req.user.Patient, a.ClientID)
		if err != nil {
			return nil, err
		}
		for _, o := range opened {
			day, err := time.Parse(time.RFC3339, o.Date)
			if err != nil {
				day = time.Time{} // the Consent was not written by this server
			}
			f.Opened = append(f.Opened, opening{day,
				slices.Contains(strings.Split(o.Recipient, ","), consent.AnyRecipient)})
		}
	}
	return ended, nil
}

// reaches reports whether scopes cover data that needs a consent, and data that
// needs none.
func reaches(scopes scope.Parser, granted string) (consented, treated bool) {
	set, err := scopes.Parse(granted)
	if err != nil {
		return true, true
	}
	for _, s := range set {
		if s.Name == "" {
			consented = consented || s.Type == "*" || access.NeedsConsent(s.Type)
			treated = treated || !access.NeedsConsent(s.Type)
		}
	}
	return consented, treated
}

// appsRefuse stops an app that someone else opened from seeing data that needs
// the person's consent, or allows it again.
func appsRefuse(req *request) error {
	ctx := req.http.Context()
	if req.user.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.appsRefuse", "This page is for patients.")
	}
	by := req.by()
	if c := req.value("allow"); c != "" {
		if err := req.pages.Refusals.Allow(ctx, by, req.user.Patient, c); err != nil {
			return err
		}
		return req.redirect("/auth/apps?done=allowed")
	}
	as, err := req.pages.Apps.About(ctx, req.user.Patient)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(as, func(a authz.Authorization) bool {
		return a.ID == req.value("id") &&
			a.Subject.ID != req.user.ID
	})
	if i < 0 {
		return req.redirect("/auth/apps") // access has already ended
	}
	name := as[i].ClientID
	if c, err := req.pages.Clients.Get(ctx, name); err == nil {
		name = c.Name
	} else if fhir.KindOf(err) != fhir.NotFound {
		return err
	}
	if err := req.pages.Refusals.Refuse(ctx, by, req.user.Patient, as[i].ClientID, name); err != nil {
		return err
	}
	return req.redirect("/auth/apps?done=refused")
}

// Says describes the scopes that a patient granted an app in plain words for
// the patient.
func Says(scopes scope.Parser, granted string) (out []string) {
	for _, s := range sees(scopes, granted, self) {
		out = append(out, s.text)
	}
	return out
}

// phrase describes one scope in plain words.
type phrase struct {
	text string
	data bool
}

func sees(scopes scope.Parser, granted, whom string) []phrase {
	set, err := scopes.Parse(granted)
	if err != nil {
		return []phrase{{"Scopes that this version does not support", true}}
	}
	var out []phrase
	for _, s := range set {
		if s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter ||
			s.Name == scope.OpenID {
			continue
		}
		text, _ := sentence(s, whom)
		out = append(out, phrase{text, s.Name == ""})
	}
	return out
}

// appsRevoke revokes an app's access.
func appsRevoke(req *request) error {
	ctx, id := req.http.Context(), req.value("id")
	as, err := req.pages.Apps.Authorizations(ctx, req.user.ID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(as, func(a authz.Authorization) bool { return a.ID == id }) {
		return req.redirect("/auth/apps") // access has already ended
	}
	if err := req.pages.Apps.Revoke(ctx, req.by(), req.user.ID, id); err != nil {
		return err
	}
	return req.redirect("/auth/apps?done=1")
}

func short(s string) string { return strings.Join(strings.Fields(s), " ") }
