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
	Patient Person // selected patient
	Reason  string
}

type openRow struct {
	breakglass.Override
	Person Person
}

func glassPage(req *request) error { return req.glass(glassData{}, nil, http.StatusOK) }

func (req *request) glass(data glassData, bad map[string]string, status int) error {
	if err := req.strong(role.BreakGlass); err != nil {
		return err
	}
	ctx := req.http.Context()
	active, err := req.pages.Glass.Active(ctx, req.user.ID)
	if err != nil {
		return err
	}
	for _, override := range active {
		who, err := req.pages.Patients.Get(ctx, req.by(), override.Patient)
		if err != nil {
			return err
		}
		data.Open = append(data.Open, openRow{override, who})
	}
	if id := short(req.value("patient")); id != "" {
		if data.Patient, err = req.pages.Patients.Get(ctx, req.by(), id); err != nil {
			return err
		}
	} else if data.Text = strings.TrimSpace(req.value("text")); data.Text != "" {
		data.Asked = true
		if data.Found, err = req.pages.Patients.Find(ctx, req.by(), data.Text); err != nil {
			return err
		}
	}
	v := view{Title: "Emergency access", Wrong: bad, Data: data}
	if req.http.Method == http.MethodGet {
		v.Good = map[string]string{"open": "Emergency access is open for four hours. It has been reported and will be reviewed.", "closed": "Emergency access has ended."}[req.value("done")]
	}
	return req.render(status, "emergency", v)
}

func glassOpen(req *request) error {
	if err := req.strong(role.BreakGlass); err != nil {
		return err
	}
	who, err := req.pages.Patients.Get(req.http.Context(), req.by(), short(req.value("patient")))
	if err == nil {
		_, err = req.pages.Glass.Open(req.http.Context(), req.glassBy(), req.user.ID, who.ID, req.value("reason"))
	}
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return req.redirect("/auth/emergency?done=open")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		return req.glass(glassData{Reason: req.value("reason")}, wrong(err, glassFields),
			http.StatusUnprocessableEntity)
	}
	return err
}

func glassClose(req *request) error {
	if err := req.may(role.BreakGlass); err != nil {
		return err
	}
	if err := req.pages.Glass.Close(req.http.Context(), req.glassBy(), req.user.ID,
		req.http.PathValue("id")); err != nil {
		return err
	}
	return req.redirect("/auth/emergency?done=closed")
}

type reviewRow struct {
	breakglass.Override
	Who      string
	Reviewer string
	Own      bool
}

func reviewsPage(req *request) error { return req.reviews(nil, http.StatusOK) }

func (req *request) reviews(bad map[string]string, status int) error {
	if err := req.may(role.Review); err != nil {
		return err
	}
	all, err := req.pages.Glass.List(req.http.Context())
	if err != nil {
		return err
	}
	name := req.names()
	rows := []reviewRow{}
	for _, override := range all[:min(len(all), 200)] {
		row := reviewRow{Override: override, Own: override.User == req.user.ID}
		if row.Who, err = name(override.User); err != nil {
			return err
		}
		if row.Reviewer, err = name(override.Reviewer); err != nil {
			return err
		}
		rows = append(rows, row)
	}
	v := view{Title: "Reviews of emergency access", Wrong: bad, Data: rows}
	if req.http.Method == http.MethodGet && req.value("done") != "" {
		v.Good = "Thank you. The review is on record."
	}
	return req.render(status, "reviews", v)
}

func reviewsDecide(req *request) error {
	if err := req.strong(role.Review); err != nil {
		return err
	}
	err := req.pages.Glass.Review(req.http.Context(), req.glassBy(), req.user.ID, req.http.PathValue("id"),
		req.value("verdict") == "justified", req.value("note"))
	switch kind := fhir.KindOf(err); {
	case err == nil:
		return req.redirect("/auth/reviews?done=1")
	case kind == fhir.Invalid || kind == fhir.Conflict:
		id := "note-" + req.http.PathValue("id")
		return req.reviews(wrong(err, []field{{"note", id, "note"}, {"reason", id, "note"}}),
			http.StatusUnprocessableEntity)
	}
	return err
}
