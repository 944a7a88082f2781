package withings

import (
	"cmp"
	"context"
	"strings"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/adapters/internal/listing"
	"pulsegate/mapping/sample"
)

// api describes the answers.
var api = listing.Spec{
	Format: "api", Body: "body",
	Check: func(name string, n *jsonitem.Node) string {
		if name == "status" && n.Text != "0" {
			return "the service answered with an error"
		}
		return ""
	},
	Lists: map[string]func(*listing.Item) error{"measuregrps": group, "series": night, "activities": day},
}

// adapter implements adapters.Adapter for answers of the Withings API.
type adapter struct{}

// New returns the adapter of the Withings API.
func New() adapters.Adapter { return &adapter{} }

// Vendor returns "withings".
func (*adapter) Vendor() string { return "withings" }

// Name returns "Withings".
func (*adapter) Name() string { return "Withings" }

// Formats returns the only format.
func (*adapter) Formats() []adapters.Format {
	return []adapters.Format{{Name: api.Format, Extensions: []string{".json"},
		Summary: "Withings API: answers of getmeas, sleep getsummary and getactivity"}}
}

// Detect recognizes an answer by its envelope and the name of its list.
func (*adapter) Detect(_ string, head []byte) (string, bool) {
	return api.Format, api.Detect(head)
}

// Decode reads one payload.
func (*adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	return api.Decode(ctx, in, sink)
}

// identify sets the id, the revision and the device of an item. It reports whether the
// id is a whole number.
func identify(it *listing.Item, field string) bool {
	id, _ := it.Node.Get(field).Decimal()
	if at, ok := listing.Unix(it.Node.Get("modified")); ok {
		it.Base.Revision = at.UnixMicro()
	}
	model := ""
	if n := it.Node.Get("model"); n != nil && n.Kind != '0' { // some lists have its number
		model = it.Text("model", 64)
	}
	it.Base.Device = sample.Device{Name: cmp.Or(model, "Withings"), Manufacturer: "Withings", Model: model,
		Serial: cmp.Or(it.Text("hash_deviceid", 128), it.Text("deviceid", 128))}
	if id == "" || strings.ContainsAny(id, ".eE-") {
		return false
	}
	it.Base.VendorID = id
	return true
}
