package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/conformance/blackbox"
)

const (
	linkSecret  = "a-secret-of-the-simulated-vendor"
	linkWearers = 10
)

// links measures the time from a vendor's notification to the notification of the EHR:
// the server stores the event, reads the document from the simulated vendor, maps and
// commits it, and notifies. It uses a server of its own, whose patients have connected
// accounts.
func (b *bench) links() error {
	now := time.Now()
	wearers, err := simulate.Wearers(1, linkWearers)
	if err != nil {
		return err
	}
	sim := oura.New(oura.Options{Clock: simulate.NewClock(time.Now, now, 1), Wall: time.Now,
		Start: now.AddDate(0, 0, -3),
		Seed:  1, Wearers: wearers, RateLimit: 1 << 30,
		Clients: []oura.Client{{ID: "pulsegate", Secret: linkSecret, Provider: oura.Moi}}})
	vendor := httptest.NewServer(documents{sim})
	defer vendor.Close()
	own := &bench{opt: b.opt, dir: b.dir}
	patients, err := own.openLinked(vendor.URL)
	if err != nil {
		return err
	}
	defer func() { _ = own.srv.Stop() }() // measured before
	arrived := make(chan arrival, 1<<16)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(io.LimitReader(r.Body, 8<<20)); err == nil {
			arrived <- arrival{time.Now(), body}
		}
		w.WriteHeader(http.StatusOK)
	}))
	defer hook.Close()
	for _, p := range patients {
		own.patient = p
		if _, err := own.subscribe(hook.URL); err != nil {
			return err
		}
	}
	lat, err := announce(own.srv.Base, sim.Accounts(), arrived)
	if err != nil {
		return err
	}
	b.add("vendor's webhook to EHR notification", ms(lat, .99), "ms p99", fmt.Sprintf(
		"p50 %.1f ms, at %d events/s: event stored, document read from the vendor, mapped, audited, notified",
		ms(lat, .5), eventRate))
	return nil
}

const eventRate = 200

// announce sends notifications about new documents and returns how long it took until
// the documents reached the EHR.
func announce(base string, accounts []string, arrived <-chan arrival) ([]time.Duration, error) {
	const n = 2000
	var mu sync.Mutex
	sent := map[string]time.Time{}
	var senders sync.WaitGroup
	failed := make(chan error, n)
	tick := time.NewTicker(time.Second / eventRate)
	defer tick.Stop()
	for i := range n {
		<-tick.C
		senders.Go(func() {
			day := firstDay.AddDate(0, 0, i).Format(time.DateOnly) // tells the document from others
			mu.Lock()
			sent[day] = time.Now()
			mu.Unlock()
			failed <- notify(base, accounts[i%len(accounts)], announced+day)
		})
	}
	senders.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return nil, err
		}
	}
	var lat []time.Duration
	limit := time.After(30 * time.Second)
	for len(lat) < n {
		select {
		case a := <-arrived:
			for _, day := range a.days() {
				if at, ok := sent[day]; ok {
					lat = append(lat, a.at.Sub(at))
					delete(sent, day)
				}
			}
		case <-limit:
			return nil, fmt.Errorf("%d of %d documents arrived in time", len(lat), n)
		}
	}
	sort.Slice(lat, func(i, j int) bool { return lat[i] < lat[j] })
	return lat, nil
}

// days returns the days of the Observations in a notification.
func (a arrival) days() (out []string) {
	var m struct {
		Entry []struct {
			Resource struct{ ResourceType, EffectiveDateTime string }
		}
	}
	if json.Unmarshal(a.body, &m) != nil {
		return nil
	}
	for _, e := range m.Entry {
		if e.Resource.ResourceType == "Observation" {
			out = append(out, e.Resource.EffectiveDateTime)
		}
	}
	return out
}

// notify sends one signed notification.
func notify(base, account, id string) error {
	body, err := json.Marshal(map[string]string{"event_type": "create", "data_type": "daily_stress", "object_id": id,
		"event_time": time.Now().Format(time.RFC3339Nano), "user_id": account})
	if err != nil {
		return err
	}
	rq, err := http.NewRequest(http.MethodPost, base+"/hooks/oura/create/daily_stress", bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := fmt.Sprint(time.Now().Unix())
	rq.Header.Set("x-oura-timestamp", at)
	rq.Header.Set("x-oura-signature", oura.Sign(linkSecret, at, body))
	r, err := http.DefaultClient.Do(rq)
	if err != nil {
		return err
	}
	if err := r.Body.Close(); err != nil {
		return err
	}
	if r.StatusCode >= 300 {
		return fmt.Errorf("the webhook answers %d", r.StatusCode)
	}
	return nil
}

// announced is the beginning of the ids of the documents that announce announces. The
// rest is their day, which is in the past so that no poll reads them.
const announced = "announced-"

var firstDay = time.Date(1990, 1, 1, 0, 0, 0, 0, time.UTC)

// documents serves the announced documents, and everything else from the simulated
// cloud.
type documents struct{ cloud http.Handler }

// ServeHTTP implements http.Handler.
func (d documents) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	day, ok := strings.CutPrefix(r.URL.Path, "/v2/usercollection/daily_stress/"+announced)
	if !ok {
		d.cloud.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	// The server may be stopping.
	_, _ = fmt.Fprintf(w, `{"id":"%s","day":"%s","stress_high":600,"recovery_high":60,"day_summary":"normal"}`,
		announced+day, day)
}

// openLinked starts a server with patients who have connected their accounts.
func (b *bench) openLinked(vendor string) (patients []string, err error) {
	secret, file := filepath.Join(b.dir, "vendor-secret"), filepath.Join(b.dir, "vendors.yaml")
	text := fmt.Sprintf("oura:\n  client-id: pulsegate\n  client-secret-file: %s\n  authorize-url: %s\n  token-url: %s\n"+
		"  api-url: %s\n  options: {identity-provider: moi}\n", secret, vendor+"/oauth/v2/ext/oauth-authorize",
		vendor+"/oauth/v2/ext/oauth-token", vendor)
	if err := errors.Join(os.WriteFile(secret, []byte(linkSecret), 0o600),
		os.WriteFile(file, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	port, err := blackbox.FreePort()
	if err != nil {
		return nil, err
	}
	listen := fmt.Sprintf("127.0.0.1:%d", port)
	b.srv, err = blackbox.StartWith(b.opt.bin, filepath.Join(b.dir, "linked"), listen, []string{
		"PULSEGATE_VENDORS=" + file, "PULSEGATE_EGRESS_ALLOW=127.0.0.0/8", "PULSEGATE_BASE_URL=http://" + listen,
		"PULSEGATE_VENDOR_BACKFILL=72h"})
	if err != nil {
		return nil, err
	}
	for i := range linkWearers {
		var p struct{ ID string }
		if err := b.srv.Run(&p, "patient", "add", "--given", "Bo", "--family", fmt.Sprintf("Bench%d", i)); err != nil {
			return nil, err
		}
		var invite struct{ Link string }
		if err := b.srv.Run(&invite, "user", "invite", "--login", fmt.Sprintf("bo%d", i), "--name", "Bo", "--role",
			"patient",
			"--patient", p.ID); err != nil {
			return nil, err
		}
		person, err := blackbox.Enroll(invite.Link, "seven lamps under water")
		if err != nil {
			return nil, err
		}
		err = person.Connect("oura", func(q url.Values) url.Values {
			q.Set("wearer", fmt.Sprint(i))
			q.Set("decision", "approve")
			return q
		})
		if err != nil {
			return nil, err
		}
		patients = append(patients, p.ID)
	}
	if b.client, err = b.newClient(b.srv, &http.Client{Timeout: time.Minute}); err != nil {
		return nil, err
	}
	time.Sleep(2 * time.Second) // the past of the accounts is read
	return patients, nil
}
