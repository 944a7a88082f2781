package server

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/interaction"
	"pulsegate/smart/appconsent"
	"pulsegate/smart/authz"
	"pulsegate/smart/oauth/discovery"
	"pulsegate/smart/oauth/launch"
	"pulsegate/smart/oauth/token"
	"pulsegate/smart/pages"
)

// newPages returns the pages for people.
func newPages(s *services) (*pages.Pages, error) {
	return pages.New(pages.Options{Base: s.base, Version: publicVersion(s.version), SignIn: s.people.signs,
		Sessions: s.people.sessions, Users: s.people.users, Cookies: s.people.cookies,
		Flow: s.oauth.authorize, Apps: s.oauth.tokens,
		Refusals: &appconsent.Refusals{Store: s.store, Audit: s.audit.recorder, Consents: s.consents, Clock: s.now},
		Clients:  s.clients, Launcher: launcher{s.oauth.launches, s.base}, Glass: s.people.glass,
		UserLife: token.UserLife(s.config.UserTokenLife), Patients: patients{s.fhir, s.people},
		PushKeys: pagePushKeys{s}, Connections: connections{s}, Explanations: explanations{s},
		Scopes: s.clients.Scopes, Audit: s.audit.recorder, Clock: s.now, Logger: s.log})
}

// launcher launches apps from the pages.
type launcher struct {
	launches *launch.Service
	base     string
}

// Launch implements pages.Launcher.
func (l launcher) Launch(ctx context.Context, in pages.Launch) (string, error) {
	// The app opens in a separate tab, where nothing else names the patient.
	banner := true
	_, to, err := l.launches.Mint(ctx,
		launch.Launch{ClientID: in.Client, By: "console", User: in.User, Maker: in.Maker,
			Context: authz.Context{Patient: in.Patient, Encounter: in.Encounter, Intent: in.Intent, Banner: &banner,
				StyleURL: l.base + discovery.StylePath}},
		audit.Event{Type: audit.Rest, Interaction: "operation", Query: "console launch", Caller: in.By})
	return to, err
}

// patients finds patients for the pages by the FHIR interactions, which record
// each access.
type patients struct {
	fhir   *interaction.Service
	people people
}

// patientJSON is the part of a Patient that the pages show.
type patientJSON struct {
	ID        string `json:"id"`
	BirthDate string `json:"birthDate"`
	Gender    string `json:"gender"`
	Name      []struct {
		Text   string   `json:"text"`
		Family string   `json:"family"`
		Given  []string `json:"given"`
	} `json:"name"`
}

func (p *patientJSON) person() pages.Person {
	out := pages.Person{ID: p.ID, Name: "Patient " + p.ID, Born: p.BirthDate, Gender: p.Gender}
	if len(p.Name) > 0 {
		n := p.Name[0]
		if n.Text == "" {
			n.Text = strings.TrimSpace(strings.Join(n.Given, " ") + " " + n.Family)
		}
		if n.Text != "" {
			out.Name = n.Text
		}
	}
	return out
}

// pageRequest returns the request that stands for a page's access to the FHIR
// interactions. line describes it in the audit trail.
func pageRequest(by audit.Caller, line string) *interaction.Request {
	return &interaction.Request{Caller: by, Line: line}
}

// Get implements pages.Patients.
func (p patients) Get(ctx context.Context, by audit.Caller, id string) (pages.Person, error) {
	r, err := p.fhir.Read(ctx, pageRequest(by, "GET Patient/"+id), fhir.Ref{Type: "Patient", ID: id})
	if err != nil {
		return pages.Person{}, err
	}
	var pj patientJSON
	if err := json.Unmarshal(r.JSON, &pj); err != nil {
		return pages.Person{}, fhir.Wrap("server.patients", err)
	}
	return pj.person(), nil
}

// Find implements pages.Patients. It returns at most 20 patients.
func (p patients) Find(ctx context.Context, by audit.Caller, text string) ([]pages.Person, error) {
	escaped := strings.NewReplacer(`\`, `\\`, `,`, `\,`, `|`, `\|`, `$`, `\$`).Replace(text)
	q := url.Values{"name": {escaped}, "_count": {"20"}}.Encode()
	page, err := p.fhir.Search(ctx, pageRequest(by, "GET Patient?"+q), "Patient", q)
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Entry []struct {
			Resource patientJSON `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(page.Bytes(), &bundle); err != nil {
		return nil, fhir.Wrap("server.patients", err)
	}
	var out []pages.Person
	for _, e := range bundle.Entry {
		out = append(out, e.Resource.person())
	}
	return out, nil
}

const maxVisits = 12 // on the page of a patient

// Visits implements pages.Patients. It returns the encounters that the newest 100
// Observations with an encounter name, as far as the person may see these.
func (p patients) Visits(ctx context.Context, by audit.Caller, patient string) ([]pages.Visit, error) {
	// The grant of a page has no consents, but Observations need them.
	principal := *by.Principal
	principal.Grant = &access.Grant{Rules: by.Principal.Grant.Rules,
		Consents: p.people.glass.Consents(p.people.consents, principal.Subject),
		Person:   true}
	by.Principal = &principal
	q := url.Values{"patient": {patient}, "encounter:missing": {"false"}, "_sort": {"-date"},
		"_count": {"100"}}.Encode()
	page, err := p.fhir.Search(ctx, pageRequest(by, "GET Observation?"+q), "Observation", q)
	if err != nil {
		return nil, err
	}
	var bundle struct {
		Entry []struct {
			Resource struct {
				ResourceType string `json:"resourceType"`
				Encounter    struct {
					Reference string `json:"reference"`
					Display   string `json:"display"`
				} `json:"encounter"`
				Effective string `json:"effectiveDateTime"`
				Period    struct {
					Start string `json:"start"`
				} `json:"effectivePeriod"`
			} `json:"resource"`
		} `json:"entry"`
	}
	if err := json.Unmarshal(page.Bytes(), &bundle); err != nil {
		return nil, fhir.Wrap("server.Visits", err)
	}
	var out []pages.Visit
	for _, e := range bundle.Entry {
		r := e.Resource
		ref, ok := fhir.ParseRef(r.Encounter.Reference)
		if r.ResourceType != "Observation" || !ok || ref.Type != "Encounter" || len(out) == maxVisits ||
			slices.ContainsFunc(out, func(v pages.Visit) bool { return v.ID == ref.ID }) {
			continue
		}
		v := pages.Visit{ID: ref.ID, Name: r.Encounter.Display}
		if r.Effective == "" {
			r.Effective = r.Period.Start
		}
		if t, err := time.Parse(time.RFC3339, r.Effective); err == nil {
			v.Last = t
		}
		out = append(out, v)
	}
	return out, nil
}
