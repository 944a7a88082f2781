package fhir_test

import (
	"bytes"
	"testing"

	"pulsegate/fhir"
)

func TestNewIDReturnsLowerCaseBase32Of128Bits(t *testing.T) {
	id, err := fhir.NewID(bytes.NewReader(bytes.Repeat([]byte{0xff}, 16)))
	if err != nil || id != "77777777777777777777777774" || !fhir.ValidID(id) {
		t.Errorf("NewID = %q, %v", id, err)
	}
}

func TestNewIDFailsWhenRandomEnds(t *testing.T) {
	if id, err := fhir.NewID(bytes.NewReader(make([]byte, 15))); err == nil {
		t.Errorf("NewID = %q without enough random bytes", id)
	}
}

func TestRandomIDsDiffer(t *testing.T) {
	if a, b := fhir.RandomID(), fhir.RandomID(); a == b || !fhir.ValidID(a) {
		t.Errorf("RandomID returned %q and %q", a, b)
	}
}
