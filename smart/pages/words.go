package pages

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/smart/authz"
	"pulsegate/smart/scope"
)

const (
	hl7Category = element.ObservationCategory
	observation = "Observation"
)

// kinds are resource types in plain words. compartment: it belongs to a
// patient.
var kinds = []struct {
	typ, what, hint string
	compartment     bool
}{
	{observation, "measurements", "Heart rate, blood pressure, steps, sleep, weight and whatever else the devices measure", true},
	{"Patient", "personal details", "Name, date of birth, gender, contact details", true},
	{"Device", "devices", "Which watch, ring or sensor is worn", true},
	{"Provenance", "origins of measurements", "From which device and service each one came, and when", true},
	{"Consent", "consents", "What was agreed to, and with whom", true},
	{"AuditEvent", "the access record", "Who looked at the data, and when", true},
	{"Practitioner", "practitioners", "Names of doctors and nurses", false},
	{"Organization", "organisations", "Names of hospitals and practices", false},
	{"Group", "groups of patients", "Cohorts and panels", false},
	{"Subscription", "notifications", "What is sent to whom when new data arrives", false},
}

// categories are the kinds of measurements that a scope can be narrowed to.
var categories = []struct{ system, code, name, hint string }{
	{hl7Category, "vital-signs", "Vital signs", "heart rate, blood pressure, oxygen, temperature, weight"},
	{hl7Category, "activity", "Activity", "steps, distance, energy, exercise"},
	{fhir.Canonical + "/CodeSystem/observation-category", "sleep", "Sleep", "when, how long, which stages"},
	{hl7Category, "laboratory", "Laboratory", "blood glucose and other results"},
	{hl7Category, "exam", "Examination", "skin temperature, ECG and other findings"},
	{hl7Category, "procedure", "Procedures", "what was done"},
	{hl7Category, "survey", "Questions and scores", "tags, moods, readiness"},
	{hl7Category, "social-history", "Social history", "smoking, work, living"},
}

func kindWords(typ string) (what, hint string) {
	for _, k := range kinds {
		if k.typ == typ {
			return k.what, k.hint
		}
	}
	return typ, ""
}

// verbs says what may be done: "See", "See and change", …
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

// self stands for the person who reads the sentence.
const self = "you"

const everybody = "everybody whose data you may see"

// whose is the end of a scope's sentence.
func whose(l scope.Level, patient string) string {
	switch {
	case l == scope.Patient && patient != "":
		return " of " + patient
	case l == scope.Patient:
		return " of the patient"
	}
	return " of " + everybody
}

// sentence is one scope in plain words, and a hint.
func sentence(s scope.Scope, patient string) (text, hint string) {
	switch s.Name {
	case "":
	case scope.OpenID:
		return "Know that it is you", "An identifier that stays the same each time you sign in"
	case scope.FHIRUser, scope.Profile:
		return "Know who you are here", "Which patient or practitioner you are in this system"
	case scope.Launch, scope.LaunchPatient:
		return "Know which patient this is about", ""
	case scope.LaunchEncounter:
		return "Know which visit this is about", ""
	case scope.Offline:
		return "Keep access when you are not there", lasts(scope.Offline, 0)
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
	return text + whose(s.Level, patient), hint
}

// lasts says how long an app keeps access: with the scope offline_access, with
// online_access, or with neither, when only its first token, which lives for
// life, counts. It is the one place for these words.
func lasts(scopeName string, life time.Duration) string {
	switch scopeName {
	case scope.Offline:
		return fmt.Sprintf("Until you take it back; %d days at most, and no longer than %d days without use.",
			int(authz.AbsoluteLife.Hours()/24), int(authz.IdleLife.Hours()/24))
	case scope.Online:
		return fmt.Sprintf("As long as you stay signed in; %d hours at most.", int(authz.SessionLife.Hours()))
	}
	minutes := fmt.Sprintf("%d minutes", int(life.Minutes()))
	if life == time.Minute {
		minutes = "a minute"
	}
	return "For this use of the app; " + minutes + " at most."
}

// kept is the scope by which access outlives its first token; "" none.
func kept(set scope.Set) string {
	switch {
	case set.Has(scope.Offline):
		return scope.Offline
	case set.Has(scope.Online):
		return scope.Online
	}
	return ""
}

// limits says what a granular scope is limited to.
func limits(s scope.Scope) string {
	var out []string
	for _, p := range s.Params {
		var any []string
		for _, t := range p.Any {
			name := t.Code
			for _, c := range categories {
				if p.Name == "category" && c.code == t.Code && (t.System == "" || t.System == c.system) {
					name = strings.ToLower(c.name)
				}
			}
			if name == "" {
				name = "a code of " + t.System
			}
			any = append(any, name)
		}
		is := strings.Join(any, " or ")
		if p.Name != "category" {
			is = p.Name + " " + is
		}
		out = append(out, is)
	}
	return strings.Join(out, " and ")
}

// wide are the types that a wildcard stands for.
func wide(l scope.Level) []string {
	var out []string
	for _, k := range kinds {
		if k.compartment || l != scope.Patient {
			out = append(out, k.typ)
		}
	}
	return out
}

// offered is one line of the consent screen.
type offered struct {
	Index      int
	Scope      string
	Text, Hint string
	Writes     bool
	Fixed      bool // comes with the rest; no box
	Types      []choice
	Categories []choice
}

type choice struct{ Value, Text, Hint string }

// offer lays out the scopes that an app asks for.
func offer(set scope.Set, patient string) []offered {
	var out []offered
	for i, s := range set {
		o := offered{Index: i, Scope: scope.Set{s}.String(), Writes: writes(s.May)}
		o.Text, o.Hint = sentence(s, patient)
		o.Fixed = s.Name == scope.Launch || s.Name == scope.LaunchPatient || s.Name == scope.LaunchEncounter ||
			s.Name == scope.OpenID
		if s.Type == "*" {
			for _, t := range wide(s.Level) {
				what, hint := kindWords(t)
				o.Types = append(o.Types, choice{t, strings.ToUpper(what[:1]) + what[1:], hint})
			}
		}
		if narrows(s) {
			for _, c := range categories {
				o.Categories = append(o.Categories, choice{c.code, c.name, c.hint})
			}
		}
		out = append(out, o)
	}
	return out
}

// narrows reports whether a scope can be narrowed to categories.
func narrows(s scope.Scope) bool {
	return s.Name == "" && (s.Type == observation || s.Type == "*") && len(s.Params) == 0 && s.Level != scope.System
}

// picked is what a person left ticked of one scope.
type picked struct {
	types      []string // of a wildcard
	narrow     bool
	categories []string
}

// narrowed is what is granted of s: itself when nothing was taken away, else
// its parts. It never goes beyond s.
func narrowed(s scope.Scope, p picked) ([]string, error) {
	if s.Name != "" {
		return []string{scope.Set{s}.String()}, nil
	}
	types := []string{s.Type}
	whole := true
	if s.Type == "*" {
		types = slices.DeleteFunc(wide(s.Level), func(t string) bool { return !slices.Contains(p.types, t) })
		whole = len(types) == len(wide(s.Level))
	}
	cut := p.narrow && narrows(s) && slices.Contains(types, observation)
	if whole && !cut {
		return []string{scope.Set{s}.String()}, nil
	}
	var out []string
	for _, t := range types {
		part := scope.Scope{Level: s.Level, Type: t, May: s.May, Params: s.Params}
		if t != observation || !cut {
			out = append(out, scope.Set{part}.String())
			continue
		}
		before := len(out)
		for _, c := range categories {
			if slices.Contains(p.categories, c.code) {
				part.Params = []access.Param{{Name: "category", Any: []access.Token{{System: c.system, Code: c.code}}}}
				out = append(out, scope.Set{part}.String())
			}
		}
		if len(out) == before {
			return nil, fhir.Errorf(fhir.Invalid, "pages.narrowed",
				"Choose at least one kind of measurement, or untick measurements as a whole.")
		}
	}
	return out, nil
}
