// Package vendors lists the adapters of this build. It is the only place that
// names them all: the server, the help of its commands, the texts of consents
// and the landing page take the vendors from here.
package vendors

import (
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/apple"
	"pulsegate/adapters/fitbit"
	"pulsegate/adapters/oura"
)

// All returns the adapters in alphabetical order. A new vendor is added here.
func All() []adapters.Adapter {
	return []adapters.Adapter{apple.New(), fitbit.New(), oura.New()}
}

// Codes lists the vendors as commands and URLs name them, for help and error
// texts: "apple, fitbit or oura".
func Codes() string { return join(adapters.Adapter.Vendor, "or") }

// Names lists the vendors as people know them: "Apple Health, Fitbit and Oura".
func Names() string { return join(adapters.Adapter.Name, "and") }

// Name returns the name of a vendor as people know it, the code itself for a
// vendor that this build does not have.
func Name(vendor string) string {
	for _, a := range All() {
		if a.Vendor() == vendor {
			return a.Name()
		}
	}
	return vendor
}

func join(of func(adapters.Adapter) string, last string) string {
	var out []string
	for _, a := range All() {
		out = append(out, of(a))
	}
	if n := len(out); n > 1 {
		return strings.Join(out[:n-1], ", ") + " " + last + " " + out[n-1]
	}
	return strings.Join(out, "")
}
