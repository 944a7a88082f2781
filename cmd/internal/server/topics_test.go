package server

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pulsegate/fhir"
	"pulsegate/fhir/subscription/topic"
)

const operatorsTopic = `{"resourceType":"SubscriptionTopic","url":"https://hospital.example/SubscriptionTopic/final","status":"active",
"resourceTrigger":[{"resource":"Observation","queryCriteria":{"current":"status=final"}}],
"canFilterBy":[{"resource":"Observation","filterParameter":"patient"}]}`

// topicsOf opens the services with settings of subscriptions, calls use, and closes them.
func topicsOf(t *testing.T, dir, file string, use func(s *services)) error {
	t.Helper()
	env := environment{config: settings(t, dir, map[string]string{"subscriptions": file}), version: "test",
		now: time.Now, log: slog.New(slog.DiscardHandler), base: "http://localhost:8080"}
	s, err := openServices(t.Context(), env)
	if err != nil {
		return err
	}
	defer shut(t, s)
	use(s)
	return nil
}

// listed returns the topics and the WebSocket of the CapabilityStatement.
func listed(t *testing.T, s *services) (topics []string, socket string) {
	t.Helper()
	h := &health{}
	handler, err := s.handler(h)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/fhir/metadata", nil))
	var c struct {
		Rest []struct {
			Extension []struct{ URL, ValueURI string }
			Resource  []struct {
				Type      string
				Extension []struct{ URL, ValueCanonical string }
			}
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &c); err != nil || len(c.Rest) != 1 {
		t.Fatalf("%v %s", err, w.Body)
	}
	for _, r := range c.Rest[0].Resource {
		for _, x := range r.Extension {
			if r.Type == "Subscription" && strings.HasSuffix(x.URL, "capabilitystatement-subscriptiontopic-canonical") {
				topics = append(topics, x.ValueCanonical)
			}
		}
	}
	for _, x := range c.Rest[0].Extension {
		if strings.HasSuffix(x.URL, "capabilitystatement-websocket") {
			socket = x.ValueURI
		}
	}
	return topics, socket
}

// TestPublishTopics starts a server without settings, with a topic of the operator, and
// without it. The topics must be readable Basics, listed in the CapabilityStatement, get a
// new version only if they change, and be retired when their file is gone.
func TestPublishTopics(t *testing.T) {
	dir, files := t.TempDir(), t.TempDir()
	file := filepath.Join(files, "subscriptions.yaml")
	for name, text := range map[string]string{"subscriptions.yaml": "topics: [final.json]\n", "final.json": operatorsTopic} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const own, added = topic.Base + "observation-recorded", "https://hospital.example/SubscriptionTopic/final"
	read := func(s *services, id string) (*topic.Topic, uint64) {
		r, _, err := s.store.Read(t.Context(), fhir.Ref{Type: "Basic", ID: id}, 0)
		if err != nil {
			t.Fatal(err)
		}
		x, err := topic.Parse(r.JSON, s.fhirBase())
		if err != nil {
			t.Fatal(err)
		}
		return x, r.Version
	}
	for i, step := range []struct {
		file    string
		offered bool
	}{{"", false}, {file, true}, {file, true}, {"", false}, {file, true}} {
		err := topicsOf(t, dir, step.file, func(s *services) {
			topics, socket := listed(t, s)
			if !slices.Contains(topics, own) || !slices.Contains(topics, topic.FeedURL) ||
				slices.Contains(topics, added) != step.offered {
				t.Errorf("step %d: topics %v", i, topics)
			}
			if socket != "ws://localhost:8080/fhir/$subscription-ws" {
				t.Errorf("socket %s", socket)
			}
			if x, v := read(s, "topic-observation-recorded"); x.URL != own || v != 1 {
				t.Errorf("step %d: %s version %d", i, x.URL, v)
			}
			if i == 0 {
				return
			}
			want := map[bool]string{true: "active", false: "retired"}[step.offered]
			if x, v := read(s, "final"); x.Status != want || v != []uint64{0, 1, 1, 2, 3}[i] {
				t.Errorf("step %d: %s version %d", i, x.Status, v)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestSubscriptionSettings checks that mistakes in the settings stop the server with the
// name of the setting, and show no secret.
func TestSubscriptionSettings(t *testing.T) {
	files := t.TempDir()
	secret := filepath.Join(files, "secret")
	if err := os.WriteFile(secret, []byte("hidden"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "bad.json"), []byte(`{"resourceType":"SubscriptionTopic"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"nothing: 1\n":                        "nothing",
		"topics: [absent.json]\n":             "topics",
		"topics: [bad.json]\n":                "SubscriptionTopic.url",
		"mail: {server: x}\n":                 "mail",
		"mail: {server: x:25, from: a@b.c}\n": "domains",
		"mail: {server: 'x:25', from: a@b.c, domains: [b.c], password-file: /absent}\n": "password-file",
		"oauth: [{client: a, client-secret-file: " + secret + "}]\n":                    "oauth",
		"nats: {server: 'x:4222'}\n":                                                    "prefix",
	} {
		file := filepath.Join(files, "subscriptions.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := topicsOf(t, t.TempDir(), file, func(*services) {})
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "subscriptions") || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: %v", text, err)
		}
	}
	file := filepath.Join(files, "subscriptions.yaml")
	good := "mail: {server: 'mail.example:587', from: a@b.c, domains: [b.c], username: u, password-file: " + secret +
		"}\noauth: [{client: a, endpoint: 'https://x', token-url: 'https://y', client-id: z, client-secret-file: " + secret +
		"}]\nnats: {server: 'x:4222', prefix: pg, tls: true}\n"
	if err := os.WriteFile(file, []byte(good), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := topicsOf(t, t.TempDir(), file, func(*services) {}); err != nil {
		t.Error(err)
	}
}
