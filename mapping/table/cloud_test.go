package table_test

import (
	"strings"
	"testing"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/clouds"
	"pulsegate/mapping/table"
)

// TestTypesOfStreams checks that the types that a stream states completely are metrics or
// begin the names of metrics, or that the stream has the name of the type.
func TestTypesOfStreams(t *testing.T) {
	all, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	metrics, covered := map[string]bool{}, 0
	for _, v := range all.Vendors {
		for _, m := range v.Rows {
			for _, metric := range append([]string{m.Metric}, m.Also...) {
				name, _, _ := strings.Cut(metric, ".")
				metrics[v.Vendor+" "+metric] = true
				metrics[v.Vendor+" "+name] = true
			}
		}
	}
	for _, build := range clouds.All() {
		v, err := build(cloud.Config{ClientID: "c", ClientSecret: "s", Options: map[string]string{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range v.Streams() {
			for _, name := range s.Types {
				switch {
				case metrics[v.Code()+" "+name]:
					covered++
				case name != s.Name && name != s.Name+"/day":
					t.Errorf("%s: %s states %s, which is no metric", v.Code(), s.Name, name)
				}
			}
		}
	}
	if covered < 40 {
		t.Errorf("only %d types are in the metric table", covered)
	}
}
