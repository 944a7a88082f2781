package pushkey

import (
	"net/url"
	"slices"

	"pulsegate/adapters"
)

// Settings holds what to enter in an app, or in a script, that sends one format with
// a push key.
type Settings struct {
	Format  string `json:"format"`
	Summary string `json:"summary"`
	App     string `json:"app,omitempty"` // the app that sends the format, if there is one
	Method  string `json:"method"`
	URL     string `json:"url"`
	// Header and Value are the header that carries the key.
	Header string `json:"header"`
	Value  string `json:"value"`
	// Choices are the settings of the app and what to choose for them.
	Choices [][2]string `json:"choices,omitempty"`
}

// SettingsFor returns the settings for the formats of a vendor, those with an app
// first. base is the server's base URL.
func SettingsFor(base string, a adapters.Adapter, key string) []Settings {
	var out []Settings
	for _, f := range a.Formats() {
		out = append(out, Settings{Format: f.Name, Summary: f.Summary, App: f.App, Method: "POST",
			URL:    base + "/ingest/" + url.PathEscape(a.Vendor()) + "/" + url.PathEscape(f.Name),
			Header: "Authorization", Value: "Bearer " + key, Choices: f.Choices})
	}
	slices.SortStableFunc(out, func(a, b Settings) int {
		switch {
		case a.App != "" && b.App == "":
			return -1
		case a.App == "" && b.App != "":
			return 1
		}
		return 0
	})
	return out
}
