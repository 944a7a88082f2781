package mapping

import "testing"

func TestBuiltinLoads(t *testing.T) {
	if _, err := New(Builtin(), Options{}); err != nil {
		t.Fatal(err)
	}
}
