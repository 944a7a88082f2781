package pages

import (
	"net/http"

	"pulsegate/fhir"
	"pulsegate/smart/people/breakglass"
)

type noticeRow struct {
	breakglass.Override
	Who  string
	Open bool // it goes on
}

type noticesData struct {
	Rows   []noticeRow
	Untold int
}

// noticesPage tells a patient who saw their data without their consent.
func noticesPage(q *request) error {
	ctx := q.r.Context()
	if q.u.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.notices", "This is for patients.")
	}
	all, err := q.p.Glass.ByPatient(ctx, q.u.Patient)
	if err != nil {
		return err
	}
	var d noticesData
	if d.Untold, err = q.p.Glass.Unacknowledged(ctx, q.u.Patient); err != nil {
		return err
	}
	name := q.names()
	for _, o := range all {
		row := noticeRow{Override: o, Open: q.p.Clock().Before(o.End)}
		if row.Who, err = name(o.User); err != nil {
			return err
		}
		d.Rows = append(d.Rows, row)
	}
	v := view{Title: "Emergency access to your data", Data: d}
	if q.value("done") != "" {
		v.Good = "Thank you. You will be told of any further emergency access."
	}
	return q.render(http.StatusOK, "notices", v)
}

func noticesRead(q *request) error {
	if q.u.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.notices", "This is for patients.")
	}
	if err := q.p.Glass.Acknowledge(q.r.Context(), q.glassBy(), q.u.Patient, q.r.PostForm["id"]); err != nil {
		return err
	}
	return q.to("/auth/notices?done=1")
}

// names returns a lookup of people's names, each read once.
func (q *request) names() func(id string) (string, error) {
	have := map[string]string{}
	return func(id string) (string, error) {
		if have[id] == "" && id != "" {
			have[id] = "somebody who is not here any more"
			u, err := q.p.Users.Get(q.r.Context(), id)
			switch {
			case err == nil:
				have[id] = u.Name
			case fhir.KindOf(err) != fhir.NotFound:
				return "", err
			}
		}
		return have[id], nil
	}
}
