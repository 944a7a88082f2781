package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"pulsegate/cmd/internal/admin"
	"pulsegate/cmd/internal/config"
	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/capability"
	"pulsegate/fhir/search"
	"pulsegate/fhir/store"
	"pulsegate/fhir/subscription"
	"pulsegate/fhir/subscription/credentials"
	"pulsegate/fhir/subscription/mail"
	"pulsegate/fhir/subscription/nats"
	"pulsegate/fhir/subscription/topic"
)

// subscriptionSettings is the file that the setting subscriptions names.
type subscriptionSettings struct {
	// Topics lists files with a SubscriptionTopic (R5) or a Basic (R4) in JSON, relative to
	// the file with the settings.
	Topics []string `yaml:"topics"`
	Mail   *struct {
		Server       string   `yaml:"server"`
		TLS          string   `yaml:"tls"`
		Username     string   `yaml:"username"`
		PasswordFile string   `yaml:"password-file"`
		From         string   `yaml:"from"`
		Domains      []string `yaml:"domains"`
	} `yaml:"mail"`
	OAuth []struct {
		Client     string `yaml:"client"`
		Endpoint   string `yaml:"endpoint"`
		TokenURL   string `yaml:"token-url"`
		ClientID   string `yaml:"client-id"`
		SecretFile string `yaml:"client-secret-file"`
		Scope      string `yaml:"scope"`
	} `yaml:"oauth"`
	NATS *struct {
		Server       string `yaml:"server"`
		Prefix       string `yaml:"prefix"`
		User         string `yaml:"user"`
		PasswordFile string `yaml:"password-file"`
		TLS          bool   `yaml:"tls"`
	} `yaml:"nats"`
}

// readSubscriptions reads the settings of subscriptions, which may be absent.
func readSubscriptions(path string) (s subscriptionSettings, err error) {
	if path == "" {
		return s, nil
	}
	if _, err = readYAML(path, &s); err != nil {
		return s, fmt.Errorf("subscriptions: %w", err)
	}
	return s, nil
}

// subscriptionOptions adds what the settings configure to o.
func subscriptionOptions(env environment, o *subscription.Options) error {
	s, err := readSubscriptions(env.config.Subscriptions)
	if err != nil {
		return err
	}
	wrap := func(part string, err error) error {
		return fmt.Errorf("subscriptions: %s: %s: %w", env.config.Subscriptions, part, err)
	}
	if m := s.Mail; m != nil {
		password, err := config.ReadSecret("password-file", m.PasswordFile)
		if err != nil {
			return wrap("mail", err)
		}
		sender, err := mail.New(mail.Config{Server: m.Server, TLS: m.TLS, Username: m.Username, Password: password,
			From: m.From, Domains: m.Domains, Clock: env.now})
		if err != nil {
			return wrap("mail", err)
		}
		o.Mail = sender
	}
	var entries []credentials.Entry
	for _, x := range s.OAuth {
		secret, err := config.ReadSecret("client-secret-file", x.SecretFile)
		if err != nil {
			return wrap("oauth", err)
		}
		entries = append(entries, credentials.Entry{Client: x.Client, Endpoint: x.Endpoint, TokenURL: x.TokenURL,
			ClientID: x.ClientID, Secret: secret, Scope: x.Scope})
	}
	if len(entries) > 0 {
		c, err := credentials.New(env.client(10*time.Second, 64<<10), env.now, entries)
		if err != nil {
			return wrap("oauth", err)
		}
		o.Authorize = c.Authorize
	}
	if n := s.NATS; n != nil {
		p, err := newNATS(n.Server, n.Prefix, n.User, n.PasswordFile, n.TLS)
		if err != nil {
			return wrap("nats", err)
		}
		o.Publishers = map[string]subscription.Publisher{"nats": p}
	}
	return nil
}

func newNATS(server, prefix, user, passwordFile string, secure bool) (*nats.Publisher, error) {
	password, err := config.ReadSecret("password-file", passwordFile)
	if err != nil {
		return nil, err
	}
	c := nats.Config{Server: server, Prefix: prefix, User: user, Password: password}
	if secure {
		c.TLS = nats.DefaultTLS()
	}
	return nats.New(c)
}

// topics returns the topics of the server and those of the operator's files.
func (s *services) topics() ([]*topic.Topic, error) {
	all, err := topic.Builtin(s.fhirBase())
	if err != nil {
		return nil, err
	}
	settings, err := readSubscriptions(s.config.Subscriptions)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, t := range all {
		seen[t.URL], seen[t.ID] = true, true
	}
	for _, name := range settings.Topics {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(s.config.Subscriptions), name)
		}
		body, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("subscriptions: topics: %w", err)
		}
		t, err := topic.Parse(body, s.fhirBase())
		if err != nil {
			return nil, fmt.Errorf("subscriptions: topics: %s: %w", name, err)
		}
		if t.ID == "" {
			t.ID = strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))
		}
		if !fhir.ValidID(t.ID) || seen[t.URL] || seen[t.ID] {
			return nil, fmt.Errorf("subscriptions: topics: %s: the id must be one of FHIR, and no other topic may have the id or the URL", name)
		}
		seen[t.URL], seen[t.ID] = true, true
		all = append(all, t)
	}
	return all, nil
}

// publishTopics stores the topics as Basics, so that clients can read them. One that has
// not changed gets no new version. One whose file is gone is retired: Subscriptions to it
// stay, but get nothing.
func (s *services) publishTopics(ctx context.Context) error {
	all, err := s.topics()
	if err != nil {
		return err
	}
	published := map[string]bool{}
	for _, t := range all {
		if err := s.publishTopic(ctx, t); err != nil {
			return err
		}
		published[t.ID] = true
	}
	q, err := search.Parse("Basic", [][2]string{{"code", topic.CodeSystem + "|" + topic.Code}},
		search.ParseOptions{Base: s.fhirBase()})
	if err != nil {
		return err
	}
	var gone []*topic.Topic
	err = s.store.Find(ctx, store.Find{Query: q, Filter: access.All().Filter(access.Search)},
		func(f *store.Found) bool {
			if id := strings.Clone(f.Resource.ID); !published[id] {
				if t, err := topic.Parse(bytes.Clone(f.Resource.JSON), s.fhirBase()); err == nil && t.Status != "retired" {
					t.ID, t.Status = id, "retired"
					gone = append(gone, t)
				}
			}
			return true
		})
	if err != nil {
		return err
	}
	for _, t := range gone {
		if err := s.publishTopic(ctx, t); err != nil {
			return err
		}
	}
	return nil
}

func (s *services) publishTopic(ctx context.Context, t *topic.Topic) error {
	body, err := t.Basic()
	if err != nil {
		return err
	}
	return operations{s}.publish(ctx, admin.Operator{Name: "server"}, fhir.Ref{Type: "Basic", ID: t.ID},
		func(current []byte) ([]byte, error) {
			if same, err := sameContent(current, body); err != nil || same {
				return nil, err
			}
			return body, nil
		})
}

// statement returns a function that returns the CapabilityStatement, which lists the
// topics and the search parameters of the moment.
func (s *services) statement() (func() []byte, error) {
	build := func() ([]byte, error) {
		settings := s.capabilities()
		list, err := s.followers.subscriptions.Topics(context.Background())
		if err != nil {
			return nil, err
		}
		settings.Topics = nil
		for _, t := range list {
			settings.Topics = append(settings.Topics, t.URL)
		}
		slices.Sort(settings.Topics)
		return capability.Statement(settings)
	}
	versions := func() [2]uint64 {
		return [2]uint64{s.followers.subscriptions.TopicsVersion(), s.parameters.Version()}
	}
	version := versions()
	current, err := build()
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	return func() []byte {
		mu.Lock()
		defer mu.Unlock()
		if now := versions(); now != version {
			if next, err := build(); err == nil { // otherwise the next request tries again
				current, version = next, now
			}
		}
		return current
	}, nil
}
