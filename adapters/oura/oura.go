package oura

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"pulsegate/adapters"
	"pulsegate/adapters/internal/jsonitem"
	"pulsegate/mapping/sample"
)

const format = "v2"

// adapter implements adapters.Adapter for documents of the Oura API.
type adapter struct{}

var _ adapters.Adapter = (*adapter)(nil)

// New returns the adapter of the Oura API.
func New() adapters.Adapter { return &adapter{} }

// Vendor returns "oura".
func (*adapter) Vendor() string { return "oura" }

// Name returns "Oura".
func (*adapter) Name() string { return "Oura" }

// Formats returns the only format.
func (*adapter) Formats() []adapters.Format {
	return []adapters.Format{{
		Name: format, Summary: "Oura API v2: a document, a list reply, or list replies keyed by type",
		Extensions: []string{".json", ".ndjson"}, TypeHint: true,
	}}
}

// markers are member names that occur near the beginning of these bodies, and
// of no other.
var markers = []string{
	`"next_token"`, `"bedtime_start"`, `"contributors"`, `"spo2_percentage"`, `"breathing_disturbance_index"`,
	`"day_summary"`, `"vascular_age"`, `"vo2_max"`, `"tag_type_code"`, `"optimal_bedtime"`, `"hardware_type"`,
	`"biological_sex"`, `"in_charger"`, `"episodes"`, `"start_datetime"`, `"bpm"`, `"ibi"`,
	`"equivalent_walking_distance"`, `"temperature_trend_deviation"`, `"stress_high"`, `"recovery_high"`, `"set_up_at"`,
}

// pairs are member names that identify Oura's bodies only together. Tags and
// battery levels have no distinctive name.
var pairs = [][2]string{{`"tags"`, `"timestamp"`}, {`"level"`, `"timestamp"`}, {`"tags"`, `"day"`}}

// Detect recognizes a body by its member names or by a file name such as
// heartrate.json.
func (*adapter) Detect(name string, head []byte) (string, bool) {
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\xef\xbb\xbf")), " \t\r\n")
	if len(head) == 0 || head[0] != '{' && head[0] != '[' || bytes.Contains(head, []byte(`"resourceType"`)) {
		return "", false
	}
	for _, m := range markers {
		if bytes.Contains(head, []byte(m)) {
			return format, true
		}
	}
	for _, p := range pairs {
		if bytes.Contains(head, []byte(p[0])) && bytes.Contains(head, []byte(p[1])) {
			return format, true
		}
	}
	if nameHint(name) != "" {
		return format, true
	}
	return "", false
}

// nameHint returns the type at the beginning of a file name such as
// heartrate.json, daily_sleep-2026-05.json or vo2_max.json.
func nameHint(name string) string {
	name, _, _ = strings.Cut(name, ".")
	best := ""
	for t := range readers {
		if len(t) > len(best) && len(name) >= len(t) && strings.EqualFold(name[:len(t)], t) {
			best = t
		}
	}
	return best
}

// Decode reads one payload.
func (*adapter) Decode(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	base, hint, _ := strings.Cut(in.Format, ":")
	if base != "" && base != format {
		return adapters.ErrUnknownFormat
	}
	d := &decoder{sink: &jsonitem.Watch{Sink: sink}, rd: jsonitem.NewReader(ctx, in.Body, sink.Progress),
		zone: in.Zone, received: in.Received}
	for _, h := range []string{in.Hint, hint, in.Name} {
		if d.hint = nameHint(h); d.hint != "" {
			break
		}
	}
	if d.zone == nil {
		d.zone = time.UTC
	}
	return jsonitem.Payload(format, d.bodies())
}

// decoder holds the state of one Decode.
type decoder struct {
	sink     *jsonitem.Watch
	rd       *jsonitem.Reader
	hint     string
	zone     *time.Location
	received time.Time

	key      string // type of the current list reply, or ""
	index    int    // index of the current document in it
	outcomes int    // samples, rejects and drops so far

	doc document      // reused for every document
	out sample.Sample // reused for every sample
}

// drop counts an item that is left out on purpose.
func (d *decoder) drop(reason, metric string) {
	d.outcomes++
	d.sink.Drop(reason, metric, 1)
}

// bodies reads the bodies of the payload.
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
			err = d.list("")
		} else {
			err = d.top()
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

// maxMembers is the limit for the members of a document that is not in a list.
const maxMembers = 256

// top reads a document, a list reply or an object of list replies. It reads
// member by member, because the first member does not tell which of them it is.
func (d *decoder) top() error {
	doc := jsonitem.Node{Kind: '{'}
	replies := 0
	keep := func(name string, n *jsonitem.Node) error {
		if len(doc.Members) >= maxMembers {
			return d.rd.Fail("a document has too many members")
		}
		doc.Members = append(doc.Members, jsonitem.Member{Name: name, Value: *n})
		return nil
	}
	err := d.rd.Object(func(name string) error {
		switch next := d.rd.Kind(); {
		case name == "data" && next == '[':
			replies++
			return d.list("")
		case name == "next_token":
			return d.rd.Skip()
		case next == '[' && readers[name] != nil:
			replies++
			return d.list(name)
		case next == '{' && (readers[name] != nil || strings.Contains(name, "_")) || next == '{' &&
			len(doc.Members) == 0:
			n, err := d.reply(name)
			if err != nil || n == nil {
				replies++
				return err
			}
			if readers[name] != nil {
				replies++
				d.key, d.index = name, 0
				return d.document(name, n)
			}
			return keep(name, n)
		}
		n, err := d.item()
		if err != nil {
			return err
		}
		return keep(name, n)
	})
	if err != nil || len(doc.Members) == 0 {
		return err
	}
	if replies > 0 {
		for _, m := range doc.Members { // others do not come from Oura
			if readers[m.Name] != nil && m.Value.Kind != 'n' {
				if err := d.notList(m.Name); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if doc.Has("detail") && !doc.Has("id") {
		return d.rd.Fail("the service answered with an error")
	}
	d.key, d.index = "", 0
	typ := recognize(&doc)
	if typ == "" {
		typ = d.hint
	}
	if typ == "" {
		return d.rd.Fail(noType)
	}
	return d.document(typ, &doc)
}

// item reads a member of a document. A member that is too large makes the
// document unreadable.
func (d *decoder) item() (*jsonitem.Node, error) {
	n, err := d.rd.Item()
	if errors.Is(err, jsonitem.ErrTooLarge) || errors.Is(err, jsonitem.ErrTooDeep) {
		return nil, d.rd.Fail(err.Error())
	}
	return n, err
}

// reply reads an object that may be a list reply under the key of its type. If
// it is not a list reply, reply returns the object.
func (d *decoder) reply(key string) (*jsonitem.Node, error) {
	first, empty, err := d.rd.Open()
	if err != nil {
		return nil, err
	}
	n := &jsonitem.Node{Kind: '{'}
	if empty {
		return n, nil
	}
	isReply := first == "data" || first == "next_token"
	member := func(name string) error {
		if isReply {
			switch kind := d.rd.Kind(); {
			case name == "data" && kind == '[':
				return d.list(key)
			case name == "data" && kind != 'n':
				if err := d.notList(key); err != nil {
					return err
				}
			}
			return d.rd.Skip()
		}
		v, err := d.item()
		if err != nil {
			return err
		}
		if len(n.Members) >= maxMembers {
			return d.rd.Fail("a document has too many members")
		}
		n.Members = append(n.Members, jsonitem.Member{Name: name, Value: *v})
		return nil
	}
	if err := member(first); err != nil {
		return nil, err
	}
	if err := d.rd.Rest(member); err != nil {
		return nil, err
	}
	if isReply {
		return nil, nil
	}
	return n, nil
}

const noType = "the body does not state its type; name it with --format v2:heartrate, in the file name " +
	"(heartrate.json) or as the key of the list"

// list reads documents of the type key. If key is empty, each document is
// recognized by its fields.
func (d *decoder) list(key string) error {
	d.key = key
	typ := key
	return d.rd.Array(func(i int) error {
		d.index = i
		n, err := d.rd.Item()
		switch {
		case errors.Is(err, jsonitem.ErrTooLarge), errors.Is(err, jsonitem.ErrTooDeep):
			return d.reject(sample.ReasonTooLarge, typ, err.Error(), nil)
		case err != nil:
			return err
		case n.Kind != '{':
			return d.reject(sample.ReasonBadValue, typ, "a document must be an object", n)
		}
		t := typ
		if t == "" {
			if t = recognize(n); t == "" {
				t = d.hint
			}
			if t == "" {
				return d.rd.Fail(noType)
			}
		}
		return d.document(t, n)
	})
}

// notList rejects a value in place of the list of a type.
func (d *decoder) notList(key string) error {
	d.key, d.index = key, 0
	return d.reject(sample.ReasonBadValue, key, "the list of the documents is not an array", nil)
}

// where returns the position of the current document for rejects.
func (d *decoder) where() string {
	if d.key == "" {
		return fmt.Sprintf("data[%d]", d.index)
	}
	return fmt.Sprintf("%s[%d]", plainName(d.key), d.index)
}

// plainName returns s if it looks like a type name, and "" otherwise: other
// texts of a payload are never copied.
func plainName(s string) string {
	if len(s) > 48 {
		return ""
	}
	for _, c := range s {
		if c != '_' && c != '.' && (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != 'O' {
			return ""
		}
	}
	return s
}

// reject reports an item that is not a Sample.
func (d *decoder) reject(reason, metric, detail string, raw *jsonitem.Node) error {
	d.outcomes++
	r := sample.Reject{Reason: reason, Metric: plainName(metric), Where: d.where(), Detail: detail}
	if raw != nil {
		r.Raw, r.VendorID = raw.JSON(), raw.Get("id").String()
		if len(r.VendorID) > 128 {
			r.VendorID = ""
		}
	}
	return d.sink.Reject(&r)
}

// document turns one document into samples.
func (d *decoder) document(typ string, n *jsonitem.Node) error {
	read := readers[typ]
	if typ == "vo2_max" {
		typ = "vO2_max" // webhooks and some files write vo2_max
	}
	if read == nil {
		return d.reject(sample.ReasonUnmapped, typ, "this type is not supported", n)
	}
	doc := &d.doc
	*doc = document{dec: d, node: n, typ: typ, id: n.Get("id").String()}
	if t, _, ok := n.Get("meta", "updated_at").Time(); ok {
		doc.revision = t.UnixMicro()
	}
	if len(doc.id) > 128 {
		return d.reject(sample.ReasonBadValue, typ, "id is longer than 128 characters", n)
	}
	return d.sink.Item(n, d.where, func() error {
		before := d.outcomes
		bad, err := read(doc)
		switch {
		case err != nil:
			return err
		case bad != nil:
			return d.reject(bad.reason, typ, bad.rule, n)
		case d.outcomes == before:
			d.drop(sample.DropPlaceholder, typ) // all values are null
		}
		return nil
	})
}

// recognize returns the type of a document by its fields, in the order of the
// package comment, or "".
func recognize(n *jsonitem.Node) string {
	c := n.Get("contributors")
	if c == nil {
		c = &jsonitem.Node{}
	}
	switch {
	case n.Has("bedtime_start"):
		return "sleep"
	case n.Has("bpm"):
		return "heartrate"
	case n.Has("ibi"):
		return "interbeat_interval"
	case n.Has("equivalent_walking_distance"):
		return "daily_activity"
	case n.Has("temperature_trend_deviation"), c.Has("recovery_index"):
		return "daily_readiness"
	case c.Has("restfulness"):
		return "daily_sleep"
	case c.Has("sleep_recovery"):
		return "daily_resilience"
	case n.Has("spo2_percentage", "breathing_disturbance_index"):
		return "daily_spo2"
	case n.Has("stress_high", "recovery_high", "day_summary"):
		return "daily_stress"
	case n.Has("vascular_age"):
		return "daily_cardiovascular_age"
	case n.Has("vo2_max"):
		return "vO2_max"
	case n.Has("activity") && n.Has("start_datetime"):
		return "workout"
	case n.Has("start_datetime"):
		return "session"
	case n.Has("tag_type_code"):
		return "enhanced_tag"
	case n.Has("episodes"):
		return "rest_mode_period"
	case n.Has("optimal_bedtime"):
		return "sleep_time"
	case n.Has("hardware_type", "set_up_at"):
		return "ring_configuration"
	case n.Has("tags"):
		return "tag"
	case n.Has("level") && n.Has("timestamp"):
		return "ring_battery_level"
	case n.Has("biological_sex"):
		return "personal_info"
	}
	return ""
}
