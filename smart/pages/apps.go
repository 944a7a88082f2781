package pages

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/audit"
	"pulsegate/smart/grant"
	"pulsegate/smart/scope"
)

type appRow struct {
	ID, Name               string
	Sees                   []string
	Patient                string
	By                     string // who allowed it, when that was somebody else
	Offline                bool
	Created, Used, Expires time.Time
}

type appsData struct {
	Own    []appRow
	Others []appRow // of the own data, allowed by others
	About  bool     // the person is a patient
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
		as = slices.DeleteFunc(as, func(a grant.Authorization) bool { return a.Subject.ID == q.u.ID })
		if d.Others, err = q.appRows(as); err != nil {
			return err
		}
	}
	v := view{Title: "Apps with access", Data: d}
	if q.value("done") != "" {
		v.Good = "The app has no access any more, from this moment on."
	}
	return q.render(http.StatusOK, "apps", v)
}

func (q *request) appRows(as []grant.Authorization) ([]appRow, error) {
	rows := []appRow{}
	for _, a := range as {
		row := appRow{ID: a.ID, Name: a.ClientID, Offline: a.Offline, Created: a.Created, Used: a.Used, Expires: a.Expires}
		if c, err := q.p.Clients.Get(q.r.Context(), a.ClientID); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return nil, err
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
				row.Sees = append(row.Sees, strings.Replace(s.text, everybody, "everybody whose data its user may see", 1))
			}
		}
		rows = append(rows, row)
	}
	return rows, nil
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
		if s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter || s.Name == scope.OpenID {
			continue
		}
		text, _ := sentence(s, whom)
		out = append(out, said{text, s.Name == ""})
	}
	return out
}

// appsRevoke ends an app's access, from the next request on. First it is on
// record, then done: a failure in between leaves one event too many.
func appsRevoke(q *request) error {
	ctx, id := q.r.Context(), q.value("id")
	as, err := q.p.Apps.Authorizations(ctx, q.u.ID)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(as, func(a grant.Authorization) bool { return a.ID == id })
	if i < 0 {
		return q.to("/auth/apps") // gone already
	}
	by := q.by()
	err = q.p.Audit.Record(ctx, audit.Event{Kind: audit.Decision, Interaction: "revoke", Principal: by.Principal, RemoteIP: by.RemoteIP, RequestID: by.RequestID,
		Patient: as[i].Context.Patient, Extra: [][2]string{{"change", "access-taken-back"}, {"authorization", id}, {"client", as[i].ClientID}}})
	if err != nil {
		return err
	}
	if err := q.p.Apps.Revoke(ctx, q.u.ID, id); err != nil {
		return err
	}
	return q.to("/auth/apps?done=1")
}

func short(s string) string { return strings.Join(strings.Fields(s), " ") }
