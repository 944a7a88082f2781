package apple

import (
	"testing"

	"pulsegate/adapters/adaptertest"
)

func TestAdapter(t *testing.T) {
	adaptertest.Run(t, New(), "testdata", adaptertest.Unterminated(formatECG))
}
