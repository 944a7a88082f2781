// Package vendors lists the adapters of this build. No other place names them all: the
// server, the help of its commands, the texts of consents and the landing page take
// the vendors from here.
package vendors

import (
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
	"pulsegate/adapters/withings"
)

// All returns the adapters, ordered by vendor code. Add a new vendor here.
func All() []adapters.Adapter {
	return []adapters.Adapter{apple.New(), fitbit.New(), oura.New(), withings.New()}
}

// Codes lists the vendor codes of commands and URLs for help and error texts:
// "apple, fitbit, oura or withings".
func Codes() string { return join(adapters.Adapter.Vendor, "or") }

// Names lists the vendors as patients know them: "Apple Health, Fitbit, Oura
// and Withings".
func Names() string { return join(adapters.Adapter.Name, "and") }

// Name returns the name of a vendor as patients know it. If this build has no
// such vendor, it returns the code.
func Name(vendor string) string {
	for _, a := range All() {
		if a.Vendor() == vendor {
			return a.Name()
		}
	}
	return vendor
}

// Code returns the code of the vendor with the code or the name s, in any case
// ("Apple", "oura", "APPLE HEALTH"). If there is no such vendor, it returns s.
func Code(s string) string {
	for _, a := range All() {
		if strings.EqualFold(a.Vendor(), strings.TrimSpace(s)) || strings.EqualFold(a.Name(), strings.TrimSpace(s)) {
			return a.Vendor()
		}
	}
	return s
}

// join lists a text of every adapter, with the conjunction before the last.
func join(text func(adapters.Adapter) string, conjunction string) string {
	var out []string
	for _, a := range All() {
		out = append(out, text(a))
	}
	if n := len(out); n > 1 {
		return strings.Join(out[:n-1], ", ") + " " + conjunction + " " + out[n-1]
	}
	return strings.Join(out, "")
}
