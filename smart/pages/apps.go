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
	By                     string // who allowed it, when that was somebody else
	Offline                bool
	Lasts                  string // how long, as on the consent screen
	Created, Used, Expires time.Time
	foreign
}

// foreign is, of an app that somebody else opened, on what its view of the
// person rests.
type foreign struct {
	Consented bool      // its scopes reach what only a consent opens
	Treated   bool      // and what none is needed for
	Opened    []opening // the person's consents that open something to it
	Refused   bool
}

type opening struct {
	Date time.Time
	All  bool // to every app, not to this one alone
}

// refusedRow is an app that the person has stopped.
type refusedRow struct {
	Client, Name string
	Since        time.Time
}

type appsData struct {
	Own    []appRow
	Others []appRow // of the own data, allowed by others
	About  bool     // the person is a patient
	Ended  []refusedRow
}

func appsPage(q *request) error {
	ctx := q.r.Context()
	as, err := q.p.Apps.Authorizations(ctx, q.u.ID)
	if err != nil {
		return err
	}
	d := appsData{About: q.u.Patient != ""}
	if d.Own, err = q.appRows(as); err != nil {
		return err
	}
	if d.About {
		if as, err = q.p.Apps.About(ctx, q.u.Patient); err != nil {
			return err
		}
		as = slices.DeleteFunc(as, func(a authz.Authorization) bool { return a.Subject.ID == q.u.ID })
		if d.Others, err = q.appRows(as); err != nil {
			return err
		}
		if d.Ended, err = q.restsOn(as, d.Others); err != nil {
			return err
		}
	}
	v := view{Title: "Apps with access", Data: d}
	switch q.value("done") {
	case "":
	case "refused":
		v.Good = "The app is shown none of your measurements and devices any more, from this moment on."
	case "allowed":
		v.Good = "The app is shown again what your consents allow."
	default:
		v.Good = "The app has no access any more, from this moment on."
	}
	return q.render(http.StatusOK, "apps", v)
}

func (q *request) appRows(as []authz.Authorization) ([]appRow, error) {
	rows := []appRow{}
	for _, a := range as {
		row := appRow{ID: a.ID, Name: a.ClientID, Offline: a.Offline, Created: a.Created, Used: a.Used,
			Expires: a.Expires}
		if c, err := q.p.Clients.Get(q.r.Context(), a.ClientID); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return nil, err
		}
		if set, err := q.p.Scopes.Parse(a.Scope); err == nil {
			row.Lasts = lasts(kept(set), q.p.UserLife)
		}
		whom := self
		if a.Context.Patient != "" && a.Context.Patient != q.u.Patient {
			row.Patient, whom = a.Context.Patient, "that patient"
		}
		if a.Subject.ID != q.u.ID {
			if row.By = a.Subject.Name; row.By == "" {
				row.By = "Somebody of the staff"
			}
		}
		for _, s := range sees(q.p.Scopes, a.Scope, whom) {
			if row.By == "" {
				row.Sees = append(row.Sees, s.text)
			} else if s.data { // the rest is about that person
				row.Sees = append(row.Sees,
					strings.Replace(s.text, everybody, "everybody whose data its user may see", 1))
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// restsOn says on what each app's view of the person rests, and returns the
// apps that are stopped.
func (q *request) restsOn(as []authz.Authorization, rows []appRow) ([]refusedRow, error) {
	ctx := q.r.Context()
	rs, err := q.p.Refusals.Refused(ctx, q.u.Patient)
	if err != nil {
		return nil, err
	}
	var ended []refusedRow
	for _, r := range rs {
		row := refusedRow{Client: r.Client, Name: r.Client, Since: r.Since}
		if c, err := q.p.Clients.Get(ctx, r.Client); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return nil, err
		}
		ended = append(ended, row)
	}
	for i, a := range as {
		f := &rows[i].foreign
		f.Consented, f.Treated = reaches(q.p.Scopes, a.Scope)
		f.Refused = slices.ContainsFunc(rs, func(r appconsent.Refusal) bool { return r.Client == a.ClientID })
		opened, err := q.p.Refusals.Opened(ctx, q.u.Patient, a.ClientID)
		if err != nil {
			return nil, err
		}
		for _, o := range opened {
			day, err := time.Parse(time.RFC3339, o.Date)
			if err != nil {
				day = time.Time{} // not of this server's making
			}
			f.Opened = append(f.Opened, opening{day,
				slices.Contains(strings.Split(o.Recipient, ","), consent.AnyRecipient)})
		}
	}
	return ended, nil
}

// reaches reports whether scopes reach data that only a consent opens, and
// data that none is needed for.
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

// appsRefuse stops an app that somebody else opened, as far as the person's
// consents are what it rests on, or ends that.
func appsRefuse(q *request) error {
	ctx := q.r.Context()
	if q.u.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.appsRefuse", "This is for patients.")
	}
	by := q.by()
	if c := q.value("allow"); c != "" {
		if err := q.p.Refusals.Allow(ctx, by, q.u.Patient, c); err != nil {
			return err
		}
		return q.to("/auth/apps?done=allowed")
	}
	as, err := q.p.Apps.About(ctx, q.u.Patient)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(as, func(a authz.Authorization) bool {
		return a.ID == q.value("id") &&
			a.Subject.ID != q.u.ID
	})
	if i < 0 {
		return q.to("/auth/apps") // gone already
	}
	name := as[i].ClientID
	if c, err := q.p.Clients.Get(ctx, name); err == nil {
		name = c.Name
	} else if fhir.KindOf(err) != fhir.NotFound {
		return err
	}
	if err := q.p.Refusals.Refuse(ctx, by, q.u.Patient, as[i].ClientID, name); err != nil {
		return err
	}
	return q.to("/auth/apps?done=refused")
}

// Says is what a patient granted an app, in plain words for the patient.
func Says(scopes scope.Parser, granted string) (out []string) {
	for _, s := range sees(scopes, granted, self) {
		out = append(out, s.text)
	}
	return out
}

// said is one scope in plain words; data: it opens some.
type said struct {
	text string
	data bool
}

func sees(scopes scope.Parser, granted, whom string) []said {
	set, err := scopes.Parse(granted)
	if err != nil {
		return []said{{"Scopes that this version does not know", true}}
	}
	var out []said
	for _, s := range set {
		if s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter ||
			s.Name == scope.OpenID {
			continue
		}
		text, _ := sentence(s, whom)
		out = append(out, said{text, s.Name == ""})
	}
	return out
}

// appsRevoke ends an app's access, from the next request on.
func appsRevoke(q *request) error {
	ctx, id := q.r.Context(), q.value("id")
	as, err := q.p.Apps.Authorizations(ctx, q.u.ID)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(as, func(a authz.Authorization) bool { return a.ID == id }) {
		return q.to("/auth/apps") // gone already
	}
	if err := q.p.Apps.Revoke(ctx, q.by(), q.u.ID, id); err != nil {
		return err
	}
	return q.to("/auth/apps?done=1")
}

func short(s string) string { return strings.Join(strings.Fields(s), " ") }
