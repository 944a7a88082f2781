package audit

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	lru "github.com/hashicorp/golang-lru/v2"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/store"
)

// Options of a Recorder.
type Options struct {
	Store store.Store
	Clock func() time.Time
	Rand  io.Reader // for ids and nonces
	// Observer is the server's base URL: source.observer and the server
	// agent of every event.
	Observer string
	Logger   *slog.Logger
}

// Recorder turns Events into AuditEvents and leaves.
type Recorder struct {
	opts     Options
	observer []byte // the Reference, as JSON
	network  []byte
	mu       sync.Mutex // guards Rand
	events   metric.Int64Counter
	waiting  gatherer
	frames   *lru.Cache[frameKey, *frame]
}

// NewRecorder returns a Recorder; it fails only when an option is missing.
func NewRecorder(o Options) (*Recorder, error) {
	if o.Store == nil || o.Clock == nil || o.Rand == nil || strings.TrimSpace(o.Observer) == "" {
		return nil, fhir.Errorf(fhir.Internal, "audit.NewRecorder", "store, clock, randomness and observer are needed")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{opts: o, waiting: gatherer{store: o.Store}}
	r.frames, _ = lru.New[frameKey, *frame](maxFrames) // fails only for a size below one
	r.observer = append(r.observer, `{"identifier":{"system":"urn:ietf:rfc:3986","value":`...)
	r.observer = appendString(r.observer, o.Observer)
	r.observer = append(r.observer, `},"display":"Pulsegate"}`...)
	r.network = appendNetwork(nil, o.Observer)
	var err error
	r.events, err = otel.Meter("pulsegate/fhir/audit").Int64Counter("pulsegate.audit.events",
		metric.WithUnit("{event}"),
		metric.WithDescription("AuditEvents made"))
	if err != nil {
		return nil, fhir.Wrap("audit.NewRecorder", err)
	}
	return r, nil
}

const (
	leafTag = "pgal1"
	leafLen = 104
	idLen   = 26
)

// idText is base32 in lower case, in the order of the bytes, so that ids sort
// by time.
func idText(b [16]byte) string {
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// Prepare makes the AuditEvent of ev and its leaf, to be put into the batch
// of the write they speak of. Neither can be used twice.
func (r *Recorder) Prepare(ev Event) (store.Write, store.Leaf, error) {
	if ev.At.IsZero() {
		ev.At = r.opts.Clock()
	}
	var rnd [42]byte // 10 for the id, 32 for the nonce
	r.mu.Lock()
	_, err := io.ReadFull(r.opts.Rand, rnd[:])
	r.mu.Unlock()
	if err != nil {
		return store.Write{}, nil, fhir.Wrap("audit.Prepare", err)
	}
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:], uint64(ev.At.UnixMilli())<<16)
	copy(raw[6:], rnd[:10])
	id := idText(raw)
	x := r.build(&ev, id, ev.At)
	leaf := makeLeaf(ev.At, ev.Type, id, rnd[10:], x.body)
	w := store.Write{
		Op:       store.Put,
		Resource: fhir.Resource{Type: "AuditEvent", ID: id, JSON: x.body},
		Values:   x.values,
		Form:     x.form,
		Cuts:     x.cuts,
		Expect:   store.Fresh,
	}
	copy(w.Hash[:], leaf[72:])
	r.events.Add(context.Background(), 1)
	return w, leaf, nil
}

// Record makes events durable, in one commit with those of other requests that
// wait at the same time. For reads it is called before the first byte of the
// answer; an error means that the answer must not go.
func (r *Recorder) Record(ctx context.Context, evs ...Event) error {
	if len(evs) == 0 {
		return nil
	}
	p := &pending{writes: make([]store.Write, 0, len(evs)), leaves: make([]store.Leaf, 0, len(evs)),
		done: make(chan struct{})}
	for _, ev := range evs {
		w, l, err := r.Prepare(ev)
		if err != nil {
			return err
		}
		p.writes = append(p.writes, w)
		p.leaves = append(p.leaves, l)
		if ev.Patient != "" {
			access.Disclose(ctx, ev.Patient)
		}
	}
	if err := r.waiting.commit(ctx, p); err != nil {
		r.opts.Logger.ErrorContext(ctx, "audit events could not be recorded", "events", len(evs), "err", err)
		return fhir.Wrap("audit.Record", err)
	}
	return nil
}

func makeLeaf(at time.Time, k EventType, id string, nonce, body []byte) store.Leaf {
	l := make([]byte, leafLen)
	copy(l, leafTag)
	binary.BigEndian.PutUint64(l[5:], uint64(at.UnixNano()))
	l[13] = byte(k)
	copy(l[14:40], id)
	copy(l[40:72], nonce)
	h := sha256.New()
	h.Write(l[40:72])
	h.Write(body)
	h.Sum(l[72:72])
	return l
}

// leafFacts is a parsed leaf.
type leafFacts struct {
	recorded time.Time
	kind     EventType
	id       string
	nonce, c []byte
}

func parseLeaf(l store.Leaf) (leafFacts, bool) {
	if len(l) != leafLen || string(l[:5]) != leafTag || !fhir.ValidID(string(l[14:40])) {
		return leafFacts{}, false
	}
	return leafFacts{
		recorded: time.Unix(0, int64(binary.BigEndian.Uint64(l[5:]))),
		kind:     EventType(l[13]),
		id:       string(l[14:40]),
		nonce:    l[40:72],
		c:        l[72:104],
	}, true
}

// matches reports whether the canonical bytes are what the leaf committed to.
func (f leafFacts) matches(body []byte) bool {
	h := sha256.New()
	h.Write(f.nonce)
	h.Write(body)
	return string(h.Sum(nil)) == string(f.c)
}
