package floor

import "testing"

func TestRawFloor(t *testing.T) {
	if v, err := RawFloor(t.TempDir(), 1200, 4, 700); err != nil || v <= 0 {
		t.Fatal(v, err)
	}
	if _, err := RawFloor(t.TempDir(), 0, 4, 700); err == nil {
		t.Fatal("zero documents accepted")
	}
}
