package pages

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/oauth/authorize"
	"pulsegate/smart/people/authn"
	"pulsegate/smart/people/role"
	"pulsegate/smart/people/session"
	"pulsegate/smart/people/signin"
	"pulsegate/smart/scope"
)

type consentData struct {
	ID       string
	App      authorize.Client
	Host     string // where the answer goes
	Patient  Person
	Self     bool
	Launched bool // by the EHR: the patient cannot be changed
	Offers   []offered
	HowLong  string
	Visit    bool // the app asks for an encounter
	Visits   []Visit
	Staff    bool // may name any other
}

// pending finds the request that the page is about.
func (q *request) pending() (*authorize.Pending, context.Context, error) {
	ctx := authorize.WithBrowser(q.r)
	p, err := q.p.Flow.Pending(ctx, q.value("request"))
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return nil, ctx, fhir.Errorf(fhir.NotFound, "pages.pending",
			"The app’s request is not there any more: it was answered, took too long, or began in another browser. Please go back to the app and start again.")
	}
	return p, ctx, err
}

// wished holds the session against what the app asked of the sign-in.
func (q *request) wished(p *authorize.Pending) error {
	began := p.Expires.Add(-authorize.Life)
	if w, ok := strong(p); ok && !q.x.Meets(w, began) {
		return signin.ErrStepUp // is a sign-in as well
	}
	if slices.Contains(p.Prompt, "login") && q.x.Auth.Before(began) || p.MaxAge != nil &&
		q.x.Auth.Before(began.Add(-*p.MaxAge)) {
		return q.once()
	}
	return nil
}

// strong is the app's wish for a phishing-resistant factor and nothing less,
// as of when it asked (RFC 9470).
func strong(p *authorize.Pending) (session.Wish, bool) {
	w := session.Wish{ACR: authn.PhishingResistant, MaxAge: p.MaxAge}
	if slices.Contains(p.Prompt, "login") {
		w.MaxAge = new(time.Duration)
	}
	return w, slices.Contains(p.ACRValues, w.ACR) && !slices.Contains(p.ACRValues, authn.MultiFactor) &&
		!slices.Contains(p.ACRValues, authn.SingleFactor)
}

// subject is the person as the tokens tell of the sign-in: by the factor that
// the app asked for, even when another was shown after it.
func (q *request) subject(p *authorize.Pending) authorize.Subject {
	s := signin.Subject(q.u, q.x)
	if _, ok := strong(p); ok && s.ACR != authn.PhishingResistant {
		s.ACR, s.AMR, s.AuthTime = authn.PhishingResistant, []string{"hwk", "user", "mfa"}, q.x.Strong
	}
	return s
}

// errAgain was answered already, by sending the browser to sign in again.
var errAgain = fhir.Errorf(fhir.Unauthorized, "pages", "Please sign in again.")

func (q *request) once() error {
	if err := q.again(); err != nil {
		return err
	}
	return errAgain
}

// patient settles whom the request is about. asked: the page has to ask.
func (q *request) patient(p *authorize.Pending) (who Person, asked bool, err error) {
	own := q.u.Patient
	chooses := q.u.Roles.May(role.ChoosePatient)
	id := p.Patient
	switch {
	case id != "" && !chooses && id != own:
		return who, false, fhir.Errorf(fhir.Forbidden, "pages.patient",
			"The app was launched for somebody else’s data, which you may not give out.")
	case id != "":
	case !p.NeedsPatient:
		return who, false, nil
	case chooses:
		if id = q.value("patient"); id == "" {
			return who, true, nil
		}
	case own != "":
		id = own
	default:
		return who, false, fhir.Errorf(fhir.Forbidden, "pages.patient",
			"The app needs a patient, and your account is not one.")
	}
	who, err = q.p.Patients.Get(q.r.Context(), q.by(), id)
	return who, false, err
}

func (q *request) mayAnswer(p *authorize.Pending) error {
	if p.User != "" && p.User != q.u.Reference() {
		return fhir.Errorf(fhir.Forbidden, "pages.mayAnswer",
			"The app was launched by somebody else. Please sign out, and launch it again.")
	}
	return nil
}

// about is whom an answer to p is about, once the person may give one. errAgain
// means that another page is asked for instead.
func (q *request) about(p *authorize.Pending) (Person, error) {
	if err := q.mayAnswer(p); err != nil {
		return Person{}, err
	}
	if err := q.wished(p); err != nil {
		return Person{}, err
	}
	who, asked, err := q.patient(p)
	if err != nil {
		return Person{}, err
	}
	if asked {
		if err := q.to("/auth/patient?" + url.Values{"request": {p.ID}}.Encode()); err != nil {
			return Person{}, err
		}
		return Person{}, errAgain
	}
	return who, nil
}

// again is err, but nothing when another page was asked for.
func again(err error) error {
	if err == errAgain {
		return nil
	}
	return err
}

func consentPage(q *request) error { return q.consent("", http.StatusOK) }

func (q *request) consent(bad string, status int) error {
	p, _, err := q.pending()
	if err != nil {
		return err
	}
	who, err := q.about(p)
	if err != nil {
		return again(err)
	}
	d := consentData{ID: p.ID, App: p.Client, Patient: who, Self: who.ID != "" && who.ID == q.u.Patient,
		Launched: p.Patient != "", HowLong: lasts(kept(p.Scopes), q.p.UserLife), Visit: p.NeedsEncounter}
	if d.Visit && who.ID != "" {
		if d.Visits, err = q.p.Patients.Visits(q.r.Context(), q.by(), who.ID); err != nil {
			return err
		}
	}
	d.Staff = q.u.Roles.May(role.ChoosePatient)
	name := who.Name
	if d.Self {
		name = self
	}
	d.Offers = offer(p.Scopes, name)
	var form string
	d.Host, form = target(p.Client.Redirect)
	q.w.Header().Set("Content-Security-Policy", policy(form))
	return q.render(status, "consent", view{Title: "Allow access?", Narrow: true, Bad: bad, Data: d})
}

// target is where the answer goes: for people, and for the page's policy.
func target(redirect string) (host, source string) {
	u, err := url.Parse(redirect)
	if err != nil {
		return "", ""
	}
	if u.Host == "" {
		return "the app on this device", u.Scheme + ":"
	}
	return u.Host, u.Scheme + "://" + u.Host
}

func consentDecide(q *request) error {
	p, ctx, err := q.pending()
	if err != nil {
		return err
	}
	if q.value("decision") != "allow" {
		to, err := q.p.Flow.Deny(ctx, p.ID, "")
		if err != nil {
			return err
		}
		return q.leave(to)
	}
	who, err := q.about(p)
	if err != nil {
		return again(err)
	}
	scopes, err := q.ticked(p.Scopes)
	if err == nil {
		encounter := p.Encounter
		if p.NeedsEncounter {
			if encounter = short(q.value("encounter")); encounter == "" {
				encounter = short(q.value("other"))
			}
		}
		var to string
		to, err = q.p.Flow.Approve(ctx, p.ID,
			authorize.Decision{Subject: q.subject(p), Patient: about(scopes, who.ID), Encounter: encounter,
				Scopes: scopes})
		if err == nil {
			return q.leave(to)
		}
	}
	if fhir.KindOf(err) == fhir.Invalid {
		return q.consent(words(err), http.StatusUnprocessableEntity)
	}
	return err
}

// about is the patient, as long as any scope that was left is about one.
func about(scopes []string, patient string) string {
	if slices.ContainsFunc(scopes, func(s string) bool {
		return s == scope.LaunchPatient || strings.HasPrefix(s, string(scope.Patient)+"/")
	}) {
		return patient
	}
	return ""
}

// ticked reads what was left of the scopes.
func (q *request) ticked(set scope.Set) ([]string, error) {
	var out []string
	something := false
	for _, o := range offer(set, "") {
		i := strconv.Itoa(o.Index)
		if !o.Fixed && q.r.PostForm.Get("scope."+i) == "" {
			continue
		}
		parts, err := narrowed(set[o.Index],
			picked{types: q.r.PostForm["type."+i], narrow: q.r.PostForm.Get("narrow."+i) == "some",
				categories: q.r.PostForm["category."+i]})
		if err != nil {
			return nil, err
		}
		something = something || len(parts) > 0 && !o.Fixed
		out = append(out, parts...)
	}
	if !something {
		return nil, fhir.Errorf(fhir.Invalid, "pages.ticked",
			"Nothing is ticked. Leave something ticked, or choose “Do not allow”.")
	}
	return out, nil
}

// leave sends the browser back to the app.
func (q *request) leave(to string) error { return q.to(to) }

type patientData struct {
	ID, App, Text string
	Found         []Person
	Asked         bool
}

// patientPage is the patient picker of a standalone launch.
func patientPage(q *request) error {
	p, _, err := q.pending()
	if err != nil {
		return err
	}
	if err := q.may(role.ChoosePatient); err != nil {
		return err
	}
	d := patientData{ID: p.ID, App: p.Client.Name, Text: strings.TrimSpace(q.value("text"))}
	if d.Text != "" {
		d.Asked = true
		if d.Found, err = q.p.Patients.Find(q.r.Context(), q.by(), d.Text); err != nil {
			return err
		}
	}
	return q.render(http.StatusOK, "patient", view{Title: "Choose a patient", Narrow: true, Data: d})
}
