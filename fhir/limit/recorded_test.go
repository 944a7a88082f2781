package limit

import "testing"

// TestRecordedRefusals checks that several processes together record as many refusals
// as one, and each its share while they cannot count together.
func TestRecordedRefusals(t *testing.T) {
	for _, c := range []struct {
		name         string
		shared, down bool
		want         int
	}{
		{"together", true, false, 20},
		{"each its share", true, true, 20},
		{"the control: each for itself", false, false, 80},
	} {
		s := newServer(4)
		s.down = c.down
		n := 0
		for range s.processes {
			l := Limits{Denied: 20, Name: "test"}
			if c.shared {
				l.Shared = s
			}
			one := New(l)
			for range 50 {
				if one.Record(s.clock.Now()) {
					n++
				}
			}
		}
		if n != c.want {
			t.Errorf("%s: %d recorded, want %d", c.name, n, c.want)
		}
	}
}
