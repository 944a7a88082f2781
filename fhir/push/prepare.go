package push

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
)

// action names the effect of a message at the target.
type action string

const (
	create  action = "create"
	update  action = "update"
	retract action = "retract"
)

// message is one request, or one entry of a batch.
type message struct {
	id      string
	patient string
	action  action
	facts   *access.Facts
	version uint64
	queued  time.Time

	body        []byte
	ifNoneExist string // the search that finds the resource at the target
	remote      string // id at the target, if known
	begun       sent   // the record while the request is under way
	accepted    sent   // the record once the target has accepted
	slot        *store.StateWrite
	// repeated is set if an earlier request may have reached the target.
	repeated bool
	// again is set if the Observation needs another round after this message.
	again bool
	// done is set when no further round is needed.
	done bool
}

// current returns the latest version of an Observation with content, and whether it
// is deleted now. res.Version is that of the deletion then.
func (s *sender) current(ctx context.Context, id string) (res fhir.Resource, facts *access.Facts, deleted bool,
	err error) {
	ref := fhir.Ref{Type: "Observation", ID: id}
	res, facts, err = s.follower.opts.Store.Read(ctx, ref, 0)
	if err != nil || !res.Deleted {
		return res, facts, false, err
	}
	version := res.Version
	for v := version; v > 1; {
		v--
		if res, facts, err = s.follower.opts.Store.ReadVersion(ctx, ref, v); err != nil || !res.Deleted {
			break
		}
	}
	res.Version = version
	return res, facts, true, err
}

// prepare returns the next message about an Observation, and nil if there is
// nothing to send.
func (s *sender) prepare(ctx context.Context, t *Target, grant *access.Grant, patient, id string) (*message, *failure) {
	res, facts, deleted, err := s.current(ctx, id)
	if fhir.KindOf(err) == fhir.NotFound {
		return nil, nil
	}
	var was *sent
	if err == nil {
		was, err = s.sentOf(ctx, id)
	}
	if err != nil {
		return nil, internal(err)
	}
	if facts == nil || facts.Patient != patient || !visible(grant, facts) {
		s.count(func(st *Stat) { st.Withheld++ })
		return nil, nil
	}
	var c content
	if err := json.Unmarshal(res.JSON, &c); err != nil {
		return nil, internal(err)
	}
	gone := deleted || c.Status == "entered-in-error"
	switch {
	case c.from(t.Base), was == nil && (gone || !t.match(facts)), was != nil && was.Retracted && gone,
		was != nil && was.Created && !was.Retracted && was.Version >= res.Version:
		return nil, nil
	}
	m := &message{id: id, patient: patient, facts: facts, version: res.Version}
	if was == nil {
		was = &sent{}
		if m.slot, err = s.claim(ctx, t, patient, id, &c); err != nil {
			return nil, internal(err)
		}
		if m.slot == nil && t.thins(&c) {
			s.count(func(st *Stat) { st.Thinned++ })
			return nil, nil
		}
	}
	src := &Source{Resource: res, Facts: facts}
	if s.form.Device {
		if src.Device, err = s.device(ctx, grant, c.Device.Reference); err != nil {
			return nil, internal(err)
		}
	}
	ok, f := s.subject(ctx, t, grant, patient, src)
	if f != nil || !ok {
		return nil, f
	}
	if err := s.fill(ctx, m, src, was, gone); err != nil {
		return nil, internal(err)
	}
	if m.action == "" {
		return nil, nil
	}
	return m, nil
}

// device returns the Device of a reference, or nil if there is none that the grant
// permits to see.
func (s *sender) device(ctx context.Context, grant *access.Grant, reference string) ([]byte, error) {
	ref, ok := fhir.ParseRef(reference)
	if !ok || ref.Type != "Device" || !grant.May(access.Read, "Device") {
		return nil, nil
	}
	res, facts, err := s.follower.opts.Store.Read(ctx, ref, 0)
	if fhir.KindOf(err) == fhir.NotFound {
		return nil, nil
	}
	if err != nil || res.Deleted || facts == nil || !grant.Filter(access.Read).Allow(facts) {
		return nil, err
	}
	return res.JSON, nil
}

func internal(err error) *failure { return &failure{class: "internal", err: err} }

// fill sets action and content of a message. It sets no action if there is nothing
// to send.
func (s *sender) fill(ctx context.Context, m *message, src *Source, was *sent, gone bool) error {
	// has is set if the target has a resource that shows, or can be updated to show,
	// this Observation.
	has := was.Created && (!was.Retracted || s.form.Updates)
	src.Revision = was.Revision
	if was.Retracted && !has {
		src.Revision++
	}
	body, query, ok, err := s.form.Create(ctx, src)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:8])
	m.ifNoneExist, m.remote, m.begun, m.repeated = query, was.Remote, *was, was.Begun && !was.Retracted
	m.begun.Begun = true
	switch {
	case !has && !gone && !ok:
		s.count(func(st *Stat) { st.Unsuited++ })
		return nil
	case !has && !gone:
		m.action, m.body = create, body
		m.accepted = sent{Version: m.version, Begun: true, Created: true, Hash: hash, Revision: src.Revision}
		if !m.repeated {
			m.begun.Hash = hash
		} else if was.Hash != hash {
			m.begun.Hash = "" // either content may be there
		}
		m.begun.Created, m.begun.Retracted, m.begun.Remote = false, false, ""
		m.begun.Revision = src.Revision
	case !gone && ok && was.Hash == hash && !was.Retracted:
		// Only what the form leaves out has changed.
		r := *was
		r.Version = m.version
		s.buffered[m.id] = r
		return nil
	case !gone && ok && s.form.Updates:
		m.action, m.body = update, body
		m.begun.Hash = "" // not known until the answer
		m.accepted = sent{Version: m.version, Begun: true, Created: true, Hash: hash, Remote: was.Remote,
			Revision: src.Revision}
	default:
		m.action, m.again = retract, !gone && ok
		m.begun.Hash = ""
		m.accepted = *was
		m.accepted.Version, m.accepted.Begun, m.accepted.Retracted = m.version, true, true
		m.body, m.ifNoneExist, ok, err = s.form.Retract(ctx, src)
		if err == nil && !ok {
			s.setAside(m, &answer{status: http.StatusUnprocessableEntity, body: unsuited()})
		}
	}
	return err
}

// unsuited returns the outcome for an Observation that the form cannot represent.
func unsuited() []byte {
	return []byte(`{"resourceType":"OperationOutcome","issue":[{"code":"not-supported"}]}`)
}

// thins reports whether values like c are thinned.
func (t *Target) thins(c *content) bool {
	if t.Every <= 0 || c.measuredSingly() {
		return false
	}
	_, ok := instant(c)
	return ok
}

// instant returns the effective time in Unix milliseconds of a value at an instant.
func instant(c *content) (at int64, ok bool) {
	text := c.at()
	if len(text) < len("2006-01-02T15:04") {
		return 0, false // a day or less
	}
	at, _, ok = search.DateInterval(text)
	return at, ok
}

// metricOf names what a value measures by its codings.
func metricOf(c *content) string {
	var name strings.Builder
	for _, coding := range c.Code.Coding {
		name.WriteString(coding.System + "|" + coding.Code + "\n")
	}
	return name.String()
}

// claim looks for values of the same patient and code that are closer than t.Every.
// If there are none, it returns the write that reserves the place for this one. Time
// is divided into slots of t.Every, each with at most one value.
func (s *sender) claim(ctx context.Context, t *Target, patient, id string, c *content) (*store.StateWrite, error) {
	if !t.thins(c) {
		return nil, nil
	}
	at, _ := instant(c)
	sum := sha256.Sum256([]byte(metricOf(c)))
	prefix := fmt.Sprintf("%s%s/%x/", rowPrefix("dense", t.Name), patient, sum[:8])
	every := max(1, t.Every.Milliseconds())
	slot := at / every
	if at < 0 {
		slot--
	}
	key := func(n int64) string { return prefix + fmt.Sprintf("%016x", uint64(n)^1<<63) }
	for _, n := range []int64{slot, slot - 1, slot + 1} {
		v, err := s.slot(ctx, key(n))
		if err != nil {
			return nil, err
		}
		holder, when, ok := strings.Cut(string(v), " ")
		if !ok || holder == id {
			continue
		}
		other, err := strconv.ParseInt(when, 10, 64)
		if err != nil {
			return nil, fhir.Wrap("push.claim", err)
		}
		if max(at, other)-min(at, other) < every {
			return nil, nil
		}
	}
	return &store.StateWrite{Key: key(slot), Value: []byte(id + " " + strconv.FormatInt(at, 10))}, nil
}

// slot returns the value of a time slot, including those of the request that is
// being prepared.
func (s *sender) slot(ctx context.Context, key string) ([]byte, error) {
	if v, ok := s.claimed[key]; ok {
		return v, nil
	}
	return s.follower.opts.Store.Get(ctx, key)
}
