package fitbit

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/archive"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const format = "google-health"

// adapter implements adapters.Adapter for the data of Fitbit wearers.
type adapter struct{ limits archive.Limits }

var _ adapters.Adapter = (*adapter)(nil)

// New returns the adapter of the data of Fitbit wearers.
func New() adapters.Adapter { return &adapter{} }

// Vendor returns "fitbit".
func (*adapter) Vendor() string { return "fitbit" }

// Name returns "Fitbit".
func (*adapter) Name() string { return "Fitbit" }

// Formats lists the formats that Decode reads.
func (*adapter) Formats() []adapters.Format {
	return []adapters.Format{
		{
			Name: format, Summary: "Google Health API v4 pages: list, reconcile, rollUp, dailyRollUp, devices",
			Extensions: []string{".json", ".ndjson"}, TypeHint: true,
		},
		{
			Name: formatTakeout, Summary: "Google Takeout or Fitbit data export: the archive, or one of its files by name",
			Extensions: []string{".zip", ".json", ".csv"}, Seek: true,
		},
		{
			Name: formatWeb, Summary: "stored payloads of the Fitbit Web API, which ended in 2026",
			Extensions: []string{".json", ".ndjson"},
		},
	}
}

// markers are member names that occur near the beginning of these bodies, and
// of no other.
var markers = []string{
	`"dataPoints"`, `"rollupDataPoints"`, `"pairedDevices"`, `"nextPageToken"`, `"dataPointName"`,
	`"dataSource"`, `/dataPoints/`, `"sampleTime"`, `"physicalTime"`, `"startUtcOffset"`, `"utcOffset"`,
	`"civilStartTime"`, `"healthUserId"`, `"onboardingStatus"`, `"membershipStartDate"`, `"autoStrideEnabled"`,
	`"type.googleapis.com/`, `"RESOURCE_EXHAUSTED"`, `"UNAUTHENTICATED"`,
}

// Detect recognizes an archive by its first folder or name, and a body by its member
// names, or else by its file name.
func (*adapter) Detect(name string, head []byte) (string, bool) {
	if isArchive(head) {
		return formatTakeout, looksLikeTakeout(name, head)
	}
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if isExportFile(name, head) {
		return formatTakeout, true
	}
	if len(head) == 0 || head[0] != '{' && head[0] != '[' || bytes.Contains(head, []byte(`"resourceType"`)) {
		return "", false
	}
	for _, m := range markers {
		if bytes.Contains(head, []byte(m)) {
			return format, true
		}
	}
	if looksLikeWeb(head) {
		return formatWeb, true
	}
	if bytes.HasPrefix(head, []byte("{}")) || nameHint(name) != "" {
		return format, true
	}
	return "", false
}

// nameHint returns the type in a file name such as dailyRollUp_steps.json,
// steps.json or list_heart-rate_2.json.
func nameHint(name string) string {
	name, _, _ = strings.Cut(name, ".")
	for part := range strings.SplitSeq(name, "_") {
		if t := kebab(part); isType(t) {
			return t
		}
	}
	return ""
}

// Decode reads one payload.
func (a *adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	base, hint, _ := strings.Cut(in.Format, ":")
	if base == "" {
		b := bufio.NewReaderSize(in.Body, headSize)
		// A body that cannot be read is met again by the decoder.
		head, _ := b.Peek(headSize)
		base, in.Body = format, b
		if f, ok := a.Detect(in.Name, head); ok {
			base = f
		}
	}
	d := newDecoder(ctx, in, sink)
	switch base {
	case format:
		for _, h := range []string{in.Hint, hint, in.Name} {
			if d.hint = nameHint(h); d.hint != "" {
				break
			}
		}
		d.rd = jsonitem.NewReader(ctx, in.Body, sink.Progress)
		return jsonitem.Payload(format, d.each(d.page))
	case formatTakeout:
		return a.decodeTakeout(d, in)
	case formatWeb:
		d.channel = "web-api"
		d.rd = jsonitem.NewReader(ctx, in.Body, sink.Progress)
		return jsonitem.Payload(formatWeb, d.each(d.webBody))
	}
	return adapters.ErrUnknownFormat
}

// headSize is the number of bytes that Detect needs.
const headSize = 64 << 10

// newDecoder returns a decoder without a reader.
func newDecoder(ctx context.Context, in adapters.Input, sink adapters.Sink) *decoder {
	d := &decoder{ctx: ctx, sink: &jsonitem.Watch{Sink: sink}, received: in.Received}
	d.clock.configured = in.Zone != nil
	zone := in.Zone
	if zone == nil {
		zone = time.UTC
	}
	if !in.Received.IsZero() {
		d.today = jsonitem.DateOf(in.Received.In(zone))
	}
	return d
}

// decoder holds the state of one Decode.
type decoder struct {
	ctx     context.Context
	channel string // of archives and legacy payloads
	clock   clock  // of archives and legacy payloads
	// fromGoogle tells for the metrics of an archive whether they are read from the
	// tree of Google.
	fromGoogle map[string]bool
	sink       *jsonitem.Watch
	rd         *jsonitem.Reader
	hint       string
	received   time.Time
	today      sample.Date // day of receipt in the patient's zone
	pos        position
	listed     bool // the body is an element of an array

	next           point  // reused for every item
	member, metric string // the last member that named a type, and the type
}

// unfinished reports whether day was not over at the time of receipt.
func (d *decoder) unfinished(day sample.Date) bool {
	if d.today.IsZero() {
		return false
	}
	return cmp.Or(cmp.Compare(day.Year, d.today.Year), cmp.Compare(day.Month, d.today.Month),
		cmp.Compare(day.Day, d.today.Day)) >= 0
}

// position locates an item in the payload. It is formatted only for rejects.
type position struct {
	entry  string // "zip entry 4", or ""
	line   int    // of a CSV file, from 1
	page   int
	member string
	index  int
}

// each reads the bodies of the payload with read.
func (d *decoder) each(read func() error) error {
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
			err = d.rd.Array(func(i int) error {
				d.pos.page, d.pos.member, d.pos.index, d.listed = i, "", 0, true
				if d.rd.Kind() == '{' {
					return read()
				}
				n, err := d.rd.Item()
				if err != nil {
					return err
				}
				return d.reject(sample.ReasonBadValue, "", "the element is not an object", n)
			})
		} else {
			d.pos.page, d.listed = n, false
			err = read()
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

// maxMembers is the limit for the members of a body that is not a page.
const maxMembers = 64

// page reads one body. The members of a body that is not a page are collected
// and read as a single resource.
func (d *decoder) page() error {
	var resource jsonitem.Node
	resource.Kind = '{'
	err := d.rd.Object(func(name string) error {
		d.pos.member = name
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
		if len(resource.Members) >= maxMembers {
			return d.rd.Fail("this is not a page of the Google Health API")
		}
		resource.Members = append(resource.Members, jsonitem.Member{Name: name, Value: *n})
		return nil
	})
	if err != nil || len(resource.Members) == 0 {
		return err
	}
	return d.sink.Item(&resource, d.pos.String, func() error { return d.single(&resource) })
}

// items reads the array of a page. proto3 writes an empty list as null.
func (d *decoder) items(read func(*jsonitem.Node) error) error {
	if d.rd.Kind() == 'n' {
		return d.rd.Skip()
	}
	return d.rd.Array(func(i int) error {
		d.pos.index = i
		n, err := d.rd.Item()
		switch {
		case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
			return d.reject(sample.ReasonTooLarge, d.hint, err.Error(), nil)
		case err != nil:
			return err
		case n.Kind != '{':
			return d.reject(sample.ReasonBadValue, d.hint, "an item must be an object", n)
		}
		return d.sink.Item(n, d.pos.String, func() error { return read(n) })
	})
}

// single reads a body that is not a page: an error, a resource of the user, a
// data point or a device.
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
		d.pos.member, d.pos.index = "", 0
		return d.device(n)
	case strings.Contains(name, "/dataPoints/"), n.Has("dataSource", "dataPointName"), d.isPoint(n):
		d.pos.member, d.pos.index = "", 0
		return d.point(n)
	default:
		return d.rd.Fail("this is not a page of the Google Health API")
	}
	return nil
}

// isPoint reports whether n has a member of a supported type.
func (d *decoder) isPoint(n *jsonitem.Node) bool {
	for i := range n.Members {
		if m := &n.Members[i]; m.Value.Kind == '{' {
			metric := kebab(m.Name)
			if _, ok := types[metric]; ok || ignored[metric] != "" {
				return true
			}
		}
	}
	return false
}

// reasons may be repeated in an error text. Other texts of an error body may
// hold private data.
var reasons = []string{
	"ACCOUNT_NOT_LINKED", "INVALID_DATA_POINT_FILTER", "INVALID_PARENT_DATA_TYPE_COLLECTION",
	"INVALID_DATA_POINT_DATA_SOURCE_FAMILY", "ACCESS_TOKEN_SCOPE_INSUFFICIENT", "RATE_LIMIT_EXCEEDED",
	"UNAUTHENTICATED", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION",
	"INVALID_ARGUMENT", "NOT_FOUND", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "invalid_grant",
}

// reason returns the reason of an error body if it is one of reasons.
func reason(n *jsonitem.Node) string {
	texts := []string{n.String()}
	if details := n.Get("details"); details != nil {
		for i := range details.List() {
			texts = append(texts, details.List()[i].Get("reason").String())
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
