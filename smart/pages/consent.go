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
	Host     string // host that receives the authorization response
	Patient  Person
	Self     bool
	Launched bool // the EHR chose the patient, who cannot be changed
	Offers   []offered
	HowLong  string
	Visit    bool // the app requests an encounter
	Visits   []Visit
	Staff    bool // may enter the ID of another encounter
}

// pending returns the authorization request that the page is about.
func (req *request) pending() (*authorize.Pending, context.Context, error) {
	ctx := authorize.WithBrowser(req.http)
	p, err := req.pages.Flow.Pending(ctx, req.value("request"))
	if err != nil && fhir.KindOf(err) == fhir.NotFound {
		return nil, ctx, fhir.Errorf(fhir.NotFound, "pages.pending",
			"The app’s request is no longer pending: it was answered, has expired, or started in another browser. Please go back to the app and start again.")
	}
	return p, ctx, err
}

// checkSession checks that the session meets the app's requirements on the
// sign-in: acr_values, prompt and max_age.
func (req *request) checkSession(p *authorize.Pending) error {
	began := p.Expires.Add(-authorize.Life)
	if w, ok := strong(p); ok && !req.session.Meets(w, began) {
		return signin.ErrStepUp // the step-up is also a sign-in
	}
	if slices.Contains(p.Prompt, "login") && req.session.Auth.Before(began) || p.MaxAge != nil &&
		req.session.Auth.Before(began.Add(-*p.MaxAge)) {
		return req.once()
	}
	return nil
}

// strong returns the app's requirement of a phishing-resistant factor, with
// max_age counted from the request (RFC 9470). ok is false if the app accepts a
// weaker factor as well.
func strong(p *authorize.Pending) (want session.Requirement, ok bool) {
	want = session.Requirement{ACR: authn.PhishingResistant, MaxAge: p.MaxAge}
	if slices.Contains(p.Prompt, "login") {
		want.MaxAge = new(time.Duration)
	}
	return want, slices.Contains(p.ACRValues, want.ACR) && !slices.Contains(p.ACRValues, authn.MultiFactor) &&
		!slices.Contains(p.ACRValues, authn.SingleFactor)
}

// subject describes the person and the sign-in for the tokens. It reports the
// factor that the app asked for, even if a weaker one was used later.
func (req *request) subject(p *authorize.Pending) authorize.Subject {
	s := signin.Subject(req.user, req.session)
	if _, ok := strong(p); ok && s.ACR != authn.PhishingResistant {
		s.ACR, s.AMR, s.AuthTime = authn.PhishingResistant, []string{"hwk", "user", "mfa"}, req.session.Strong
	}
	return s
}

// errRedirected reports that the response already redirects to another page.
var errRedirected = fhir.Errorf(fhir.Unauthorized, "pages", "Please sign in again.")

func (req *request) once() error {
	if err := req.signInAgain(); err != nil {
		return err
	}
	return errRedirected
}

// patient determines the patient of the request. choose is set if the page has
// to ask for one.
func (req *request) patient(p *authorize.Pending) (who Person, choose bool, err error) {
	own := req.user.Patient
	chooses := req.user.Roles.May(role.ChoosePatient)
	id := p.Patient
	switch {
	case id != "" && !chooses && id != own:
		return who, false, fhir.Errorf(fhir.Forbidden, "pages.patient",
			"The app was launched for another person’s data, which you cannot share.")
	case id != "":
	case !p.NeedsPatient:
		return who, false, nil
	case chooses:
		if id = req.value("patient"); id == "" {
			return who, true, nil
		}
	case own != "":
		id = own
	default:
		return who, false, fhir.Errorf(fhir.Forbidden, "pages.patient",
			"The app needs a patient, and your account is not linked to one.")
	}
	who, err = req.pages.Patients.Get(req.http.Context(), req.by(), id)
	return who, false, err
}

func (req *request) mayAnswer(p *authorize.Pending) error {
	if p.User != "" && p.User != req.user.Reference() {
		return fhir.Errorf(fhir.Forbidden, "pages.mayAnswer",
			"Another person launched the app. Please sign out and launch it again.")
	}
	return nil
}

// about returns the patient of the request if the person may answer it. The
// error is errRedirected if another page has to come first.
func (req *request) about(p *authorize.Pending) (Person, error) {
	if err := req.mayAnswer(p); err != nil {
		return Person{}, err
	}
	if err := req.checkSession(p); err != nil {
		return Person{}, err
	}
	who, choose, err := req.patient(p)
	if err != nil {
		return Person{}, err
	}
	if choose {
		if err := req.redirect("/auth/patient?" + url.Values{"request": {p.ID}}.Encode()); err != nil {
			return Person{}, err
		}
		return Person{}, errRedirected
	}
	return who, nil
}

// ignoreRedirect returns nil if another page was already sent.
func ignoreRedirect(err error) error {
	if err == errRedirected {
		return nil
	}
	return err
}

func consentPage(req *request) error { return req.consent("", http.StatusOK) }

func (req *request) consent(bad string, status int) error {
	pending, _, err := req.pending()
	if err != nil {
		return err
	}
	who, err := req.about(pending)
	if err != nil {
		return ignoreRedirect(err)
	}
	data := consentData{ID: pending.ID, App: pending.Client, Patient: who,
		Self:     who.ID != "" && who.ID == req.user.Patient,
		Launched: pending.Patient != "", HowLong: lasts(kept(pending.Scopes), req.pages.UserLife),
		Visit: pending.NeedsEncounter}
	if data.Visit && who.ID != "" {
		if data.Visits, err = req.pages.Patients.Visits(req.http.Context(), req.by(), who.ID); err != nil {
			return err
		}
	}
	data.Staff = req.user.Roles.May(role.ChoosePatient)
	name := who.Name
	if data.Self {
		name = self
	}
	data.Offers = offer(pending.Scopes, name)
	var form string
	data.Host, form = target(pending.Client.Redirect)
	req.writer.Header().Set("Content-Security-Policy", policy(form))
	return req.render(status, "consent", view{Title: "Allow access?", Narrow: true, Bad: bad, Data: data})
}

// target returns the redirect target of the authorization response, as a host
// for people and as a source for the Content-Security-Policy.
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

func consentDecide(req *request) error {
	pending, ctx, err := req.pending()
	if err != nil {
		return err
	}
	if req.value("decision") != "allow" {
		to, err := req.pages.Flow.Deny(ctx, pending.ID, "")
		if err != nil {
			return err
		}
		return req.leave(to)
	}
	who, err := req.about(pending)
	if err != nil {
		return ignoreRedirect(err)
	}
	scopes, err := req.selected(pending.Scopes)
	if err == nil {
		encounter := pending.Encounter
		if pending.NeedsEncounter {
			if encounter = short(req.value("encounter")); encounter == "" {
				encounter = short(req.value("other"))
			}
		}
		var to string
		to, err = req.pages.Flow.Approve(ctx, pending.ID,
			authorize.Decision{Subject: req.subject(pending), Patient: patientOf(scopes, who.ID), Encounter: encounter,
				Scopes: scopes})
		if err == nil {
			return req.leave(to)
		}
	}
	if fhir.KindOf(err) == fhir.Invalid {
		return req.consent(message(err), http.StatusUnprocessableEntity)
	}
	return err
}

// patientOf returns the patient if any of the remaining scopes is about one.
func patientOf(scopes []string, patient string) string {
	if slices.ContainsFunc(scopes, func(s string) bool {
		return s == scope.LaunchPatient || strings.HasPrefix(s, string(scope.Patient)+"/")
	}) {
		return patient
	}
	return ""
}

// selected returns the scopes that the person left selected.
func (req *request) selected(set scope.Set) ([]string, error) {
	var out []string
	something := false
	for _, item := range offer(set, "") {
		i := strconv.Itoa(item.Index)
		if !item.Fixed && req.http.PostForm.Get("scope."+i) == "" {
			continue
		}
		parts, err := narrowed(set[item.Index],
			picked{types: req.http.PostForm["type."+i], narrow: req.http.PostForm.Get("narrow."+i) == "some",
				categories: req.http.PostForm["category."+i]})
		if err != nil {
			return nil, err
		}
		something = something || len(parts) > 0 && !item.Fixed
		out = append(out, parts...)
	}
	if !something {
		return nil, fhir.Errorf(fhir.Invalid, "pages.selected",
			"Nothing is selected. Select at least one item, or choose “Do not allow”.")
	}
	return out, nil
}

// leave redirects the browser to the app.
func (req *request) leave(to string) error { return req.redirect(to) }

type patientData struct {
	ID, App, Text string
	Found         []Person
	Asked         bool
}

// patientPage shows the patient picker of a standalone launch.
func patientPage(req *request) error {
	pending, _, err := req.pending()
	if err != nil {
		return err
	}
	if err := req.may(role.ChoosePatient); err != nil {
		return err
	}
	data := patientData{ID: pending.ID, App: pending.Client.Name, Text: strings.TrimSpace(req.value("text"))}
	if data.Text != "" {
		data.Asked = true
		if data.Found, err = req.pages.Patients.Find(req.http.Context(), req.by(), data.Text); err != nil {
			return err
		}
	}
	return req.render(http.StatusOK, "patient", view{Title: "Choose a patient", Narrow: true, Data: data})
}
