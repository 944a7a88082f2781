package rows

import "testing"

// TestCatalogOfState gives a catalog all kinds of state keys.
func TestCatalogOfState(t *testing.T) {
	c := &Catalog{Runtime: map[string]*Index{}}
	runtime := RuntimeKey("Patient", "+nick")
	for _, s := range []struct {
		key, value string
		fails      bool
	}{
		{"counter", "1", false}, {"counter", `"text"`, false}, {"session/1", "\x00\xff", false}, {"", "", false},
		{BuiltinIndex, `{"version":2,"done":true}`, false}, {runtime, `{"version":1}`, false},
		{BuiltinIndex, "1", true}, {runtime, "[]", true},
	} {
		if err := c.Set(s.key, []byte(s.value)); (err != nil) != s.fails {
			t.Errorf("Set(%q, %q): %v", s.key, s.value, err)
		}
	}
	if !c.Builtin.Complete() || len(c.Runtime) != 1 || c.Runtime[runtime] == nil {
		t.Errorf("catalog %+v", c)
	}
	if err := c.Set(runtime, nil); err != nil || len(c.Runtime) != 0 {
		t.Errorf("after the removal: %v, %v", c.Runtime, err)
	}
}
