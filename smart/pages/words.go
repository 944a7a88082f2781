package pages

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/consent"
	"pulsegate/fhir/element"
	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

const (
	hl7Category = element.ObservationCategory
	observation = "Observation"
)

// kinds describes the resource types in plain words. compartment is set for
// types of the patient compartment.
var kinds = []struct {
	typ, what, hint string
	compartment     bool
}{
	{observation, "measurements", "Heart rate, blood pressure, steps, sleep, weight and everything else that the devices measure", true},
	{"Patient", "personal details", "Name, date of birth, gender, contact details", true},
	{"Device", "devices", "The watches, rings and sensors in use", true},
	{"Provenance", "origins of measurements", "The device and service that each measurement came from, and when", true},
	{"Consent", "consents", "What was consented to, and for whom", true},
	{"AuditEvent", "the access record", "Who looked at the data, and when", true},
	{"Practitioner", "practitioners", "Names of doctors and nurses", false},
	{"Organization", "organizations", "Names of hospitals and practices", false},
	{"CodeSystem", "codes of measurements", "Names of the codes that measurements have", false},
	{"ConceptMap", "mappings of codes", "Which vendor's code becomes which standard code", false},
	{"Group", "groups of patients", "Cohorts and panels", false},
	{"Basic", "topics of notifications", "What can be notified of", false},
	{"Subscription", "notifications", "Who is notified of new data, and how", false},
}

// categories lists the Observation categories that a scope can be limited to.
var categories = []struct{ system, code, name, hint string }{
	{hl7Category, "vital-signs", "Vital signs", "heart rate, blood pressure, oxygen, temperature, weight"},
	{hl7Category, "activity", "Activity", "steps, distance, energy, exercise"},
	{fhir.Canonical + "/CodeSystem/observation-category", "sleep", "Sleep", "times, duration and stages"},
	{hl7Category, "laboratory", "Laboratory", "blood glucose and other results"},
	{hl7Category, "exam", "Examination", "skin temperature, ECG and other findings"},
	{hl7Category, "procedure", "Procedures", "procedures performed"},
	{hl7Category, "survey", "Questions and scores", "tags, moods, readiness"},
	{hl7Category, "social-history", "Social history", "smoking, work, living"},
	{fhir.Canonical + "/CodeSystem/observation-category", consent.CategoryLocation, "Location during workouts",
		"start, end and area; shared only if you select it here"},
}

func kindWords(typ string) (what, hint string) {
	for _, k := range kinds {
		if k.typ == typ {
			return k.what, k.hint
		}
	}
	return typ, ""
}

// verbs describes the permissions: "See", "See and change", …
func verbs(may access.Interaction) string {
	var out []string
	for _, v := range []struct {
		is  access.Interaction
		say string
	}{{access.Read | access.Search, "see"}, {access.Create, "add"}, {access.Update, "change"},
		{access.Delete, "delete"}} {
		if may&v.is != 0 {
			out = append(out, v.say)
		}
	}
	if len(out) == 0 {
		return "Use"
	}
	s := out[0]
	if n := len(out); n > 1 {
		s = strings.Join(out[:n-1], ", ") + " and " + out[n-1]
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

func writes(may access.Interaction) bool {
	return may&(access.Create|access.Update|access.Delete) != 0
}

// self names the patient of a sentence if that is its reader.
const self = "you"

const everybody = "everyone whose data you may see"

// owner returns the end of a scope's sentence, which names the owner of the
// data.
func owner(l scope.Level, patient string) string {
	switch {
	case l == scope.Patient && patient != "":
		return " of " + patient
	case l == scope.Patient:
		return " of the patient"
	}
	return " of " + everybody
}

// sentence describes one scope in plain words, with a hint.
func sentence(s scope.Scope, patient string) (text, hint string) {
	switch s.Name {
	case "":
	case scope.OpenID:
		return "Recognize you", "An identifier that stays the same each time you sign in"
	case scope.FHIRUser, scope.Profile:
		return "Know who you are in this system", "Your patient or practitioner record"
	case scope.Launch, scope.LaunchPatient:
		return "Know which patient this is about", ""
	case scope.LaunchEncounter:
		return "Know which visit this is about", ""
	case scope.Offline:
		return "Keep access while you are away", lasts(scope.Offline, 0)
	case scope.Online:
		return "Keep access while you are signed in", lasts(scope.Online, 0)
	}
	what, hint := kindWords(s.Type)
	if s.Type == "*" {
		what, hint = "all data", "Measurements, personal details, devices, consents and the access record"
	}
	own := s.Level == scope.Patient && patient == self
	switch {
	case own && s.Type == "*":
		what = "all your data"
	case own:
		what = "your " + strings.TrimPrefix(what, "the ")
	}
	text = verbs(s.May) + " " + what
	if only := limits(s); only != "" {
		text += ", only " + only
		hint = ""
		if !own {
			text += ","
		}
	}
	if own {
		return text, hint
	}
	return text + owner(s.Level, patient), hint
}

// lasts describes how long an app keeps access with the scope offline_access,
// with online_access, or with neither. In the last case access ends with the
// first token, which lives for life. All pages take these words from here.
func lasts(scopeName string, life time.Duration) string {
	switch scopeName {
	case scope.Offline:
		return fmt.Sprintf("Until you revoke it or after %d days without use, for at most %d days.",
			int(authz.IdleLife.Hours()/24), int(authz.AbsoluteLife.Hours()/24))
	case scope.Online:
		return fmt.Sprintf("As long as you stay signed in, for at most %d hours.", int(authz.SessionLife.Hours()))
	}
	minutes := fmt.Sprintf("%d minutes", int(life.Minutes()))
	if life == time.Minute {
		minutes = "a minute"
	}
	return "For this use of the app, for at most " + minutes + "."
}

// kept returns the scope that extends access beyond the first token, "" if
// there is none.
func kept(set scope.Set) string {
	switch {
	case set.Has(scope.Offline):
		return scope.Offline
	case set.Has(scope.Online):
		return scope.Online
	}
	return ""
}

// limits describes the search parameters of a granular scope.
func limits(s scope.Scope) string {
	var out []string
	for _, param := range s.Params {
		var any []string
		for _, t := range param.Any {
			name := t.Code
			for _, c := range categories {
				if param.Name == "category" && c.code == t.Code && (t.System == "" || t.System == c.system) {
					name = strings.ToLower(c.name)
				}
			}
			if name == "" {
				name = "a code of " + t.System
			}
			any = append(any, name)
		}
		is := strings.Join(any, " or ")
		if param.Name != "category" {
			is = param.Name + " " + is
		}
		out = append(out, is)
	}
	return strings.Join(out, " and ")
}

// wildcardTypes returns the types that a wildcard stands for.
func wildcardTypes(l scope.Level) []string {
	var out []string
	for _, k := range kinds {
		if k.compartment || l != scope.Patient {
			out = append(out, k.typ)
		}
	}
	return out
}

// offered is one item of the consent screen.
type offered struct {
	Index      int
	Scope      string
	Text, Hint string
	Writes     bool
	Fixed      bool // cannot be deselected
	Types      []choice
	Categories []choice
}

type choice struct{ Value, Text, Hint string }

// offer returns the items of the consent screen for the requested scopes.
func offer(set scope.Set, patient string) []offered {
	var out []offered
	for i, s := range set {
		item := offered{Index: i, Scope: scope.Set{s}.String(), Writes: writes(s.May)}
		item.Text, item.Hint = sentence(s, patient)
		item.Fixed = s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter ||
			s.Name == scope.OpenID
		if s.Type == "*" {
			for _, t := range wildcardTypes(s.Level) {
				what, hint := kindWords(t)
				item.Types = append(item.Types, choice{t, strings.ToUpper(what[:1]) + what[1:], hint})
			}
		}
		if narrows(s) {
			for _, c := range categories {
				item.Categories = append(item.Categories, choice{c.code, c.name, c.hint})
			}
		}
		out = append(out, item)
	}
	return out
}

// narrows reports whether a scope can be limited to categories.
func narrows(s scope.Scope) bool {
	return s.Name == "" && (s.Type == observation || s.Type == "*") && len(s.Params) == 0 && s.Level != scope.System
}

// picked holds the person's selection within one scope.
type picked struct {
	types      []string // selected types of a wildcard
	narrow     bool
	categories []string
}

// narrowed returns the scopes that are granted of s: s itself if everything is
// selected, otherwise the selected parts. The result never exceeds s.
func narrowed(s scope.Scope, selection picked) ([]string, error) {
	if s.Name != "" {
		return []string{scope.Set{s}.String()}, nil
	}
	types := []string{s.Type}
	complete := true
	if s.Type == "*" {
		types = slices.DeleteFunc(wildcardTypes(s.Level),
			func(t string) bool { return !slices.Contains(selection.types, t) })
		complete = len(types) == len(wildcardTypes(s.Level))
	}
	limited := selection.narrow && narrows(s) && slices.Contains(types, observation)
	if complete && !limited {
		return []string{scope.Set{s}.String()}, nil
	}
	var out []string
	for _, t := range types {
		part := scope.Scope{Level: s.Level, Type: t, May: s.May, Params: s.Params}
		if t != observation || !limited {
			out = append(out, scope.Set{part}.String())
			continue
		}
		before := len(out)
		for _, c := range categories {
			if slices.Contains(selection.categories, c.code) {
				part.Params = []access.Param{{Name: "category", Any: []access.Token{{System: c.system, Code: c.code}}}}
				out = append(out, scope.Set{part}.String())
			}
		}
		if len(out) == before {
			return nil, fhir.Errorf(fhir.Invalid, "pages.narrowed",
				"Select at least one kind of measurement, or clear the box for measurements.")
		}
	}
	return out, nil
}
