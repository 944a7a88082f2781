package pages

import (
	"errors"
	"strings"

	"pulsegate/fhir"
)

// field describes a form field: its name in error texts, its element ID, and
// its label on the page.
type field struct{ name, id, label string }

// The form fields that can be wrong. Errors of other packages begin with the
// field's name: "name: it must have 1 to 200 bytes …".
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

// pageTexts maps error texts of other packages to the wording of the page,
// where those texts do not name the form field.
var pageTexts = map[string]string{
	"There is no Patient with that id.":                     "patient: There is no Patient resource with this ID.",
	"There is no Practitioner with that id.":                "practitioner: There is no Practitioner resource with this ID.",
	"This login is already in use.":                         "login: This name is already in use.",
	"patient: required for the role patient":                "A patient needs the ID of their Patient resource.",
	"practitioner: required for the role practitioner":      "A practitioner needs the ID of their Practitioner resource.",
	"role: at least one role is required":                   "Choose at least one role.",
	"role: an auditor cannot be an administrator as well":   "An auditor cannot be an administrator as well.",
	"reason: 10 to 1000 characters":                         "Enter a reason of 10 to 1,000 characters.",
	"note: say why it was not justified":                    "Say why it was not justified.",
	"reason: 0 to 1000 characters":                          "The note must not be longer than 1,000 characters.",
	"one of jwks and jwks_url is needed":                    "jwks_url: Enter the URL of the keys, or the key set itself.",
	"grant_types: client_credentials needs private_key_jwt": "redirect_uris: Enter at least one redirect URI.",
	"The key set is not JSON.":                              "jwks: The key set is not JSON.",
	"patient: must be a FHIR id":                            "This is not the ID of a patient.",
	"encounter: must be a FHIR id":                          "This is not the ID of an encounter.",
}

// wrong assigns an error to a form field. The result maps the field's element
// ID to the text, or "" to a text for the whole form.
func wrong(err error, fields []field) map[string]string {
	text := ""
	var e *fhir.Error
	if errors.As(err, &e) && len(e.Issues) > 0 {
		text = e.Issues[0].Diagnostics
	}
	replacement, ok := pageTexts[text]
	name, rest, cut := strings.Cut(text, ": ")
	if ok {
		text = replacement
		if n, r, moved := strings.Cut(text, ": "); moved && !strings.Contains(n, " ") {
			name, cut, text = n, true, r
		}
		rest = text
	}
	if cut {
		for _, f := range fields {
			if f.name == name {
				return map[string]string{f.id: sentenceOf(rest, f.label)}
			}
		}
	}
	return map[string]string{"": message(err)}
}

// sentenceOf turns an error text into a sentence that names the field: "it is
// too short" becomes "The name is too short."
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

// Err returns the error of a field for templates, "" if there is none.
func (v view) Err(id string) string { return v.Wrong[id] }

// summary returns the text above the form: the error of the whole form, or a
// hint to look below.
func (v view) summary() string {
	if len(v.Wrong) == 0 {
		return v.Bad
	}
	if s := v.Wrong[""]; s != "" {
		return s
	}
	return "Correct the fields marked below."
}
