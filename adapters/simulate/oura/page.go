package oura

import (
	"html/template"
	"net/http"
	"net/url"
	"strings"
)

// maxChoices is the number of wearers that the page lists. Others are entered as number.
const maxChoices = 100

var consentTemplate = template.Must(template.New("consent").Parse(`<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Simulated Oura: sign in</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 30rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
label { display: block; margin: .25rem 0 } fieldset { border: 1px solid #bbb; border-radius: .5rem; margin: 1rem 0 }
button { font: inherit; padding: .5rem 1.5rem; margin-right: .5rem }
</style>
<h1>Simulated Oura</h1>
<p>This is not a service of Oura. All wearers are invented.</p>
<form method="post">
<p><label for="wearer">Sign in as</label>
{{if .Wearers}}<select id="wearer" name="wearer">{{range $i, $w := .Wearers}}
<option value="{{$i}}">{{$w.Name}} ({{$w.Zone}})</option>{{end}}
</select>{{else}}<input id="wearer" name="wearer" type="number" min="0" max="{{.Last}}" value="0">{{end}}</p>
<p><strong>{{.Client}}</strong> asks for access to:</p>
<fieldset><legend>Your data</legend>
<input type="hidden" name="granted" value="">
{{range .Scopes}}<label><input type="checkbox" name="granted" value="{{.Value}}" checked> {{.Name}}</label>
{{end}}</fieldset>
{{range $name, $values := .Query}}{{range $values}}<input type="hidden" name="{{$name}}" value="{{.}}">
{{end}}{{end}}<button name="decision" value="approve">Accept</button>
<button name="decision" value="deny">Deny</button>
</form>
`))

type choice struct{ Value, Name string }

// consentPage writes the page on which a wearer signs in and chooses scopes.
func (s *Server) consentPage(w http.ResponseWriter, a authorization) {
	data := struct {
		Client  string
		Wearers any
		Last    int
		Scopes  []choice
		Query   url.Values
	}{Client: a.client.ID, Last: len(s.opts.Wearers) - 1, Query: url.Values{}}
	if len(s.opts.Wearers) <= maxChoices {
		data.Wearers = s.opts.Wearers
	}
	for _, name := range a.scope {
		data.Scopes = append(data.Scopes, choice{name,
			strings.ReplaceAll(strings.TrimPrefix(name, scopePrefix), "_", " ")})
	}
	for _, name := range []string{"response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge",
		"code_challenge_method"} {
		if a.Query.Has(name) {
			data.Query[name] = a.Query[name][:1]
		}
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_ = consentTemplate.Execute(w, data) // the client may be gone
}
