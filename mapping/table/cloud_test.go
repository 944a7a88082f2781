package table_test

import (
	"testing"

	"pulsegate/adapters/cloud"
	"pulsegate/adapters/cloud/googlehealth"
	"pulsegate/adapters/cloud/oura"
	"pulsegate/mapping/table"
)

// TestTypesOfStreams checks that the types that a stream states completely are metrics.
func TestTypesOfStreams(t *testing.T) {
	all, err := table.Load(table.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	metrics := map[string]bool{}
	for _, v := range all.Vendors {
		for _, m := range v.Rows {
			metrics[v.Vendor+" "+m.Metric] = true
		}
	}
	for _, build := range []cloud.New{oura.New, googlehealth.New} {
		v, err := build(cloud.Config{ClientID: "c", ClientSecret: "s", Options: map[string]string{}})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range v.Streams() {
			for _, name := range s.Types {
				if !metrics[v.Code()+" "+name] {
					t.Errorf("%s: %s states %s, which is no metric", v.Code(), s.Name, name)
				}
			}
		}
	}
}
