package apple

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/valyala/fastjson"

	"pulsegate/adapters"
	"pulsegate/mapping/sample"
)

const (
	channelHAE = "hae"
	// maxItem is the limit for one item in bytes, and for the rows of a metric
	// that precede its name.
	maxItem      = 16 << 20
	maxJSONDepth = 32
)

var (
	errItem = errors.New("an item is over 16 MiB")
	errDeep = errors.New("JSON is nested over 32 deep")
)

// haeSections maps the keys of "data" to the readers of their items.
var haeSections = map[string]func(*haeDecoder, *fastjson.Value) error{
	"metrics": nil, "workouts": nil, // streamed
	"stateOfMind": (*haeDecoder).stateOfMind, "medications": (*haeDecoder).medication,
	"symptoms": (*haeDecoder).symptom, "cycleTracking": (*haeDecoder).cycle,
	"ecg": (*haeDecoder).ecg, "heartRateNotifications": (*haeDecoder).notification,
}

// looksLikeHAE reports whether head begins an object with a member "data" that is
// empty or begins with one of haeSections.
func looksLikeHAE(head []byte) bool {
	d := jsontext.NewDecoder(bytes.NewReader(head))
	if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
		return false
	}
	for range 16 {
		t, err := d.ReadToken()
		if err != nil || t.Kind() != '"' {
			return false
		}
		if t.String() != "data" {
			if d.SkipValue() != nil {
				return false
			}
			continue
		}
		if t, err := d.ReadToken(); err != nil || t.Kind() != '{' {
			return false
		}
		t, err = d.ReadToken()
		if err != nil {
			return false
		}
		_, ok := haeSections[t.String()]
		return t.Kind() == '}' || ok
	}
	return false
}

// meter limits the bytes that may be read between two items to maxItem, and reports
// progress.
type meter struct {
	src      io.Reader
	read     int64
	mark     int64 // read at the start of the current item
	reported int64 // read at the last call of Progress
	sink     adapters.Sink
}

func (m *meter) Read(p []byte) (int, error) {
	if m.read-m.mark > maxItem {
		return 0, errItem
	}
	n, err := m.src.Read(p[:min(int64(len(p)), maxItem+1-(m.read-m.mark))])
	m.read += int64(n)
	if m.read-m.reported >= progressStep {
		m.reported = m.read
		m.sink.Progress(m.read)
	}
	return n, err
}

// haeDecoder reads one Health Auto Export body.
type haeDecoder struct {
	ctx    context.Context
	sink   adapters.Sink
	meter  *meter
	dec    *jsontext.Decoder
	clock  *clock
	names  *interner
	parser fastjson.Parser
	items  int // counted to check the context now and then
	// rejects counts the rejects of items and of their members.
	rejects int

	aggregation   aggregation      // of the rows, from the delivery
	loneMidnights []*sample.Sample // rows of metrics with a single midnight
	sawDailyRows  bool             // some metric has rows at several midnights and at no other time
	sawOtherRows  bool             // some metric has rows at another time than midnight
}

// coarse marks every sample as Coarse: Health Auto Export states the name of a
// source but not its device.
type coarse struct{ adapters.Sink }

func (c coarse) Sample(s *sample.Sample) error {
	s.Coarse = true
	return c.Sink.Sample(s)
}

func decodeHAE(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	sink = coarse{sink}
	m := &meter{src: in.Body, sink: sink}
	h := &haeDecoder{
		ctx: ctx, sink: sink, meter: m, dec: jsontext.NewDecoder(m, jsontext.AllowInvalidUTF8(true)),
		clock: newClock(in.Received), names: newInterner(8192),
		aggregation: parseAggregation(in.Delivery[headerAggregation]),
	}
	if err := h.run(); err != nil {
		return err
	}
	if err := h.flushLoneMidnights(); err != nil {
		return err
	}
	sink.Progress(m.read)
	return nil
}

func (h *haeDecoder) where() string { return "offset " + strconv.FormatInt(h.dec.InputOffset(), 10) }

func (h *haeDecoder) fail(rule string, err error) error {
	return &adapters.PayloadError{Format: formatHAE, Where: h.where(), Rule: rule, Err: err}
}

// readError translates an error of the JSON decoder. The decoder's text is
// replaced because it may quote the body.
func (h *haeDecoder) readError(err error) error {
	var syntax *jsontext.SyntacticError
	switch {
	case errors.Is(err, errItem):
		return h.fail(errItem.Error(), nil)
	case errors.Is(err, errDeep):
		return h.fail(errDeep.Error(), nil)
	case errors.Is(err, jsontext.ErrDuplicateName):
		return h.fail("a JSON object has a name twice", nil)
	case errors.Is(err, io.ErrUnexpectedEOF), err == io.EOF:
		return h.fail("the JSON ends too early", nil)
	case errors.As(err, &syntax):
		return h.fail("this is not JSON", nil)
	}
	return h.fail("the body cannot be read", err)
}

func (h *haeDecoder) token() (jsontext.Token, error) {
	h.meter.mark = h.meter.read
	t, err := h.dec.ReadToken()
	if err != nil {
		return t, h.readError(err)
	}
	if h.dec.StackDepth() > maxJSONDepth {
		return t, h.readError(errDeep)
	}
	return t, nil
}

// value reads one complete value.
func (h *haeDecoder) value() ([]byte, error) {
	h.meter.mark = h.meter.read
	if h.items++; h.items&255 == 0 {
		if err := h.ctx.Err(); err != nil {
			return nil, err
		}
	}
	v, err := h.dec.ReadValue()
	if err != nil {
		return nil, h.readError(err)
	}
	if jsonDepth(v) > maxJSONDepth {
		return nil, h.readError(errDeep)
	}
	return v, nil
}

// jsonDepth returns the nesting depth of a JSON value.
func jsonDepth(b []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// skip reads past a value of any length, token by token.
func (h *haeDecoder) skip() error {
	base := h.dec.StackDepth()
	for {
		if _, err := h.token(); err != nil {
			return err
		}
		if h.dec.StackDepth() <= base {
			return nil
		}
		if h.items++; h.items&4095 == 0 {
			if err := h.ctx.Err(); err != nil {
				return err
			}
		}
	}
}

// object calls each with every name of the next object; each must read the value.
// A value that is not an object is skipped.
func (h *haeDecoder) object(each func(name string) error) error {
	return h.nested('{', func() error {
		t, err := h.token()
		if err != nil {
			return err
		}
		return each(t.String())
	})
}

// array calls each before every element of the next array; each must read it. A
// value that is not an array is skipped.
func (h *haeDecoder) array(each func() error) error { return h.nested('[', each) }

// nested calls each until the value that begins with open ends.
func (h *haeDecoder) nested(open jsontext.Kind, each func() error) error {
	h.meter.mark = h.meter.read
	if h.dec.PeekKind() != open {
		return h.skip()
	}
	if _, err := h.token(); err != nil {
		return err
	}
	for {
		h.meter.mark = h.meter.read
		switch h.dec.PeekKind() {
		case '}', ']':
			_, err := h.token()
			return err
		case jsontext.KindInvalid:
			_, err := h.token()
			if err == nil {
				err = h.fail("this is not JSON", nil)
			}
			return err
		}
		if err := each(); err != nil {
			return err
		}
	}
}

// run reads the body: one object with an object "data".
func (h *haeDecoder) run() error {
	found := false
	err := h.object(func(name string) error {
		if name != "data" {
			return h.skip()
		}
		found = h.dec.PeekKind() == '{'
		return h.object(h.section)
	})
	if err != nil {
		return err
	}
	if !found {
		return h.fail("no object \"data\"", nil)
	}
	if _, err := h.dec.ReadToken(); err != io.EOF {
		return h.fail("more than one JSON value", nil)
	}
	return nil
}

// section reads one member of "data".
func (h *haeDecoder) section(name string) error {
	switch name {
	case "metrics":
		return h.listOf(name, h.metric)
	case "workouts":
		return h.listOf(name, h.workout)
	}
	read := haeSections[name]
	if read == nil {
		h.sink.Drop(sample.DropIgnored, "section", 1)
		return h.skip()
	}
	return h.listOf(name, func() error {
		return h.item(name, func(v *fastjson.Value) error { return read(h, v) })
	})
}

// listOf reads a list. Null counts as an empty list, and other values are rejected.
func (h *haeDecoder) listOf(name string, each func() error) error {
	if kind := h.dec.PeekKind(); kind != '[' && kind != 'n' && kind != 0 {
		if err := h.reject(sample.ReasonBadValue, "", name+" is not a list", nil); err != nil {
			return err
		}
	}
	return h.array(each)
}

// item reads one object and passes it to read. A value of another type is
// rejected.
func (h *haeDecoder) item(metric string, read func(*fastjson.Value) error) error {
	raw, err := h.value()
	if err != nil {
		return err
	}
	return h.parsed(metric, raw, read)
}

// parsed parses an item and passes it to read. An itemError of read rejects the
// item.
func (h *haeDecoder) parsed(metric string, raw []byte, read func(*fastjson.Value) error) error {
	v, err := h.parser.ParseBytes(raw)
	if err != nil || v.Type() != fastjson.TypeObject {
		return h.reject(sample.ReasonMissing, metric, "the item is not an object", raw)
	}
	rejects := h.rejects
	err = read(v)
	var bad *itemError
	if errors.As(err, &bad) {
		return h.reject(bad.reason, metric, bad.rule, raw)
	}
	if wrong := wrongMember(metric, v); err == nil && wrong != "" && h.rejects == rejects {
		return h.rejectPart(metric, wrong)
	}
	return err
}

// rejectPart reports a member of a wrong type. The rest of its item is a sample.
func (h *haeDecoder) rejectPart(metric, member string) error {
	h.rejects++
	return h.sink.Reject(&sample.Reject{Reason: sample.ReasonBadValue, Metric: metric, Component: member,
		Where: h.where(), Detail: member + " has a wrong type"})
}

func (h *haeDecoder) reject(reason, metric, rule string, raw []byte) error {
	h.rejects++
	return h.sink.Reject(&sample.Reject{Reason: reason, Metric: metric, Where: h.where(), Detail: rule, Raw: raw})
}

// itemError is the reason for rejecting one item.
type itemError struct{ reason, rule string }

func (b *itemError) Error() string { return b.rule }

// str returns a string member, trimmed, or "" if there is none.
func str(v *fastjson.Value, key string) string {
	return strings.TrimSpace(string(v.GetStringBytes(key)))
}

// num returns a number member as FHIR's decimal, or "" if it is absent or null.
func num(v *fastjson.Value, key string) (string, error) {
	x := v.Get(key)
	if x == nil || x.Type() == fastjson.TypeNull {
		return "", nil
	}
	var b []byte
	switch x.Type() {
	case fastjson.TypeNumber:
		b = x.MarshalTo(nil)
	case fastjson.TypeString:
		b = x.GetStringBytes()
	}
	out, ok := decimal(b)
	if !ok {
		return "", &itemError{sample.ReasonBadValue, key + " is not a decimal"}
	}
	return string(out), nil
}

// haeLayouts lists the date layouts that occur in payloads. Special spaces are
// replaced and AM and PM are upper-cased before parsing.
var haeLayouts = []string{
	"2006-01-02 15:04:05 -0700", "2006-01-02 3:04:05 PM -0700", "2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05.999999999Z07:00",
	"2006-01-02T15:04:05-0700", "2006-01-02 15:04 -0700", "2006-01-02 3:04 PM -0700",
}

// date reads a date member; ok is false if it is absent or null.
func (h *haeDecoder) date(v *fastjson.Value, key string) (t time.Time, ok bool, err error) {
	b := v.GetStringBytes(key)
	if len(b) == 0 {
		return t, false, nil
	}
	if t, ok = h.clock.parse(b); !ok {
		s := strings.NewReplacer("\u202f", " ", "\u00a0", " ").Replace(string(b))
		s = strings.NewReplacer("am", "AM", "pm", "PM", "a.m.", "AM", "p.m.", "PM").Replace(s)
		for _, l := range haeLayouts {
			if t, err = time.Parse(l, s); err == nil {
				_, offset := t.Zone()
				t, ok = t.In(h.clock.zone(offset)), true
				break
			}
		}
	}
	if !ok {
		return t, false, &itemError{sample.ReasonBadTime, key + " is unreadable"}
	}
	if !h.clock.plausible(t) {
		return t, false, &itemError{sample.ReasonBadTime, key + " is before 1900 or in the future"}
	}
	return t, true, nil
}
