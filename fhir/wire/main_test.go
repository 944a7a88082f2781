package wire

import (
	"testing"

	"pulsegate/fhir/rapidtest"
)

func TestMain(m *testing.M) { rapidtest.Main(m, 200, 20) }
