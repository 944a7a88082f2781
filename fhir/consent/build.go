package consent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/element"
)

// Terms describes a consent to collect and show data.
type Terms struct {
	ID         string   // id of the Consent
	Patient    string   // id
	Vendor     string   // code; "" for all vendors
	VendorName string   // name for the narrative; if empty, Vendor is used
	Categories []string // codes; empty for all categories
	Recipient  string   // client id, or AnyRecipient, which is the default
	// CollectOnly limits the consent to the collection of data. It then shows no data
	// to anyone.
	CollectOnly bool
	// From and Until bound the consent. A zero time leaves that end open.
	From, Until time.Time
	Now         time.Time
}

// Summary summarizes a Consent for lists.
type Summary struct {
	ID, Patient, Status, Vendor, Recipient, Date string
	Categories                                   []string
}

// provisionJSON is Consent.provision.
type provisionJSON struct {
	Extension []element.Extension       `json:"extension,omitempty"`
	Type      string                    `json:"type"`
	Period    *element.Period           `json:"period,omitempty"`
	Actor     []actor                   `json:"actor,omitempty"`
	Action    []element.CodeableConcept `json:"action,omitempty"`
	Class     []element.Coding          `json:"class,omitempty"`
	Code      []element.CodeableConcept `json:"code,omitempty"`
	Provision []provisionJSON           `json:"provision,omitempty"`
}

// consentJSON is a Consent that this package builds.
type consentJSON struct {
	ResourceType string                    `json:"resourceType"`
	ID           string                    `json:"id"`
	Meta         struct{}                  `json:"meta"`
	Text         element.Narrative         `json:"text"`
	Status       string                    `json:"status"`
	Scope        element.CodeableConcept   `json:"scope"`
	Category     []element.CodeableConcept `json:"category"`
	Patient      element.Reference         `json:"patient"`
	DateTime     string                    `json:"dateTime"`
	Performer    []element.Reference       `json:"performer,omitempty"`
	PolicyRule   element.CodeableConcept   `json:"policyRule"`
	Provision    provisionJSON             `json:"provision"`
}

// hl7Categories lists the codes of HL7's observation-category. Read only.
var hl7Categories = []string{"social-history", "vital-signs", "imaging", "laboratory", "procedure", "survey",
	"exam", "therapy", "activity"}

// Build builds the Consent for t in canonical form.
func Build(t Terms) (fhir.Resource, error) {
	if !fhir.ValidID(t.ID) || !fhir.ValidID(t.Patient) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, "consent.Build",
			"Consent.id and Consent.patient must be FHIR ids")
	}
	if t.Recipient == "" {
		t.Recipient = AnyRecipient
	}
	for _, s := range append([]string{t.Vendor, t.Recipient}, t.Categories...) {
		if s != "" && !fhir.ValidID(s) {
			return fhir.Resource{}, fhir.Errorf(fhir.Invalid, "consent.Build",
				"vendor, recipient and categories must consist of letters, digits, - and .")
		}
	}
	if !t.Until.IsZero() && !t.Until.After(t.From) {
		return fhir.Resource{}, fhir.Errorf(fhir.Invalid, "consent.Build",
			"Consent.provision.period ends before it starts")
	}
	c := newConsent(t.ID, t.Patient, termsText(t), t.Now)
	to := element.Reference{Identifier: &element.Identifier{System: ClientSystem, Value: t.Recipient}}
	if t.Recipient == AnyRecipient {
		to.Display = "any recipient that is registered here"
	}
	c.Provision = provisionJSON{Type: "permit",
		Actor: []actor{{element.NewConcept(element.ParticipationType, recipientRole), to}}}
	if t.CollectOnly {
		c.Provision.Action = []element.CodeableConcept{element.NewConcept(actionSystem, actionCollect)}
	}
	c.Provision.Period = between(t.From, t.Until)
	if t.Vendor != "" {
		c.Provision.Code = append(c.Provision.Code, element.NewConcept(VendorSystem, t.Vendor))
	}
	for _, k := range t.Categories {
		system := categoryOwn
		if slices.Contains(hl7Categories, k) {
			system = element.ObservationCategory
		}
		c.Provision.Code = append(c.Provision.Code, element.NewConcept(system, k))
	}
	b, err := marshal(c)
	if err != nil {
		return fhir.Resource{}, fhir.Wrap("consent.Build", err)
	}
	return fhir.Resource{Type: "Consent", ID: t.ID, JSON: b}, nil
}

// newConsent returns an active Consent of a patient without a provision.
func newConsent(id, patient, text string, now time.Time) consentJSON {
	return consentJSON{
		ResourceType: "Consent", ID: id, Status: statusActive,
		Text:       element.Narrative{Status: "generated", Div: text},
		Scope:      element.NewConcept(element.ConsentScope, privacyScope),
		Category:   []element.CodeableConcept{element.NewConcept(element.LOINC, "59284-0")},
		Patient:    element.Reference{Reference: "Patient/" + patient},
		DateTime:   now.UTC().Format(fhir.InstantLayout),
		PolicyRule: element.NewConcept(actCodeSystem, "OPTIN"),
	}
}

// between returns the FHIR period for two times, or nil if both are zero.
func between(from, until time.Time) *element.Period {
	if from.IsZero() && until.IsZero() {
		return nil
	}
	p := &element.Period{}
	if !from.IsZero() {
		p.Start = from.UTC().Format(time.RFC3339)
	}
	if !until.IsZero() {
		p.End = until.UTC().Format(time.RFC3339)
	}
	return p
}

// marshal is like json.Marshal without escaping for HTML.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSpace(b.Bytes()), err
}

func vendorName(t Terms) string {
	switch {
	case t.Vendor == "":
		return "all your devices and apps"
	case t.VendorName != "":
		return t.VendorName
	}
	return t.Vendor
}

func categoryName(c string) string {
	switch c {
	case "vital-signs":
		return "body signs such as heart rate and temperature"
	case "activity":
		return "steps and exercise"
	case "sleep":
		return "sleep"
	case "laboratory":
		return "lab values such as blood sugar"
	case CategoryLocation:
		return "where you went during workouts: start, end and area"
	case "survey":
		return "answers you gave to questions"
	}
	return strings.ReplaceAll(c, "-", " ")
}

// termsText returns the narrative for t in plain language.
func termsText(t Terms) string {
	what := "all the health data"
	if len(t.Categories) > 0 {
		var names []string
		for _, c := range t.Categories {
			names = append(names, categoryName(c))
		}
		what = "only this health data: " + strings.Join(names, "; ") + ","
	}
	who := "every app and clinic that is registered with this server"
	if t.Recipient != AnyRecipient {
		who = "one app or clinic, registered as " + t.Recipient
	}
	s := "You agree that this server collects " + what + " from " + vendorName(t) + "."
	if t.CollectOnly {
		s += " This does not allow any app or clinic to see it. You decide that separately for each of them."
	} else {
		s += " You agree that it may be seen by " + who + "."
	}
	if !t.Until.IsZero() {
		s += " This ends on " + t.Until.UTC().Format("2 January 2006") + "."
	}
	return div(s + " You can take this back at any time. From then on, nothing more is collected or shown.")
}

// div returns an XHTML narrative with a paragraph and an optional list.
func div(s string, list ...string) string {
	var b strings.Builder
	b.WriteString(`<div xmlns="http://www.w3.org/1999/xhtml"><p>` + html.EscapeString(s) + `</p>`)
	for i, x := range list {
		if i == 0 {
			b.WriteString("<ul>")
		}
		b.WriteString("<li>" + html.EscapeString(x) + "</li>")
		if i == len(list)-1 {
			b.WriteString("</ul>")
		}
	}
	b.WriteString("</div>")
	return b.String()
}

// Withdraw returns r with the status inactive and another narrative. Withdrawn
// Consents are not deleted, so that the history of consents is preserved.
func Withdraw(r fhir.Resource) (fhir.Resource, error) {
	return end(r, "You have taken back this consent. Nothing more is collected or shown under it.")
}

func end(r fhir.Resource, text string) (fhir.Resource, error) {
	return rewrite(r, text, map[string]json.RawMessage{"status": json.RawMessage(`"` + statusWithdrawn + `"`)})
}

// rewrite returns r in canonical form with another narrative and the changed
// members. It adds members that r lacks and preserves all others.
func rewrite(r fhir.Resource, narrative string, change map[string]json.RawMessage) (fhir.Resource, error) {
	const op = "consent.rewrite"
	dec := json.NewDecoder(bytes.NewReader(r.JSON))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return fhir.Resource{}, fhir.Errorf(fhir.Internal, op, "the stored Consent cannot be read")
	}
	text, err := marshal(element.Narrative{Status: "generated", Div: div(narrative)})
	if err != nil {
		return fhir.Resource{}, fhir.Wrap(op, err)
	}
	var out, rest bytes.Buffer
	out.WriteString(fhir.Prefix("Consent", r.ID))
	member := func(name string, v []byte) {
		fmt.Fprintf(&rest, ",%q:%s", name, v)
	}
	missing := maps.Clone(change)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return fhir.Resource{}, fhir.Wrap(op, err)
		}
		name, _ := t.(string)
		var v json.RawMessage
		if err := dec.Decode(&v); err != nil {
			return fhir.Resource{}, fhir.Wrap(op, err)
		}
		if w, ok := change[name]; ok {
			delete(missing, name)
			v = w
		}
		switch name {
		case "resourceType", "id", "text":
		case "meta":
			if err := writeMeta(&out, v); err != nil {
				return fhir.Resource{}, fhir.Wrap(op, err)
			}
		default:
			member(name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		member(name, missing[name])
	}
	out.WriteString(`},"text":`)
	out.Write(text)
	out.Write(rest.Bytes())
	out.WriteByte('}')
	return fhir.Resource{Type: "Consent", ID: r.ID, JSON: out.Bytes()}, nil
}

// writeMeta writes the members of a stored meta except versionId and lastUpdated.
func writeMeta(out *bytes.Buffer, v json.RawMessage) error {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(v, &m); err != nil {
		return err
	}
	delete(m, "versionId")
	delete(m, "lastUpdated")
	b, err := marshal(m)
	if err != nil {
		return err
	}
	out.Write(b[1 : len(b)-1])
	return nil
}

// Describe returns the summary of a Consent that this server built.
func Describe(r fhir.Resource) (Summary, error) {
	var d document
	if err := json.Unmarshal(r.JSON, &d); err != nil {
		return Summary{}, fhir.Wrap("consent.Describe", err)
	}
	s := Summary{ID: r.ID, Status: d.Status, Patient: strings.TrimPrefix(d.Patient.Reference, "Patient/"),
		Date: d.DateTime}
	base := false
	root := rule{}
	if len(d.Provision) > 0 {
		root = provision(d.Provision, &base, 0)
	}
	s.Vendor, s.Recipient = strings.Join(root.vendors, ","), strings.Join(root.recipients, ",")
	s.Categories = root.categories
	return s, nil
}
