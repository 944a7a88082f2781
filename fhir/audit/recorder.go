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

	lru "github.com/hashicorp/golang-lru/v2"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/metric"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/element"
	"pulsegate/fhir/store"
)

// Options configures a Recorder.
type Options struct {
	Store store.Store
	Clock func() time.Time
	Rand  io.Reader // for ids and nonces
	// Observer is the server's base URL. It is the source.observer and the server
	// agent of every event.
	Observer string
	Logger   *slog.Logger
	// Commits bounds the concurrent commits of Record. Zero means 1, which suits a store
	// on a local disk. A store that waits for a network needs more.
	Commits int
}

// Recorder builds AuditEvents and leaves from Events. It is safe for concurrent
// use.
type Recorder struct {
	opts      Options
	observer  []byte     // JSON of source.observer
	network   []byte     // JSON of the server agent's network
	mu        sync.Mutex // guards Options.Rand
	events    metric.Int64Counter
	batcher   batcher
	templates *lru.Cache[templateKey, *template]
}

// NewRecorder returns a Recorder.
func NewRecorder(o Options) (*Recorder, error) {
	if o.Store == nil || o.Clock == nil || o.Rand == nil || strings.TrimSpace(o.Observer) == "" {
		return nil, fhir.Errorf(fhir.Internal, "audit.NewRecorder", "Store, Clock, Rand and Observer are required")
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Recorder{opts: o, batcher: batcher{store: o.Store, limit: max(1, o.Commits)}}
	r.templates, _ = lru.New[templateKey, *template](maxTemplates) // fails only for a size below one
	r.observer = append(r.observer, `{"identifier":{"system":"`+element.URI+`","value":`...)
	r.observer = appendString(r.observer, o.Observer)
	r.observer = append(r.observer, `},"display":"Pulsegate"}`...)
	r.network = appendNetwork(nil, o.Observer)
	var err error
	r.events, err = otel.Meter("pulsegate/fhir/audit").Int64Counter("pulsegate.audit.events",
		metric.WithUnit("{event}"),
		metric.WithDescription("AuditEvents built"))
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

// idText encodes an id in lower-case base32hex, which sorts like the bytes, so that
// ids sort by time.
func idText(b [16]byte) string {
	return strings.ToLower(base32.HexEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

// Prepare builds the AuditEvent of ev and its leaf for the batch of the write that
// they record. Both must be committed at most once.
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
	event := r.build(&ev, id, ev.At)
	leaf := makeLeaf(ev.At, ev.Type, id, rnd[10:], event.body)
	w := store.Write{
		Op:       store.Put,
		Resource: fhir.Resource{Type: "AuditEvent", ID: id, JSON: event.body},
		Values:   event.values,
		Template: event.template,
		Cuts:     event.cuts,
		Expect:   store.Fresh,
	}
	copy(w.Hash[:], leaf[72:])
	r.events.Add(context.Background(), 1)
	return w, leaf, nil
}

// Record makes events durable, in one commit with those of concurrent requests.
// For a read, the caller must call it before the first byte of the response and
// must not send the response after an error.
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
	if err := r.batcher.commit(ctx, p); err != nil {
		r.opts.Logger.ErrorContext(ctx, "audit events could not be recorded", "events", len(evs), "error", err)
		return fhir.Wrap("audit.Record", err)
	}
	return nil
}

// makeLeaf encodes a leaf as described in the package comment.
func makeLeaf(at time.Time, typ EventType, id string, nonce, body []byte) store.Leaf {
	l := make([]byte, leafLen)
	copy(l, leafTag)
	binary.BigEndian.PutUint64(l[5:], uint64(at.UnixNano()))
	l[13] = byte(typ)
	copy(l[14:40], id)
	copy(l[40:72], nonce)
	h := sha256.New()
	h.Write(l[40:72])
	h.Write(body)
	h.Sum(l[72:72])
	return l
}

// parsedLeaf holds the fields of a leaf.
type parsedLeaf struct {
	recorded          time.Time
	typ               EventType
	id                string
	nonce, commitment []byte
}

func parseLeaf(l store.Leaf) (parsedLeaf, bool) {
	if len(l) != leafLen || string(l[:5]) != leafTag || !fhir.ValidID(string(l[14:40])) {
		return parsedLeaf{}, false
	}
	return parsedLeaf{
		recorded:   time.Unix(0, int64(binary.BigEndian.Uint64(l[5:]))),
		typ:        EventType(l[13]),
		id:         string(l[14:40]),
		nonce:      l[40:72],
		commitment: l[72:104],
	}, true
}

// matches reports whether the leaf commits to the canonical bytes.
func (f parsedLeaf) matches(body []byte) bool {
	h := sha256.New()
	h.Write(f.nonce)
	h.Write(body)
	return string(h.Sum(nil)) == string(f.commitment)
}
