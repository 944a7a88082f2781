package preferred

import (
	"testing"

	"pulsegate/fhir/rapidtest"
)

// TestMain sets the default to few cases. Flags override it.
func TestMain(m *testing.M) { rapidtest.Main(m, 25, 5) }
