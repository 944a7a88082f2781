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
	// maxItem bounds one datum, and all rows of a metric that come before
	// its name.
	maxItem     = 16 << 20
	maxJSONDeep = 32
)

var (
	errItem = errors.New("an item is over 16 MiB")
	errDeep = errors.New("JSON is nested over 32 deep")
)

// haeSections are the keys of "data" and how an item of each is read.
var haeSections = map[string]func(*haeDecoder, *fastjson.Value) error{
	"metrics": nil, "workouts": nil, // streamed
	"stateOfMind": (*haeDecoder).stateOfMind, "medications": (*haeDecoder).medication,
	"symptoms": (*haeDecoder).symptom, "cycleTracking": (*haeDecoder).cycle,
	"ecg": (*haeDecoder).ecg, "heartRateNotifications": (*haeDecoder).notification,
}

// looksLikeHAE sees {"data":{}} with our sections, or nothing, in it.
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
		_, known := haeSections[t.String()]
		return t.Kind() == '}' || known
	}
	return false
}

// meter limits how much may be read between two items and reports progress.
type meter struct {
	r       io.Reader
	n, mark int64
	told    int64
	sink    adapters.Sink
}

func (m *meter) Read(p []byte) (int, error) {
	if m.n-m.mark > maxItem {
		return 0, errItem
	}
	n, err := m.r.Read(p[:min(int64(len(p)), maxItem+1-(m.n-m.mark))])
	m.n += int64(n)
	if m.n-m.told >= progressStep {
		m.told = m.n
		m.sink.Progress(m.n)
	}
	return n, err
}

// haeDecoder reads one Health Auto Export body.
type haeDecoder struct {
	ctx    context.Context
	sink   adapters.Sink
	m      *meter
	d      *jsontext.Decoder
	clock  *clock
	names  *interner
	parser fastjson.Parser
	items  int

	grain             grain            // of rows, by the delivery
	lone              []*sample.Sample // metrics with rows at one midnight only
	sawDays, sawHours bool             // whether other metrics have rows that are days, or not
}

// coarse is the sink of a channel that knows a source by its name only.
type coarse struct{ adapters.Sink }

func (c coarse) Sample(s *sample.Sample) error {
	s.Coarse = true
	return c.Sink.Sample(s)
}

func decodeHAE(ctx context.Context, in adapters.Input, sink adapters.Sink) error {
	sink = coarse{sink}
	m := &meter{r: in.Body, sink: sink}
	h := &haeDecoder{
		ctx: ctx, sink: sink, m: m, d: jsontext.NewDecoder(m, jsontext.AllowInvalidUTF8(true)),
		clock: newClock(in.Received), names: newInterner(8192),
		grain: grainOf(in.Delivery[headerAggregation]),
	}
	if err := h.run(); err != nil {
		return err
	}
	if err := h.loners(); err != nil {
		return err
	}
	sink.Progress(m.n)
	return nil
}

func (h *haeDecoder) where() string { return "offset " + strconv.FormatInt(h.d.InputOffset(), 10) }

func (h *haeDecoder) fail(rule string, err error) error {
	return &adapters.PayloadError{Format: formatHAE, Where: h.where(), Rule: rule, Err: err}
}

// readError names the rule; the decoder's own text may quote the body.
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
	h.m.mark = h.m.n
	t, err := h.d.ReadToken()
	if err != nil {
		return t, h.readError(err)
	}
	if h.d.StackDepth() > maxJSONDeep {
		return t, h.readError(errDeep)
	}
	return t, nil
}

// value reads one item whole.
func (h *haeDecoder) value() ([]byte, error) {
	h.m.mark = h.m.n
	if h.items++; h.items&255 == 0 {
		if err := h.ctx.Err(); err != nil {
			return nil, err
		}
	}
	v, err := h.d.ReadValue()
	if err != nil {
		return nil, h.readError(err)
	}
	if depth(v) > maxJSONDeep {
		return nil, h.readError(errDeep)
	}
	return v, nil
}

func depth(b []byte) int {
	deep, most, quoted := 0, 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			deep++
			most = max(most, deep)
		case c == '}' || c == ']':
			deep--
		}
	}
	return most
}

// skip passes over a value of any length token by token.
func (h *haeDecoder) skip() error {
	base := h.d.StackDepth()
	for {
		if _, err := h.token(); err != nil {
			return err
		}
		if h.d.StackDepth() <= base {
			return nil
		}
		if h.items++; h.items&4095 == 0 {
			if err := h.ctx.Err(); err != nil {
				return err
			}
		}
	}
}

// object calls each with every name of the object that comes; each consumes
// the value. A null is an empty object, anything else is skipped.
func (h *haeDecoder) object(each func(name string) error) error {
	return h.nested('{', func() error {
		t, err := h.token()
		if err != nil {
			return err
		}
		return each(t.String())
	})
}

// array calls each before every element; each consumes it.
func (h *haeDecoder) array(each func() error) error { return h.nested('[', each) }

func (h *haeDecoder) nested(open jsontext.Kind, each func() error) error {
	h.m.mark = h.m.n
	if h.d.PeekKind() != open {
		return h.skip()
	}
	if _, err := h.token(); err != nil {
		return err
	}
	for {
		h.m.mark = h.m.n
		switch h.d.PeekKind() {
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

func (h *haeDecoder) run() error {
	found := false
	err := h.object(func(name string) error {
		if name != "data" {
			return h.skip()
		}
		found = h.d.PeekKind() == '{'
		return h.object(h.section)
	})
	if err != nil {
		return err
	}
	if !found {
		return h.fail("no object \"data\"", nil)
	}
	if _, err := h.d.ReadToken(); err != io.EOF {
		return h.fail("more than one JSON value", nil)
	}
	return nil
}

func (h *haeDecoder) section(name string) error {
	switch name {
	case "metrics":
		return h.array(h.metric)
	case "workouts":
		return h.array(h.workout)
	}
	read := haeSections[name]
	if read == nil {
		h.sink.Drop(sample.DropIgnored, "section", 1)
		return h.skip()
	}
	return h.array(func() error { return h.item(name, func(v *fastjson.Value) error { return read(h, v) }) })
}

// item reads one object and gives it to read; anything else is rejected.
func (h *haeDecoder) item(metric string, read func(*fastjson.Value) error) error {
	raw, err := h.value()
	if err != nil {
		return err
	}
	return h.parsed(metric, raw, read)
}

func (h *haeDecoder) parsed(metric string, raw []byte, read func(*fastjson.Value) error) error {
	v, err := h.parser.ParseBytes(raw)
	if err != nil || v.Type() != fastjson.TypeObject {
		return h.reject(sample.ReasonMissing, metric, "the item is no object", raw)
	}
	err = read(v)
	var bad *badItem
	if errors.As(err, &bad) {
		return h.reject(bad.reason, metric, bad.rule, raw)
	}
	return err
}

func (h *haeDecoder) reject(reason, metric, rule string, raw []byte) error {
	return h.sink.Reject(&sample.Reject{Reason: reason, Metric: metric, Where: h.where(), Detail: rule, Raw: raw})
}

// badItem says why one item is rejected.
type badItem struct{ reason, rule string }

func (b *badItem) Error() string { return b.rule }

// str is a member that is a non-empty string, trimmed.
func str(v *fastjson.Value, key string) string {
	return strings.TrimSpace(string(v.GetStringBytes(key)))
}

// num is a member that is a number, as written; "" if it is absent or null.
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
		return "", &badItem{sample.ReasonBadValue, key + " is not a decimal"}
	}
	return string(out), nil
}

// haeLayouts are the forms dates were seen in, after spaces are made plain
// and AM and PM upper case.
var haeLayouts = []string{
	"2006-01-02 15:04:05 -0700", "2006-01-02 3:04:05 PM -0700", "2006-01-02T15:04:05Z07:00",
	"2006-01-02T15:04:05.999999999Z07:00",
	"2006-01-02T15:04:05-0700", "2006-01-02 15:04 -0700", "2006-01-02 3:04 PM -0700",
}

// when is a member that is a date; ok is false if it is absent or null.
func (h *haeDecoder) when(v *fastjson.Value, key string) (t time.Time, ok bool, err error) {
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
		return t, false, &badItem{sample.ReasonBadTime, key + " is unreadable"}
	}
	if !h.clock.plausible(t) {
		return t, false, &badItem{sample.ReasonBadTime, key + " is before 1900 or in the future"}
	}
	return t, true, nil
}
