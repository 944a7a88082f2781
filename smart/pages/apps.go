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
	Offline                bool
	Created, Used, Expires time.Time
}

func appsPage(q *request) error {
	as, err := q.p.Apps.Authorizations(q.r.Context(), q.u.ID)
	if err != nil {
		return err
	}
	rows := []appRow{}
	for _, a := range as {
		row := appRow{ID: a.ID, Name: a.ClientID, Offline: a.Offline, Created: a.Created, Used: a.Used, Expires: a.Expires}
		if c, err := q.p.Clients.Get(q.r.Context(), a.ClientID); err == nil {
			row.Name = c.Name
		} else if fhir.KindOf(err) != fhir.NotFound {
			return err
		}
		whom := self
		if a.Context.Patient != "" && a.Context.Patient != q.u.Patient {
			row.Patient, whom = a.Context.Patient, "that patient"
		}
		row.Sees = sees(q.p.Scopes, a.Scope, whom)
		rows = append(rows, row)
	}
	v := view{Title: "Apps with access", Data: rows}
	if q.value("done") != "" {
		v.Good = "The app has no access any more, from this moment on."
	}
	return q.render(http.StatusOK, "apps", v)
}

// Says is what a patient granted an app, in plain words for the patient.
func Says(scopes scope.Parser, granted string) []string { return sees(scopes, granted, self) }

func sees(scopes scope.Parser, granted, whom string) []string {
	set, err := scopes.Parse(granted)
	if err != nil {
		return []string{"Scopes that this version does not know"}
	}
	var out []string
	for _, s := range set {
		if s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter || s.Name == scope.OpenID {
			continue
		}
		text, _ := sentence(s, whom)
		out = append(out, text)
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
