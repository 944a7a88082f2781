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

// sessionRows lists the browsers that the person is signed in at.
func (q *request) sessionRows() ([]sessionRow, error) {
	xs, err := q.p.SignIn.ListSessions(q.r.Context(), q.u)
	if err != nil {
		return nil, err
	}
	var out []sessionRow
	for _, x := range xs {
		row := sessionRow{SID: x.SID, Agent: x.Browser.Agent, IP: x.Browser.IP, Created: x.Created, Seen: x.Seen,
			Here: x.SID == q.x.SID}
		if row.Agent == "" {
			row.Agent = "A browser"
		}
		out = append(out, row)
	}
	return out, nil
}

// sessionsEnd ends one of the person's own sessions, or everything of theirs.
func sessionsEnd(q *request) error {
	ctx := q.r.Context()
	if q.value("do") == "everything" {
		in, err := q.p.SignIn.EndEverything(ctx, q.from(), *q.u, q.x)
		if err != nil {
			return err
		}
		if err := q.begin(in); err != nil {
			return err
		}
		return q.to(home + "?done=everything")
	}
	sid := q.value("session")
	if sid == q.x.SID {
		return signOut(q)
	}
	if err := q.p.SignIn.EndSession(ctx, q.from(), q.u, sid); err != nil && fhir.KindOf(err) != fhir.NotFound {
		return err
	}
	return q.to(home + "?done=session")
}

// agents and systems are looked for in a User-Agent in this order: later ones
// pretend to be earlier ones.
var (
	agents = [][2]string{{"Edg", "Edge"}, {"OPR/", "Opera"}, {"SamsungBrowser", "Samsung Internet"},
		{"Firefox/", "Firefox"}, {"FxiOS", "Firefox"}, {"CriOS", "Chrome"}, {"Chrome/", "Chrome"},
		{"Safari/", "Safari"}}
	systems = [][2]string{{"iPhone", "iPhone"}, {"iPad", "iPad"}, {"Android", "Android"}, {"Windows", "Windows"},
		{"CrOS", "ChromeOS"}, {"Mac OS X", "Mac"}, {"Linux", "Linux"}}
)

// agent names a browser as its owner does. It holds fixed words only, nothing
// that the request says.
func agent(header string) string {
	name := func(list [][2]string) string {
		for _, x := range list {
			if strings.Contains(header, x[0]) {
				return x[1]
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
