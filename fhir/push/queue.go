package push

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/store"
)

// maxRow is the number of ids in one row of a queue.
const maxRow = 256

// row is a row of a queue: Observations of one patient that one commit changed, or
// that a backfill found.
type row struct {
	At  int64    `json:"at"` // when the first id was queued, Unix milliseconds
	IDs []string `json:"ids"`

	seq    store.Seq
	number int // within the rows of seq
}

// write returns the write of the row below prefix, which ends with the patient.
func (r *row) write(prefix string) (store.StateWrite, error) {
	v, err := json.Marshal(r)
	return store.StateWrite{Key: prefix + fmt.Sprintf("%016x/%08x", uint64(r.seq), r.number), Value: v}, err
}

// queued is a row that was read from a queue.
type queued struct {
	row
	key     string
	patient string
}

// decode reads a row of the queue of a target.
func decode(prefix, key string, value []byte) (queued, error) {
	patient, place, ok := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	q := queued{key: key, patient: patient}
	err := json.Unmarshal(value, &q.row)
	if seq, n, cut := strings.Cut(place, "/"); err == nil && ok && cut {
		var s, i uint64
		if s, err = strconv.ParseUint(seq, 16, 64); err == nil {
			i, err = strconv.ParseUint(n, 16, 32)
		}
		q.seq, q.number = store.Seq(s), int(i)
	}
	return q, fhir.Wrap("push.decode", err)
}

// next returns the first row of the next patient after s.last that is not waiting.
// If all are waiting, it returns the time until the first of them is due, and idle
// if the queue is empty.
func (s *sender) next(ctx context.Context, now time.Time) (q queued, wait time.Duration, err error) {
	prefix := rowPrefix("queue", s.name)
	wait = idle
	from, wrapped := prefix, true
	if s.last != "" {
		// The character after the slash that ends the patient's keys.
		from, wrapped = prefix+s.last+"0", false
	}
	for {
		var key string
		var value []byte
		if err := s.follower.opts.Store.ListFrom(ctx, prefix, from, func(k string, v []byte) bool {
			key, value = k, append([]byte(nil), v...)
			return false
		}); err != nil {
			return q, 0, err
		}
		if key == "" {
			if wrapped {
				return q, wait, nil
			}
			from, wrapped = prefix, true
			continue
		}
		if q, err = decode(prefix, key, value); err != nil {
			return q, 0, err
		}
		due, ok := s.waiting[q.patient]
		if !ok || !now.Before(due.until) {
			return q, 0, nil
		}
		wait = min(wait, due.until.Sub(now))
		if wrapped && s.last != "" && q.patient+"/" >= s.last+"/" {
			return q, wait, nil // all patients were seen
		}
		from = prefix + q.patient + "0"
	}
}

// sent records what the target has of an Observation.
type sent struct {
	// Version is the stored version that the target has.
	Version uint64 `json:"v,omitempty"`
	// Begun is set from the first request on, and Created when the target has accepted
	// the creation.
	Begun   bool `json:"begun,omitempty"`
	Created bool `json:"created,omitempty"`
	// Retracted is set when the target has it as entered in error.
	Retracted bool `json:"retracted,omitempty"`
	// Revision is the number of resources that were retracted before this one.
	Revision int `json:"rev,omitempty"`
	// Remote is the id at the target, "" if it is not known.
	Remote string `json:"id,omitempty"`
	// Hash identifies the content that the target has, or has got if it has accepted
	// the creation. It is empty while an update is in doubt.
	Hash string `json:"h,omitempty"`
	// Audited is the version whose disclosure is recorded, and AuditedAs the action.
	Audited   uint64 `json:"a,omitempty"`
	AuditedAs action `json:"as,omitempty"`
}

func (s *sender) sentKey(id string) string { return rowPrefix("sent", s.name) + id }

// sentOf returns the record of an Observation, and nil if it was never sent.
func (s *sender) sentOf(ctx context.Context, id string) (*sent, error) {
	if r, ok := s.buffered[id]; ok {
		return &r, nil
	}
	v, err := s.follower.opts.Store.Get(ctx, s.sentKey(id))
	if err != nil || v == nil {
		return nil, err
	}
	r := &sent{}
	return r, fhir.Wrap("push.sentOf", json.Unmarshal(v, r))
}

// aside records why an Observation was set aside.
type aside struct {
	Patient string    `json:"patient"`
	Version uint64    `json:"v"`
	Status  int       `json:"status"`
	Codes   []string  `json:"codes,omitempty"`
	At      time.Time `json:"at"`
}

// flush makes buffered results durable, together with more. It is called before a
// row is removed, and otherwise every few requests: what is repeated after a crash
// takes effect once.
func (s *sender) flush(ctx context.Context, more ...store.StateWrite) error {
	ws := more
	for id, r := range s.buffered {
		v, err := json.Marshal(r)
		if err != nil {
			return err
		}
		ws = append(ws, store.StateWrite{Key: s.sentKey(id), Value: v})
	}
	ws = append(ws, s.writes...)
	s.follower.mu.Lock()
	stat := s.stat
	s.follower.mu.Unlock()
	if stat != s.savedStat {
		v, err := json.Marshal(stat)
		if err != nil {
			return err
		}
		ws = append(ws, store.StateWrite{Key: statKey(s.name), Value: v})
	}
	if len(ws) == 0 {
		return nil
	}
	if _, err := s.follower.opts.Store.Commit(ctx, &store.Batch{State: ws}); err != nil {
		return err
	}
	s.savedStat, s.writes = stat, nil
	clear(s.buffered)
	return nil
}
