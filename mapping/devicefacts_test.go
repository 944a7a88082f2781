package mapping

import (
	"bytes"
	"testing"
	"time"

	"pulsegate/mapping/sample"
)

// TestKeepSource: the device and performer of one mapping put into another of
// the same measurement give that mapping's bytes, for every row.
func TestKeepSource(t *testing.T) {
	m := mapper(t)
	for i := range m.table.Vendors {
		v := &m.table.Vendors[i]
		for j := range v.Rows {
			if v.Rows[j].Shape == ShapeDevice {
				continue
			}
			known := example(t, m, v, &v.Rows[j], false)
			known.VendorID, known.Note = "7", `a note with ,"component":[ in it`
			bare := *known
			bare.Device, bare.Source = sample.Device{}, sample.Source{}
			service := bare
			service.Device = sample.Device{Name: "Service", Manufacturer: "Maker", Kind: "app"}
			for _, entered := range []bool{false, true} {
				known.UserEntered = entered
				want, err := m.Map(nil, v.Vendor, known, "p1", nil)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range []*sample.Sample{&bare, &service} {
					got, err := m.Map(nil, v.Vendor, s, "p1", nil)
					if err != nil {
						t.Fatal(err)
					}
					if !got.Vague || want.Vague || got.ID != want.ID {
						t.Errorf("%s: vague %v and %v, ids %s and %s", v.Rows[j].Metric, got.Vague, want.Vague,
							got.ID, want.ID)
					}
					before := bytes.Clone(got.JSON)
					if out, kept := KeepSource(got.JSON, want.JSON); !kept || !bytes.Equal(out, want.JSON) {
						t.Errorf("%s: got  %s\nwant %s", v.Rows[j].Metric, out, want.JSON)
					}
					if !bytes.Equal(before, got.JSON) {
						t.Error("the input was changed")
					}
				}
			}
		}
	}
	if out, kept := KeepSource([]byte(`{"a":1}`), []byte(`{"b":2}`)); kept || string(out) != `{"a":1}` {
		t.Errorf("%s", out)
	}
}

// TestDeviceFacts: the order of the samples does not matter, and nothing is
// emptied.
func TestDeviceFacts(t *testing.T) {
	at := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	words := []sample.Device{
		{Manufacturer: "Maker", Serial: "s", Firmware: "1", Facts: []sample.Fact{{Name: "size", Value: "10"}}},
		{Manufacturer: "Maker", Serial: "s", Hardware: "gen4", Facts: []sample.Fact{{Name: "color", Value: "silver"}}},
		{Manufacturer: "Maker", Serial: "s", Firmware: "2", Battery: "80"},
	}
	var want []byte
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var all DeviceFacts
		var ids [2]DeviceKey
		for n, i := range order {
			s := &sample.Sample{Device: words[i]}
			ids[n%2] = new(Mapper).deviceKey("oura", "p1", s)
			var one DeviceFacts
			one.Learn(s, at.AddDate(0, 0, i))
			if !all.Merge(&one) {
				t.Error("no news")
			}
			if all.Merge(&one) {
				t.Error("the same word is news again")
			}
		}
		if ids[0] != ids[1] {
			t.Errorf("one serial number, two Devices: %v", ids)
		}
		got := all.Device("oura", "p1", ids[0])
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) || !bytes.Contains(got, []byte(`"value":"2"`)) ||
			!bytes.Contains(got, []byte("gen4")) {
			t.Errorf("%v: %s, want %s", order, got, want)
		}
	}
}
