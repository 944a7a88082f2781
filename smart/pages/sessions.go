package pages

import (
	"strings"
	"time"

	"pulsegate/fhir"
)

type sessionRow struct {
	SID, Agent, IP string
	Created, Seen  time.Time
	Here           bool
}

// sessionRows lists the sessions of the person.
func (req *request) sessionRows() ([]sessionRow, error) {
	sessions, err := req.pages.SignIn.ListSessions(req.http.Context(), req.user)
	if err != nil {
		return nil, err
	}
	var out []sessionRow
	for _, sess := range sessions {
		row := sessionRow{SID: sess.SID, Agent: sess.Browser.Agent, IP: sess.Browser.IP, Created: sess.Created,
			Seen: sess.Seen,
			Here: sess.SID == req.session.SID}
		if row.Agent == "" {
			row.Agent = "A browser"
		}
		out = append(out, row)
	}
	return out, nil
}

// sessionsEnd ends one of the person's sessions, or all other sessions and the
// access of all apps.
func sessionsEnd(req *request) error {
	ctx := req.http.Context()
	if req.value("do") == "everything" {
		in, err := req.pages.SignIn.EndEverything(ctx, req.from(), *req.user, req.session)
		if err != nil {
			return err
		}
		if err := req.begin(in); err != nil {
			return err
		}
		return req.redirect(home + "?done=everything")
	}
	sid := req.value("session")
	if sid == req.session.SID {
		return signOut(req)
	}
	if err := req.pages.SignIn.EndSession(ctx, req.from(), req.user, sid); err != nil &&
		fhir.KindOf(err) != fhir.NotFound {
		return err
	}
	return req.redirect(home + "?done=session")
}

// agents and systems are matched against the User-Agent in this order, because
// later browsers also carry the tokens of earlier ones.
var (
	agents = [][2]string{{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser", "Samsung Internet"},
		{"Firefox/", "Firefox"}, {"FxiOS", "Firefox"}, {"CriOS", "Chrome"}, {"Chrome/", "Chrome"},
		{"Safari/", "Safari"}}
	systems = [][2]string{{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"Windows", "Windows"},
		{"CrOS", "ChromeOS"}, {"Mac OS X", "Mac"}, {"Linux", "Linux"}}
)

// agent describes a browser, as in "Firefox on Linux". The result consists of
// fixed words only and never quotes the request.
func agent(header string) string {
	name := func(list [][2]string) string {
		for _, pattern := range list {
			if strings.Contains(header, pattern[0]) {
				return pattern[1]
			}
		}
		return ""
	}
	browser, system := name(agents), name(systems)
	switch {
	case browser != "" && system != "":
		return browser + " on " + system
	case browser != "":
		return browser
	case system != "":
		return "A browser on " + system
	}
	return ""
}
