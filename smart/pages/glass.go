package pages

import (
	"net/http"
	"strings"

	"pulsegate/fhir"
	"pulsegate/smart/people/breakglass"
	"pulsegate/smart/people/role"
)

type glassData struct {
	Open    []openRow
	Text    string
	Asked   bool
	Found   []Person
	Patient Person // chosen
	Reason  string
}

type openRow struct {
	breakglass.Override
	Person Person
}

func glassPage(q *request) error { return q.glass(glassData{}, nil, http.StatusOK) }

func (q *request) glass(d glassData, bad map[string]string, status int) error {
	if err := q.strong(role.BreakGlass); err != nil {
		return err
	}
	ctx := q.r.Context()
	mine, err := q.p.Glass.Active(ctx, q.u.ID)
	if err != nil {
		return err
	}
	for _, o := range mine {
		who, err := q.p.Patients.Get(ctx, q.by(), o.Patient)
		if err != nil {
			return err
		}
		d.Open = append(d.Open, openRow{o, who})
	}
	if id := short(q.value("patient")); id != "" {
		if d.Patient, err = q.p.Patients.Get(ctx, q.by(), id); err != nil {
			return err
		}
	} else if d.Text = strings.TrimSpace(q.value("text")); d.Text != "" {
		d.Asked = true
		if d.Found, err = q.p.Patients.Find(ctx, q.by(), d.Text); err != nil {
			return err
		}
	}
	v := view{Title: "Emergency access", Wrong: bad, Data: d}
	if q.r.Method == http.MethodGet {
		v.Good = map[string]string{"open": "Emergency access is open for four hours. It has been reported and will be reviewed.", "closed": "Emergency access has ended."}[q.value("done")]
	}
	return q.render(status, "emergency", v)
}

func glassOpen(q *request) error {
	if err := q.strong(role.BreakGlass); err != nil {
		return err
	}
	who, err := q.p.Patients.Get(q.r.Context(), q.by(), short(q.value("patient")))
	if err == nil {
		_, err = q.p.Glass.Open(q.r.Context(), q.glassBy(), q.u.ID, who.ID, q.value("reason"))
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return q.to("/auth/emergency?done=open")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return q.glass(glassData{Reason: q.value("reason")}, wrong(err, glassFields), http.StatusUnprocessableEntity)
	}
	return err
}

func glassClose(q *request) error {
	if err := q.may(role.BreakGlass); err != nil {
		return err
	}
	if err := q.p.Glass.Close(q.r.Context(), q.glassBy(), q.u.ID, q.r.PathValue("id")); err != nil {
		return err
	}
	return q.to("/auth/emergency?done=closed")
}

type reviewRow struct {
	breakglass.Override
	Who      string
	Reviewer string
	Own      bool
}

func reviewsPage(q *request) error { return q.reviews(nil, http.StatusOK) }

func (q *request) reviews(bad map[string]string, status int) error {
	if err := q.may(role.Review); err != nil {
		return err
	}
	all, err := q.p.Glass.List(q.r.Context())
	if err != nil {
		return err
	}
	name := q.names()
	rows := []reviewRow{}
	for _, o := range all[:min(len(all), 200)] {
		r := reviewRow{Override: o, Own: o.User == q.u.ID}
		if r.Who, err = name(o.User); err != nil {
			return err
		}
		if r.Reviewer, err = name(o.Reviewer); err != nil {
			return err
		}
		rows = append(rows, r)
	}
	v := view{Title: "Reviews of emergency access", Wrong: bad, Data: rows}
	if q.r.Method == http.MethodGet && q.value("done") != "" {
		v.Good = "Thank you. The review is on record."
	}
	return q.render(status, "reviews", v)
}

func reviewsDecide(q *request) error {
	if err := q.strong(role.Review); err != nil {
		return err
	}
	err := q.p.Glass.Review(q.r.Context(), q.glassBy(), q.u.ID, q.r.PathValue("id"),
		q.value("verdict") == "justified", q.value("note"))
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return q.to("/auth/reviews?done=1")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		id := "note-" + q.r.PathValue("id")
		return q.reviews(wrong(err, []field{{"note", id, "note"}, {"reason", id, "note"}}),
			http.StatusUnprocessableEntity)
	}
	return err
}
