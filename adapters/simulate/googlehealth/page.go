package googlehealth

import (
	"html/template"
	"net/http"
	"slices"
)

// maxChoices bounds the accounts that the consent page lists.
const maxChoices = 100

var consentTemplate = template.Must(template.New("consent").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Sign in - Google Health simulator</title>
<style>body{font:16px/1.5 sans-serif;max-width:34rem;margin:2rem auto;padding:0 1rem}
label{display:block;margin:.4rem 0}button{font:inherit;padding:.4rem 1.2rem;margin:1rem .5rem 0 0}</style></head>
<body><h1>Google Health simulator</h1>
<p><strong>{{.Client}}</strong> wants access to your account. All persons and data here are invented.</p>
<form method="post" action="auth">
{{range $name, $values := .Values}}{{range $values}}<input type="hidden" name="{{$name}}" value="{{.}}">
{{end}}{{end}}<input type="hidden" name="granular" value="1">
<label>Account <select name="account">{{range .Accounts}}
<option value="{{.ID}}"{{if .Selected}} selected{{end}}>{{.Name}}</option>{{end}}</select></label>
<fieldset><legend>Select what {{.Client}} can access</legend>{{range .Scopes}}
<label><input type="checkbox" name="grant" value="{{.}}" checked> {{.}}</label>{{end}}</fieldset>
<button name="decision" value="allow">Continue</button><button name="decision" value="deny">Cancel</button>
</form></body></html>
`))

type choice struct {
	ID, Name string
	Selected bool
}

// consentPage writes the page on which a person picks an account and scopes.
func (s *Server) consentPage(w http.ResponseWriter, req *request) {
	var choices []choice
	for i, g := range s.wearers {
		hinted := req.values.Get("login_hint") == g.account
		if len(choices) >= maxChoices && !hinted && g.linked {
			continue
		}
		name := g.Name + " (" + g.device + ", " + g.Zone.String() + ")"
		if !g.linked {
			name = s.wearers[i].Name + " (no Google Health data)"
		}
		choices = append(choices, choice{g.account, name, hinted})
	}
	values := map[string][]string{}
	for name, v := range req.values {
		if !slices.Contains([]string{"account", "decision", "grant", "granular"}, name) {
			values[name] = v
		}
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	_ = consentTemplate.Execute(w, map[string]any{ // the browser may be gone
		"Client": req.client.ID, "Values": values, "Accounts": choices, "Scopes": req.scopes})
}

var errorTemplate = template.Must(template.New("error").Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Error - Google Health simulator</title></head>
<body><h1>Access blocked: authorization error</h1><p>Error {{.Code}}: {{.Name}}</p></body></html>
`))

// errorPage writes an error of the authorization endpoint.
func errorPage(w http.ResponseWriter, name string) {
	status := http.StatusBadRequest
	if name == "invalid_client" {
		status = http.StatusUnauthorized
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_ = errorTemplate.Execute(w, map[string]any{"Code": status, "Name": name}) // the browser may be gone
}
