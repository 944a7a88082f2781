// Package clouds lists the vendors whose clouds this build can connect to. No other
// place names them all.
package clouds

import (
	"maps"
	"slices"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/googlehealth"
	"pulsegate/adapters/cloud/oura"
	"pulsegate/adapters/cloud/withings"
)

// All returns the constructors by vendor code. Add a new vendor here.
func All() map[string]cloud.New {
	return map[string]cloud.New{"fitbit": googlehealth.New, "oura": oura.New, "withings": withings.New}
}

// Codes lists the vendor codes in order.
func Codes() []string { return slices.Sorted(maps.Keys(All())) }
