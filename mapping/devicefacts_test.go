package mapping_test

import (
	"bytes"
	"testing"
	"time"

	"pulsegate/mapping"
	"pulsegate/mapping/internal/mappingtest"
	"pulsegate/mapping/sample"
	"pulsegate/mapping/table"
)

// TestKeepSource checks for every row that an Observation with the device and
// performer of another one of the same measurement equals the other one.
func TestKeepSource(t *testing.T) {
	m := mappingtest.Mapper(t)
	tables := mappingtest.Table(t)
	mappingtest.EachRow(tables, func(v *table.Vendor, r *table.Row) {
		if r.Shape == table.ShapeDevice {
			return
		}
		full := mappingtest.Example(t, tables, v, r, false)
		full.VendorID, full.Note = "7", `a note with ,"component":[ in it`
		bare := *full
		bare.Device, bare.Source = sample.Device{}, sample.Source{}
		service := bare
		service.Device = sample.Device{Name: "Service", Manufacturer: "Maker", Kind: "app"}
		for _, entered := range []bool{false, true} {
			full.UserEntered = entered
			want, err := m.Map(nil, v.Vendor, full, "p1", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range []*sample.Sample{&bare, &service} {
				got, err := m.Map(nil, v.Vendor, s, "p1", nil)
				if err != nil {
					t.Fatal(err)
				}
				if !got.Vague || want.Vague || got.ID != want.ID {
					t.Errorf("%s: vague %v and %v, ids %s and %s", r.Metric, got.Vague, want.Vague, got.ID, want.ID)
				}
				before := bytes.Clone(got.JSON)
				if out, kept := mapping.KeepSource(got.JSON, want.JSON); !kept || !bytes.Equal(out, want.JSON) {
					t.Errorf("%s: got  %s\nwant %s", r.Metric, out, want.JSON)
				}
				if !bytes.Equal(before, got.JSON) {
					t.Error("KeepSource changed its input")
				}
			}
		}
	})
	if out, kept := mapping.KeepSource([]byte(`{"a":1}`), []byte(`{"b":2}`)); kept || string(out) != `{"a":1}` {
		t.Errorf("%s", out)
	}
}

// TestDeviceFacts checks that the order of the samples does not matter and that
// a sample without a fact does not remove it.
func TestDeviceFacts(t *testing.T) {
	m := mappingtest.Mapper(t)
	at := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	devices := []sample.Device{
		{Manufacturer: "Maker", Serial: "s", Firmware: "1", Facts: []sample.Fact{{Name: "size", Value: "10"}}},
		{Manufacturer: "Maker", Serial: "s", Hardware: "gen4", Facts: []sample.Fact{{Name: "color", Value: "silver"}}},
		{Manufacturer: "Maker", Serial: "s", Firmware: "2", Battery: "80"},
	}
	var want []byte
	for _, order := range [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		var all mapping.DeviceFacts
		var ids [2]mapping.DeviceKey
		for n, i := range order {
			s := &sample.Sample{Metric: "ring_configuration", Start: at, Device: devices[i]}
			res, err := m.Map(nil, "oura", s, "p1", nil)
			if err != nil {
				t.Fatal(err)
			}
			ids[n%2] = res.Device
			var one mapping.DeviceFacts
			one.Learn(s, at.AddDate(0, 0, i))
			if !all.Merge(&one) {
				t.Error("Merge reports no change")
			}
			if all.Merge(&one) {
				t.Error("Merge of the same facts reports a change")
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
