package pages

import (
	"net/http"

	"pulsegate/fhir"
	"pulsegate/smart/people/breakglass"
)

type noticeRow struct {
	breakglass.Override
	Who  string
	Open bool // has not ended yet
}

type noticesData struct {
	Rows           []noticeRow
	Unacknowledged int
}

// noticesPage shows a patient who used emergency access to see their data.
func noticesPage(req *request) error {
	ctx := req.http.Context()
	if req.user.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.notices", "This page is for patients.")
	}
	all, err := req.pages.Glass.ByPatient(ctx, req.user.Patient)
	if err != nil {
		return err
	}
	var data noticesData
	if data.Unacknowledged, err = req.pages.Glass.Unacknowledged(ctx, req.user.Patient); err != nil {
		return err
	}
	name := req.names()
	for _, override := range all {
		row := noticeRow{Override: override, Open: req.pages.Clock().Before(override.End)}
		if row.Who, err = name(override.User); err != nil {
			return err
		}
		data.Rows = append(data.Rows, row)
	}
	v := view{Title: "Emergency access to your data", Data: data}
	if req.value("done") != "" {
		v.Good = "Thank you. You will be notified of any further emergency access."
	}
	return req.render(http.StatusOK, "notices", v)
}

func noticesRead(req *request) error {
	if req.user.Patient == "" {
		return fhir.Errorf(fhir.Forbidden, "pages.notices", "This page is for patients.")
	}
	if err := req.pages.Glass.Acknowledge(req.http.Context(), req.glassBy(), req.user.Patient,
		req.http.PostForm["id"]); err != nil {
		return err
	}
	return req.redirect("/auth/notices?done=1")
}

// names returns a function that looks up the names of users and caches them for
// this request.
func (req *request) names() func(id string) (string, error) {
	have := map[string]string{}
	return func(id string) (string, error) {
		if have[id] == "" && id != "" {
			have[id] = "a former user"
			u, err := req.pages.Users.Get(req.http.Context(), id)
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
