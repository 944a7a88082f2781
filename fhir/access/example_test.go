package access_test

import (
	"fmt"

	"pulsegate/fhir/access"
)

// sleepOnly permits the recipients of its list to see sleep data of any patient.
type sleepOnly []string

func (recipients sleepOnly) Permits(recipient string, f *access.Facts) bool {
	for _, r := range recipients {
		if r == recipient {
			return len(f.Categories) == 1 && f.Categories[0] == "sleep"
		}
	}
	return false
}

// ExampleFilter decides about single resources: the rules of the grant and the
// patient's consents must both permit the interaction.
func ExampleFilter() {
	grant := &access.Grant{
		Recipient: "clinic",
		Rules:     []access.Rule{{Type: "Observation", May: access.Read | access.Search}},
		Consents:  sleepOnly{"clinic"},
	}
	filter := grant.Filter(access.Read)

	night := &access.Facts{Type: "Observation", ID: "o1", Patient: "p1", Categories: []string{"sleep"}}
	pulse := &access.Facts{Type: "Observation", ID: "o2", Patient: "p1", Categories: []string{"vital-signs"}}
	device := &access.Facts{Type: "Device", ID: "d1", Patient: "p1", Categories: []string{"sleep"}}
	fmt.Println("sleep:", filter.Allow(night))
	fmt.Println("vital signs, without a consent:", filter.Allow(pulse))
	fmt.Println("vital signs, within the scopes:", filter.Covers(pulse))
	fmt.Println("device, outside the scopes:", filter.Allow(device))
	// Output:
	// sleep: true
	// vital signs, without a consent: false
	// vital signs, within the scopes: true
	// device, outside the scopes: false
}
