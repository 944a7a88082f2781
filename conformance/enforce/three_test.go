package enforce

import (
	"flag"
	"testing"

	"pulsegate/fhir/rapidtest"
)

// These tests run the others through three servers, each with a store of its own over one
// log, and with a set of services of its own. Each request goes to another server than the
// last, and the roles move to another server before each step.

var (
	three     = flag.Int("enforce.three", 1, "cases to run through three servers")
	threeSeed = flag.Uint64("enforce.three-seed", 0, "first of these cases; 0 takes RAPID_SEED or a random one")
)

// TestEverySurfaceThroughThree compares random cases with the model while the log loses
// requests and answers, and receives entries late.
func TestEverySurfaceThroughThree(t *testing.T) {
	first := int(rapidtest.Seed(*threeSeed) % 1e9)
	t.Logf("-enforce.three-seed %d", first)
	seen := map[string]int{}
	for i := range *three {
		tc := cases.Example(first + i)
		if err := check(&tc, noFault, roughLog, seen); err != nil {
			t.Fatalf("case %d: %v", first+i, err)
		}
	}
	t.Log(counts(seen))
}

// TestControlsThroughThree checks that each server with a fault is detected. With one
// case, it runs only the control that several servers concern most.
func TestControlsThroughThree(t *testing.T) {
	if *three == 1 {
		testControl(t, staleConsents, threeStores)
		return
	}
	testControls(t, threeStores)
}

// TestConsentWritesThroughThree sends random writes of Consents.
func TestConsentWritesThroughThree(t *testing.T) {
	for i := range *three {
		seed := int(rapidtest.Seed(0)%1e9) + i
		if err := attack(noFault, roughLog, i%2 == 0, lists.Example(seed)); err != nil {
			t.Fatalf("list %d: %v", seed, err)
		}
	}
}

// TestConsentWriteControlsThroughThree checks that servers with a fault are detected.
func TestConsentWriteControlsThroughThree(t *testing.T) { testConsentWriteControls(t, threeStores) }

// longThree returns the long answers that end through three servers: by default one of
// each way to check the right while an answer is sent, which is in the handler and in the
// export.
func longThree() []string {
	if *three == 1 {
		return []string{"search", "export"}
	}
	return long
}

// TestRightEndsDuringAnswerThroughThree checks that an answer ends with the right to it,
// which another server ends.
func TestRightEndsDuringAnswerThroughThree(t *testing.T) {
	if err := endRights(noFault, threeStores, longThree()...); err != nil {
		t.Fatal(err)
	}
}

// TestRightEndsDuringAnswerControlsThroughThree checks that servers which check rights only
// at the start are detected.
func TestRightEndsDuringAnswerControlsThroughThree(t *testing.T) {
	testRightEndsControls(t, threeStores, longThree()...)
}
