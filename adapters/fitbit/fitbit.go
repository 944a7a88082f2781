package fitbit

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const format = "google-health"

// Adapter reads pages of the Google Health API.
type Adapter struct{}

var _ adapters.Adapter = (*Adapter)(nil)

// New returns the adapter; it has no state.
func New() *Adapter { return &Adapter{} }

// Vendor is "fitbit".
func (*Adapter) Vendor() string { return "fitbit" }

// Name is "Fitbit".
func (*Adapter) Name() string { return "Fitbit" }

// Formats lists the one format.
func (*Adapter) Formats() []adapters.Format {
	return []adapters.Format{{
		Name: format, Summary: "Google Health API v4 pages: list, reconcile, rollUp, dailyRollUp, devices",
		Extensions: []string{".json", ".ndjson"}, TypeHint: true,
	}}
}

// markers are member names that only these bodies have near their beginning.
var markers = []string{
	`"dataPoints"`, `"rollupDataPoints"`, `"pairedDevices"`, `"nextPageToken"`, `"dataPointName"`,
	`"dataSource"`, `/dataPoints/`, `"sampleTime"`, `"physicalTime"`, `"startUtcOffset"`, `"utcOffset"`,
	`"civilStartTime"`, `"healthUserId"`, `"onboardingStatus"`, `"membershipStartDate"`, `"autoStrideEnabled"`,
	`"type.googleapis.com/`, `"RESOURCE_EXHAUSTED"`, `"UNAUTHENTICATED"`,
}

// Detect knows a body by its member names, an empty one by its file name.
func (*Adapter) Detect(name string, head []byte) (string, bool) {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) == 0 || head[0] != '{' && head[0] != '[' || bytes.Contains(head, []byte(`"resourceType"`)) {
		return "", false
	}
	for _, m := range markers {
		if bytes.Contains(head, []byte(m)) {
			return format, true
		}
	}
	if bytes.HasPrefix(head, []byte("{}")) || nameHint(name) != "" {
		return format, true
	}
	return "", false
}

// nameHint finds a type in a file name: dailyRollUp_steps.json, steps.json,
// list_heart-rate_2.json.
func nameHint(name string) string {
	name, _, _ = strings.Cut(name, ".")
	for part := range strings.SplitSeq(name, "_") {
		if t := kebab(part); known(t) {
			return t
		}
	}
	return ""
}

// Decode reads one payload.
func (*Adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	base, hint, _ := strings.Cut(in.Format, ":")
	if base != "" && base != format {
		return adapters.ErrUnknownFormat
	}
	d := &decoder{sink: sink, rd: jsonitem.NewReader(ctx, in.Body, sink.Progress), received: in.Received}
	for _, h := range []string{in.Hint, hint, in.Name} {
		if d.hint = nameHint(h); d.hint != "" {
			break
		}
	}
	zone := in.Zone
	if zone == nil {
		zone = time.UTC
	}
	if !in.Received.IsZero() {
		d.today = jsonitem.DateOf(in.Received.In(zone))
	}
	return jsonitem.Payload(format, d.bodies())
}

// decoder is the state of one Decode.
type decoder struct {
	sink     adapters.Sink
	rd       *jsonitem.Reader
	hint     string
	received time.Time
	today    sample.Date
	place    place

	next           point  // used again for the next item
	member, metric string // the last member that named a type
}

// unfinished reports whether a day is not over at the time of receipt.
func (d *decoder) unfinished(day sample.Date) bool {
	if d.today.IsZero() {
		return false
	}
	return cmp.Or(cmp.Compare(day.Year, d.today.Year), cmp.Compare(day.Month, d.today.Month),
		cmp.Compare(day.Day, d.today.Day)) >= 0
}

// place is where in the payload we are; it becomes text only for a reject.
type place struct {
	page   int
	member string
	index  int
}

func (d *decoder) bodies() error {
	n := 0
	for {
		more, err := d.rd.Next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		if d.rd.Kind() == '[' {
			err = d.rd.Array(func(i int) error { d.place.page = i; return d.page() })
		} else {
			d.place.page = n
			err = d.page()
		}
		if err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return d.rd.Fail("the body is empty")
	}
	return nil
}

// maxLoose bounds the members of a body that is no page.
const maxLoose = 64

func (d *decoder) page() error {
	var loose jsonitem.Node
	loose.Kind = '{'
	err := d.rd.Object(func(name string) error {
		d.place.member = name
		switch name {
		case "dataPoints":
			return d.items(d.point)
		case "rollupDataPoints":
			return d.items(d.rollup)
		case "pairedDevices":
			return d.items(d.device)
		case "nextPageToken":
			return d.rd.Skip()
		}
		n, err := d.rd.Item()
		if errors.Is(err, jsonitem.ErrTooLarge) || errors.Is(err, jsonitem.ErrTooDeep) {
			return d.rd.Fail(err.Error())
		}
		if err != nil {
			return err
		}
		if len(loose.Members) >= maxLoose {
			return d.rd.Fail("this is no page of the Google Health API")
		}
		loose.Members = append(loose.Members, jsonitem.Member{Name: name, Value: *n})
		return nil
	})
	if err != nil || len(loose.Members) == 0 {
		return err
	}
	return d.single(&loose)
}

// items reads the array of a page. null is proto3's empty list.
func (d *decoder) items(take func(*jsonitem.Node) error) error {
	if d.rd.Kind() == 'n' {
		return d.rd.Skip()
	}
	return d.rd.Array(func(i int) error {
		d.place.index = i
		n, err := d.rd.Item()
		switch {
		case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
			return d.reject(sample.ReasonTooLarge, d.hint, err.Error(), nil)
		case err != nil:
			return err
		case n.Kind != '{':
			return d.reject(sample.ReasonBadValue, d.hint, "an item is an object", n)
		}
		return take(n)
	})
}

// single reads a body that is no page: an error, a resource of the user, one
// data point or device.
func (d *decoder) single(n *jsonitem.Node) error {
	name := n.Get("name").String()
	is := func(suffix string, members ...string) bool {
		return strings.HasSuffix(name, suffix) || n.Has(members...)
	}
	switch {
	case n.Has("error"):
		return d.rd.Fail("the service answered with an error: " + reason(n.Get("error")))
	case n.Has("code") && n.Has("message"):
		return d.rd.Fail("the service answered with an error: " + reason(n))
	case n.Has("data") && n.Get("data", "operation") != nil:
		return d.rd.Fail("this is a webhook notification, which holds no data")
	case is("/settings", "autoStrideEnabled"):
		d.sink.Drop(sample.DropIgnored, "settings", 1)
	case is("/profile", "membershipStartDate"):
		d.sink.Drop(sample.DropIgnored, "profile", 1)
	case is("/identity", "healthUserId"):
		d.sink.Drop(sample.DropIgnored, "identity", 1)
	case is("/irnProfile", "onboardingStatus", "enrollmentStatus"):
		d.sink.Drop(sample.DropIgnored, "irn-profile", 1)
	case n.Has("deviceType", "deviceVersion"):
		d.place.member, d.place.index = "", 0
		return d.device(n)
	case strings.Contains(name, "/dataPoints/"), n.Has("dataSource", "dataPointName"), d.isPoint(n):
		d.place.member, d.place.index = "", 0
		return d.point(n)
	default:
		return d.rd.Fail("this is no page of the Google Health API")
	}
	return nil
}

// isPoint reports whether n has a member of a type that is read.
func (d *decoder) isPoint(n *jsonitem.Node) bool {
	for i := range n.Members {
		if m := &n.Members[i]; m.Value.Kind == '{' {
			if _, ok := types[kebab(m.Name)]; ok {
				return true
			}
		}
	}
	return false
}

// reasons that may be repeated in an error text; anything else in an error
// body is the payload's and stays there.
var reasons = []string{
	"ACCOUNT_NOT_LINKED", "INVALID_DATA_POINT_FILTER", "INVALID_PARENT_DATA_TYPE_COLLECTION",
	"INVALID_DATA_POINT_DATA_SOURCE_FAMILY", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "RATE_LIMIT_EXCEEDED",
	"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "invalid_grant",
}

func reason(n *jsonitem.Node) string {
	texts := []string{n.String()}
	if details := n.Get("details"); details != nil {
		for i := range details.Items {
			texts = append(texts, details.Items[i].Get("reason").String())
		}
	}
	texts = append(texts, n.Get("status").String())
	for _, t := range texts {
		for _, r := range reasons {
			if t == r {
				return r
			}
		}
	}
	return "reason unknown"
}
