package cloudtest

import (
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/adapters/cloud"
)

// Webhook describes a vendor's notifications.
type Webhook struct {
	// Genuine returns a notification with events as the vendor sends it at a time.
	Genuine func(at time.Time) *cloud.Notification
	// Sign authenticates a notification after its body was changed.
	Sign func(n *cloud.Notification, at time.Time)
	// Forge authenticates it with another secret than the vendor's.
	Forge func(n *cloud.Notification, at time.Time)
	// Signature and Needed name headers without which a notification is not accepted.
	// Signature is one of them. If it is empty, notifications are not signed, and a
	// secret in their path authenticates them.
	Signature string
	Needed    []string
	// Verify is the method of the request that verifies the webhook, if its answer has
	// no content.
	Verify string
	// MaxAge is the age up to which notifications are accepted, or 0 if they are not
	// dated.
	MaxAge time.Duration
	// Account is the account of Genuine.
	Account string
}

// malformed are bodies that announce nothing.
var malformed = []string{
	"", " ", "{", "[", "null", "17", `"x"`, "{}{}", "[[]]", "[null]", "[{}]", `{"data":7}`, `[{"data":[]}]`, "\x00\xff",
	`{"event_type":7}`, `{"event_type":"update","data_type":"sleep"}`,
	`{"event_type":"update","data_type":"sleep","object_id":"../x","user_id":"u"}`,
	`{"data":{"healthUserId":7}}`,
	`{"data":{"healthUserId":"1","operation":"UPSERT","dataType":"steps","intervals":7}}`,
	`{"data":{"healthUserId":"1","operation":"UPSERT","dataType":"steps",` +
		`"intervals":[{"physicalTimeInterval":{"startTime":"yesterday","endTime":"today"}}]}}`,
	strings.Repeat("[", 20_000),
}

func (s *Suite) webhook(t *testing.T) {
	v, _ := s.start(t, s.API)
	w, n := s.Webhook, v.(cloud.Notifier)
	refused := func(t *testing.T, m *cloud.Notification) {
		t.Helper()
		r, err := n.Receive(t.Context(), m)
		if err == nil || r.Store || r.Status < 400 || r.Status == http.StatusGone {
			t.Errorf("accepted: status %d, store %v, %v", r.Status, r.Store, err)
		}
		if err != nil && strings.Contains(err.Error(), w.Account) {
			t.Errorf("the error quotes the notification: %v", err)
		}
	}
	genuine := func() *cloud.Notification {
		m := w.Genuine(s.Now)
		m.Now = s.Now
		return m
	}
	t.Run("genuine", func(t *testing.T) { s.genuine(t, n, genuine) })
	t.Run("missing header", func(t *testing.T) {
		for _, h := range w.Needed {
			m := genuine()
			m.Header.Del(h)
			refused(t, m)
		}
	})
	if w.Signature == "" {
		t.Run("path", func(t *testing.T) { otherPaths(t, genuine, refused) })
	} else {
		t.Run("signature", func(t *testing.T) { w.signature(t, genuine, refused) })
	}
	t.Run("another secret", func(t *testing.T) {
		m := genuine()
		w.Forge(m, s.Now)
		refused(t, m)
	})
	t.Run("time", func(t *testing.T) { s.dated(t, n, refused) })
	t.Run("oversized", func(t *testing.T) {
		m := genuine()
		m.Body = append(bytes.Clone(m.Body), bytes.Repeat([]byte(" "), 4<<20)...)
		w.Sign(m, s.Now)
		refused(t, m)
	})
	t.Run("malformed", func(t *testing.T) {
		for _, b := range malformed {
			m := genuine()
			m.Body = []byte(b)
			w.Sign(m, s.Now)
			if r, err := n.Receive(t.Context(), m); err == nil && r.Store {
				t.Errorf("stored: %.60q", b)
			}
			if events, err := n.Events(m.Body); err == nil && len(events) > 0 {
				t.Errorf("%.60q: events %+v", b, events)
			}
		}
	})
	t.Run("method", func(t *testing.T) {
		for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodHead} {
			m := genuine()
			m.Method = method
			if method != w.Verify {
				refused(t, m)
			} else if r, err := n.Receive(t.Context(), m); err != nil || r.Status/100 != 2 || r.Store {
				t.Errorf("the webhook is not verified: %+v, %v", r, err)
			}
		}
	})
}

// signature checks that notifications with a changed signature or body are refused.
func (w *Webhook) signature(t *testing.T, genuine func() *cloud.Notification,
	refused func(*testing.T, *cloud.Notification)) {
	m := genuine()
	good := m.Header.Get(w.Signature)
	for i := range len(good) {
		bad := []byte(good)
		bad[i] ^= 0x01
		m.Header.Set(w.Signature, string(bad))
		refused(t, m)
	}
	for _, bad := range []string{" ", "AA", "AQAAAAA=", strings.Repeat("A", 1<<16), "=", "\xff"} {
		m := genuine()
		m.Header.Set(w.Signature, bad)
		refused(t, m)
	}
	for i := range genuine().Body {
		m := genuine()
		m.Body = bytes.Clone(m.Body)
		m.Body[i] ^= 0x01
		refused(t, m)
	}
}

// otherPaths checks that notifications without the secret of their path are refused.
func otherPaths(t *testing.T, genuine func() *cloud.Notification, refused func(*testing.T, *cloud.Notification)) {
	good := genuine().Path
	for i := range len(good) {
		bad := []byte(good)
		bad[i] ^= 0x01
		for _, path := range []string{string(bad), good[:i], good + good[i:]} {
			m := genuine()
			m.Path = path
			refused(t, m)
		}
	}
}

// genuine checks a notification that must be accepted.
func (s *Suite) genuine(t *testing.T, n cloud.Notifier, genuine func() *cloud.Notification) {
	first, err := n.Receive(t.Context(), genuine())
	if err != nil || first.Status/100 != 2 || !first.Store || first.Keep <= 0 {
		t.Fatalf("%+v, %v", first, err)
	}
	m := genuine()
	m.Header = m.Header.Clone()
	again, err := n.Receive(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	other := genuine()
	other.Body = bytes.Replace(other.Body, []byte(s.Webhook.Account), []byte("another"), 1)
	s.Webhook.Sign(other, s.Now)
	different, err := n.Receive(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	if first.Key == different.Key {
		t.Error("two notifications have one key")
	}
	replay := genuine()
	replay.Header = m.Header
	if r, err := n.Receive(t.Context(), replay); err != nil || r.Key != again.Key {
		t.Errorf("a repetition has another key, or %v", err)
	}
	events, err := n.Events(m.Body)
	if err != nil || len(events) == 0 {
		t.Fatalf("events %+v, %v", events, err)
	}
	for _, e := range events {
		CheckEvent(t, n, e)
		if e.Account != s.Webhook.Account {
			t.Errorf("event of account %q", e.Account)
		}
	}
	if s.Webhook.MaxAge > 0 && first.Keep < s.Webhook.MaxAge {
		t.Errorf("keys are forgotten after %v, but notifications are accepted for %v", first.Keep, s.Webhook.MaxAge)
	}
}

// dated checks the age up to which notifications are accepted.
func (s *Suite) dated(t *testing.T, n cloud.Notifier, refused func(*testing.T, *cloud.Notification)) {
	w := s.Webhook
	if w.MaxAge == 0 {
		t.Skip("notifications have no time")
	}
	for _, at := range []time.Duration{-w.MaxAge - time.Second, w.MaxAge, 24 * time.Hour} {
		m := w.Genuine(s.Now.Add(at))
		m.Now = s.Now
		refused(t, m)
	}
	for _, at := range []time.Duration{-w.MaxAge, 0, time.Minute} {
		m := w.Genuine(s.Now.Add(at))
		m.Now = s.Now
		if _, err := n.Receive(t.Context(), m); err != nil {
			t.Errorf("a notification of %v from now was refused: %v", at, err)
		}
	}
}

// CheckEvent checks that an event names a stream of the vendor and an object or a
// window.
func CheckEvent(t testing.TB, v cloud.Vendor, e cloud.Event) {
	t.Helper()
	streams := v.Streams()
	i := slices.IndexFunc(streams, func(s cloud.Stream) bool { return s.Name == e.Stream })
	if i < 0 || e.Account == "" {
		t.Fatalf("event of stream %q, account %q", e.Stream, e.Account)
	}
	if !streams[i].Notified {
		t.Errorf("event of stream %q, which is not announced", e.Stream)
	}
	if (e.Object == "") == e.From.IsZero() || e.Object == "" && !e.From.Before(e.To) {
		t.Errorf("event with object %q, from %v to %v", e.Object, e.From, e.To)
	}
	midnight := func(at time.Time) bool { return at.UTC().Truncate(24 * time.Hour).Equal(at) }
	if streams[i].Span == cloud.Days && !e.Deleted && e.Object == "" && !(midnight(e.From) && midnight(e.To)) {
		t.Errorf("event of whole days from %v to %v", e.From, e.To)
	}
}

// FuzzEvents fuzzes Events with seeds.
func FuzzEvents(f *testing.F, n cloud.Notifier, seeds ...string) {
	for _, s := range append(seeds, malformed...) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		events, err := n.Events(b)
		if err != nil && len(events) > 0 {
			t.Error("events with an error")
		}
		for _, e := range events {
			CheckEvent(t, n, e)
		}
	})
}
