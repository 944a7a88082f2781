package pages

import (
	"errors"
	"strings"

	"pulsegate/fhir"
)

// field is a field of a form: what errors call it, its id on the page and its
// name there.
type field struct{ place, id, label string }

// The fields of the forms that can be wrong. Errors of other packages begin
// with the place: "name: 1 to 200 bytes …".
var (
	userFields = []field{{"login", "login", "name for signing in"}, {"name", "name", "full name"},
		{"role", "role-patient", "role"},
		{"patient", "patient", "Patient resource"}, {"practitioner", "practitioner", "Practitioner resource"}}
	passwordFields = []field{{"password", "password", "password"}, {"repeat", "repeat", "repetition"},
		{"code", "code", "code"}}
	clientFields = []field{{"name", "name", "name"}, {"redirect_uris", "redirects", "redirect URI"},
		{"redirect_uri", "redirects", "redirect URI"}, {"launch_url", "launch", "launch URL"},
		{"initiate_login_uri", "launch", "launch URL"}, {"scope", "scope", "scope"},
		{"jwks_url", "jwks_url", "URL of the keys"}, {"jwks_uri", "jwks_url", "URL of the keys"},
		{"jwks", "jwks", "key set"}}
	launchFields = []field{{"client_id", "client", "app"}, {"patient", "patient", "patient"},
		{"encounter", "encounter", "encounter"}}
	glassFields = []field{{"reason", "reason", "reason"}}
)

// saidAs are rules in the page's own words, where those of the package that has
// the rule speak of something else than the field.
var saidAs = map[string]string{
	"code: it is not the one that the app shows now":                               "The code is wrong or expired. Type the code that your app shows now.",
	"There is no Patient with that id.":                                            "patient: There is no Patient resource with this id.",
	"There is no Practitioner with that id.":                                       "practitioner: There is no Practitioner resource with this id.",
	"Somebody has that login already.":                                             "login: Somebody else signs in with this name already.",
	"patient: a user with the role patient is one Patient resource":                "A patient needs the id of their Patient resource.",
	"practitioner: a user with the role practitioner is one Practitioner resource": "A practitioner needs the id of their Practitioner resource.",
	"role: at least one is needed":                                                 "Choose at least one role.",
	"role: an auditor is not an administrator as well":                             "An auditor cannot be an administrator as well.",
	"reason: 10 to 1000 characters":                                                "Give the reason in 10 to 1,000 characters.",
	"note: say why it was not justified":                                           "Say why it was not justified.",
	"reason: 0 to 1000 characters":                                                 "The note has at most 1,000 characters.",
	"one of jwks and jwks_url is needed":                                           "jwks_url: Give the URL of the keys, or the key set itself.",
	"grant_types: client_credentials needs private_key_jwt":                        "redirect_uris: Give at least one redirect URI.",
	"The key set is not JSON.":                                                     "jwks: The key set is not JSON.",
	"patient: a FHIR id":                                                           "This is not the id of a patient.",
	"encounter: a FHIR id":                                                         "This is not the id of an encounter.",
}

// wrong puts an error of a form beside its field: the answer is the text of
// the field by its id, or with "" a text for the whole form.
func wrong(err error, fields []field) map[string]string {
	text := ""
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		text = e.Issues[0].Diagnostics
	}
	said, ok := saidAs[text]
	place, rest, cut := strings.Cut(text, ": ")
	if ok {
		if p, r, moved := strings.Cut(said, ": "); moved && !strings.Contains(p, " ") {
			place, cut, said = p, true, r
		}
		rest = said
	}
	if cut {
		for _, f := range fields {
			if f.place == place {
				return map[string]string{f.id: sentenceOf(rest, f.label)}
			}
		}
	}
	return map[string]string{"": words(err)}
}

// sentenceOf makes a sentence of a rule: "at most 10" is about the field, "it
// is too short" names it.
func sentenceOf(rule, label string) string {
	switch {
	case strings.HasPrefix(rule, "it "):
		rule = "The " + label + rule[2:]
	case rule != "" && rule[0] >= 'a' && rule[0] <= 'z' || rule != "" && rule[0] >= '0' && rule[0] <= '9':
		rule = "The " + label + " is not valid: " + rule
	}
	if !strings.HasSuffix(rule, ".") {
		rule += "."
	}
	return rule
}

// Err is the error of a field, for templates; "" none.
func (v view) Err(id string) string { return v.Wrong[id] }

// whole returns the text above the form: that of the form, or where to look.
func (v view) whole() string {
	if len(v.Wrong) == 0 {
		return v.Bad
	}
	if s := v.Wrong[""]; s != "" {
		return s
	}
	return "Please correct what is marked below."
}
