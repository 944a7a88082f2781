// Package simulation serves the simulated clouds of all vendors under one address and
// writes the settings with which a server connects to them. The clouds are those of
// adapters/simulate.
//
//	/oura/...     Oura
//	/google/...   Google Health
//	/withings/... Withings
package simulation

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/googlehealth"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/adapters/simulate/phone"
	"pulsegate/adapters/simulate/withings"
)

// Options configures a Simulation.
type Options struct {
	Dir     string // directory for the settings and secrets
	Seed    uint64
	Wearers int
	Clock   *simulate.Clock
	// Wall is the clock of the clients.
	Wall   func() time.Time
	Start  time.Time // first day with data
	Faults simulate.Faults
	// Server is the base URL of the server that connects to the clouds. Its callback is
	// registered at the vendors.
	Server string
	// Push is the address that a phone of the first wearer pushes to, or "". PushKey
	// authenticates it.
	Push, PushKey string
}

// Simulation is a set of simulated clouds.
type Simulation struct {
	opts   Options
	oura   *oura.Server
	google *googlehealth.Server
	scales *withings.Server
	phone  *phone.Phone // nil without Options.Push
}

const (
	clientID = "pulsegate"
	project  = "123456789012"
	account  = "pulsegate@simulated.iam.gserviceaccount.com"
	keyID    = "simulated"
)

// New returns a simulation. It creates the secrets in Options.Dir that do not exist yet,
// so that a server keeps working when the simulation is started again. Grants and
// subscriptions are kept in memory only.
func New(o Options) (*Simulation, error) {
	if o.Wearers < 1 || o.Wearers > 100_000 {
		return nil, fmt.Errorf("%d wearers are not between 1 and 100000", o.Wearers)
	}
	secrets, err := readSecrets(o.Dir)
	if err != nil {
		return nil, err
	}
	wearers, err := simulate.Wearers(o.Seed, o.Wearers)
	if err != nil {
		return nil, err
	}
	s := &Simulation{opts: o}
	callbacks := []string{strings.TrimSuffix(o.Server, "/") + "/auth/devices/callback"}
	s.oura = oura.New(oura.Options{Clock: o.Clock, Wall: o.Wall, Start: o.Start, Seed: o.Seed, Wearers: wearers,
		Faults: o.Faults, Senders: 4,
		Clients: []oura.Client{{ID: clientID, Secret: secrets.ouraClient, Provider: oura.Moi,
			RedirectURIs: callbacks}}})
	s.scales = withings.New(withings.Options{Clock: o.Clock, Wall: o.Wall, Start: o.Start, Seed: o.Seed,
		Wearers: wearers, Faults: o.Faults, AllowHTTP: true,
		Clients: []withings.Client{{ID: clientID, Secret: secrets.withingsClient, RedirectURIs: callbacks}}})
	s.google, err = googlehealth.New(googlehealth.Options{Seed: o.Seed, Wearers: o.Wearers, Start: o.Start,
		Clock: o.Clock, AuthNow: o.Wall, Project: project, Faults: o.Faults, AllowHTTP: true,
		Clients: []googlehealth.Client{{ID: clientID, Secret: secrets.googleClient, RedirectURIs: callbacks}},
		ServiceAccounts: []googlehealth.ServiceAccount{{Email: account, KeyID: keyID,
			Key: &secrets.serviceKey.PublicKey}}})
	if err != nil {
		return nil, err
	}
	if o.Push != "" {
		s.phone, err = phone.New(phone.Options{Clock: o.Clock, Wearer: wearers[0], Start: o.Start, Seed: o.Seed,
			Format: pushFormat(o.Push), URL: o.Push, Header: "Authorization", Value: "Bearer " + o.PushKey,
			Faults: o.Faults})
	}
	return s, err
}

// ServeHTTP implements http.Handler.
func (s *Simulation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mux := http.NewServeMux()
	mux.Handle("/oura/", http.StripPrefix("/oura", s.oura))
	mux.Handle("/google/", http.StripPrefix("/google", s.google))
	mux.Handle("/withings/", http.StripPrefix("/withings", s.scales))
	mux.ServeHTTP(w, r)
}

// Run serves on a listener and sends webhooks and pushes until ctx ends.
func (s *Simulation) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second,
		WriteTimeout: 2 * time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10}
	parts := []func() error{
		func() error { return srv.Serve(l) },
		func() error { return s.oura.Run(ctx) },
		func() error { return s.google.Run(ctx) },
		func() error { return s.scales.Run(ctx) },
		func() error {
			<-ctx.Done()
			return srv.Close()
		},
	}
	if s.phone != nil {
		parts = append(parts, func() error { return s.phone.Run(ctx) })
	}
	done := make(chan error, len(parts))
	for _, part := range parts {
		go func() { done <- part() }()
	}
	var first error
	for range parts {
		err := <-done
		if first == nil && err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, http.ErrServerClosed) {
			first = err
		}
		cancel()
	}
	return first
}

// Approve answers the consent page of a vendor for a wearer. to is the URL to which a
// server sends the browser, and the result is the URL to which the vendor sends it back.
func (s *Simulation) Approve(ctx context.Context, client *http.Client, to string, wearer int) (*url.URL, error) {
	u, err := url.Parse(to)
	if err != nil {
		return nil, err
	}
	form := u.Query()
	if strings.HasPrefix(u.Path, "/oura/") || strings.HasPrefix(u.Path, "/withings/") {
		form.Set("wearer", strconv.Itoa(wearer))
		form.Set("decision", "approve")
	} else {
		form.Set("account", s.google.Accounts()[wearer])
		form.Set("decision", "allow")
	}
	u.RawQuery = ""
	rq, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	direct := *client
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := direct.Do(rq)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	if back := r.Header.Get("Location"); r.StatusCode == http.StatusFound && back != "" {
		return url.Parse(back)
	}
	return nil, fmt.Errorf("the consent page answers %d", r.StatusCode)
}
