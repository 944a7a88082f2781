package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"pulsegate/adapters/simulate"
	"pulsegate/adapters/simulate/oura"
	"pulsegate/conformance/blackbox"
	"pulsegate/conformance/clusterrun"
)

// links is the part of the test with linked accounts at a simulated vendor. The
// server is killed while it reads the past, receives notifications, and refreshes
// tokens. In the end it must hold what the vendor holds, and must not have used a
// refresh token twice.
type links struct {
	harness
	options  clusterrun.Options
	sim      *oura.Server
	wearers  []simulate.Wearer
	patients []string
	people   []*blackbox.Person
	again    int                       // accounts that were connected again
	linked   atomic.Pointer[time.Time] // when all accounts were linked
}

const (
	linkSecret = "a-secret-of-the-simulated-vendor"
	linkPast   = 6 * 24 * time.Hour // of data when the accounts are linked
	linkFuture = 2 * 24 * time.Hour // of data that appear during the test
)

// runLinks kills the server kills times.
func runLinks(o clusterrun.Options, kills, wearers int, seed uint64) (err error) {
	dir, err := os.MkdirTemp("", "pulsegate-kill-links-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // a directory of the system for temporary files
	o.Dir = dir
	l := &links{harness: harness{dir: dir}, options: o}
	defer func() {
		if err != nil && l.srv != nil {
			err = errors.Join(err, l.srv.End())
		}
	}()
	now := time.Now()
	// Once all accounts are linked, two days pass for the wearers in about the time of the
	// kills. They end before the present, because the server reads no future.
	length := time.Duration(kills) * time.Second
	speed := float64(linkFuture) / float64(length)
	wall := func() time.Time {
		if at := l.linked.Load(); at != nil {
			return now.Add(min(time.Since(*at), length))
		}
		return now
	}
	clock := simulate.NewClock(wall, now.Add(-linkFuture-time.Hour), speed)
	if l.wearers, err = simulate.Wearers(seed, wearers); err != nil {
		return err
	}
	l.sim = oura.New(oura.Options{Clock: clock, Wall: time.Now, Start: now.Add(-linkFuture - linkPast), Seed: seed,
		Wearers: l.wearers, Clients: []oura.Client{{ID: "pulsegate", Secret: linkSecret, Provider: oura.Moi}},
		Senders: 4, TokenLife: 45 * time.Second, // shorter than the margin, so that every turn refreshes
		// Slow answers make the kills strike while a refresh is under way.
		Faults: simulate.Faults{Rates: map[simulate.Fault]float64{simulate.Slow: 0.2}, SlowBy: 200 * time.Millisecond}})
	srv := httptest.NewServer(l.sim)
	defer srv.Close()
	if err := l.open(srv.URL); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	sent := make(chan error, 1)
	go func() { sent <- l.sim.Run(ctx) }()
	fmt.Printf("kill: %d kills with %d linked accounts, seed %d\n", kills, wearers, seed)
	rnd := rand.New(rand.NewPCG(seed, 2))
	// A slow machine kills more often, until the run proves something.
	for i := 0; i < kills || i < kills+20 && l.few(); i++ {
		if err := l.kill(rnd, i == 0); err != nil {
			stop()
			return errors.Join(fmt.Errorf("kill %d: %w", i+1, err), <-sent)
		}
	}
	stop()
	<-sent // the end of ctx
	return l.verifyLinks()
}

// open starts the server with the vendor, and adds patients who can sign in.
func (l *links) open(vendor string) error {
	secret := filepath.Join(l.dir, "secret")
	if err := os.WriteFile(secret, []byte(linkSecret), 0o600); err != nil {
		return err
	}
	file := filepath.Join(l.dir, "vendors.yaml")
	text := fmt.Sprintf("oura:\n  client-id: pulsegate\n  client-secret-file: %s\n  authorize-url: %s\n  token-url: %s\n"+
		"  revoke-url: %s\n  api-url: %s\n  options: {identity-provider: moi}\n", secret,
		vendor+"/oauth/v2/ext/oauth-authorize", vendor+"/oauth/v2/ext/oauth-token", vendor+"/oauth/v2/ext/oauth-revoke",
		vendor)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return err
	}
	l.options.Env = []string{"PULSEGATE_VENDORS=" + file,
		"PULSEGATE_VENDOR_BACKFILL=" + (linkPast + linkFuture + 48*time.Hour).String()}
	if l.options.Nodes <= 1 {
		port, err := blackbox.FreePort()
		if err != nil {
			return err
		}
		l.options.Listen = fmt.Sprintf("127.0.0.1:%d", port)
		l.options.Env = append(l.options.Env, "PULSEGATE_BASE_URL=http://"+l.options.Listen)
	}
	var err error
	if l.srv, err = clusterrun.Start(l.options); err != nil {
		return err
	}
	for i := range l.wearers {
		var patient struct{ ID string }
		if err := l.srv.Run(&patient, "patient", "add", "--given", "Kim", "--family", fmt.Sprintf("Muster%d", i)); err != nil {
			return err
		}
		var invite struct {
			Link string
		}
		if err := l.srv.Run(&invite, "user", "invite", "--login", fmt.Sprintf("kim%d", i), "--name", "Kim", "--role",
			"patient", "--patient", patient.ID); err != nil {
			return err
		}
		p, err := blackbox.Enroll(invite.Link, "seven lamps under water")
		if err != nil {
			return err
		}
		l.patients, l.people = append(l.patients, patient.ID), append(l.people, p)
	}
	return nil
}

// connect connects the account of a wearer on the pages.
func (l *links) connect(i int) error {
	return l.people[i].Connect("oura", func(q url.Values) url.Values {
		q.Set("wearer", fmt.Sprint(i))
		q.Set("decision", "approve")
		return q
	})
}

// kill lets the server work for a random time, kills it and starts it again.
func (l *links) kill(rnd *rand.Rand, first bool) error {
	if first {
		for i := range l.people {
			if err := l.connect(i); err != nil {
				return err
			}
		}
		at := time.Now()
		l.linked.Store(&at)
	}
	time.Sleep(time.Duration(50+rnd.IntN(1400)) * time.Millisecond)
	kill, start := l.srv.Kill, l.srv.Restart
	if n := l.srv.Nodes(); n > 1 {
		node := rnd.IntN(n)
		kill, start = func() error { return l.srv.KillNode(node) }, func() error { return l.srv.StartNode(node) }
	}
	if err := kill(); err != nil {
		return err
	}
	if err := start(); err != nil {
		return err
	}
	return l.reconnect()
}

// linkList is the answer of `pulsegate link list`.
type linkList struct {
	Links []struct{ ID, Patient, Status, Reason string } `json:"links"`
}

// reconnect connects accounts again whose tokens are lost.
func (l *links) reconnect() error {
	var list linkList
	if err := l.srv.Run(&list, "link", "list"); err != nil {
		return err
	}
	if len(list.Links) != len(l.people) {
		return fmt.Errorf("%d links, want %d", len(list.Links), len(l.people))
	}
	for _, one := range list.Links {
		if one.Status != "reconnect" {
			continue
		}
		if one.Reason != "refresh-interrupted" && one.Reason != "answer-lost" {
			return fmt.Errorf("a link ended for another reason than a kill: %s", one.Reason)
		}
		for i, p := range l.patients {
			if p == one.Patient {
				if err := l.connect(i); err != nil {
					return err
				}
				l.again++
			}
		}
	}
	return nil
}

// few reports whether the vendor issued too few tokens, or sent too few notifications, for
// the kills to prove something.
func (l *links) few() bool {
	stats := l.sim.Sent()
	return stats.Tokens < len(l.people)+5 || stats.Accepted == 0
}

// verifyLinks compares the data of the server with those of the vendor. Of several
// processes, one waits two minutes for the refresh of a token that another one began.
func (l *links) verifyLinks() error {
	for deadline := time.Now().Add(5 * time.Minute); ; {
		if err := l.reconnect(); err != nil {
			return err
		}
		if err := l.pull(); err != nil {
			return err
		}
		wrong, total, err := l.compare()
		if err != nil {
			return err
		}
		if wrong == "" {
			stats := l.sim.Sent()
			if stats.Reused > 0 {
				return fmt.Errorf("%d refresh tokens were used twice", stats.Reused)
			}
			if l.few() {
				return errors.New("fewer refreshes or notifications than kills: the run proves nothing")
			}
			fmt.Printf("kill: %d Observations of linked accounts, 0 lost, 0 twice; %d notifications accepted, %d tokens issued, "+
				"0 refresh tokens used twice, %d accounts connected again\n", total, stats.Accepted, stats.Tokens, l.again)
			return errors.Join(l.srv.Run(nil, "audit", "verify"), l.srv.RunAll("store", "check"), l.srv.Stop())
		}
		if time.Now().After(deadline) {
			var list linkList
			if err := l.srv.Run(&list, "link", "list"); err != nil {
				return err
			}
			return fmt.Errorf("%s; links: %+v", wrong, list.Links)
		}
		time.Sleep(time.Second)
	}
}

// pull reads all accounts again, and waits until nothing is left to do.
func (l *links) pull() error {
	var list linkList
	if err := l.srv.Run(&list, "link", "list"); err != nil {
		return err
	}
	for _, one := range list.Links {
		if err := l.srv.Run(nil, "link", "pull", one.ID); err != nil {
			return err
		}
	}
	return nil
}

// compare compares the valid Observations with those of a new server that gets the
// data of the vendor once.
func (l *links) compare() (wrong string, total int, err error) {
	got, err := l.content(l.srv, l.patients)
	if err != nil {
		return "", 0, err
	}
	data, err := os.MkdirTemp(l.dir, "fresh-")
	if err != nil {
		return "", 0, err
	}
	fresh, err := clusterrun.Start(clusterrun.Options{Bin: l.options.Bin, Dir: data})
	if err != nil {
		return "", 0, err
	}
	defer func() { err = errors.Join(err, fresh.Stop()) }()
	var patients []string
	for i, account := range l.sim.Accounts() {
		var p struct{ ID string }
		if err := fresh.Run(&p, "patient", "add", "--given", "Kim", "--family", fmt.Sprintf("Muster%d", i)); err != nil {
			return "", 0, err
		}
		if err := fresh.Run(nil, "consent", "grant", "--patient", p.ID, "--vendor", "oura"); err != nil {
			return "", 0, err
		}
		patients = append(patients, p.ID)
		byType := map[string][][]byte{}
		for _, r := range l.sim.Truth(account) {
			byType[r.Type] = append(byType[r.Type], r.JSON)
		}
		for typ, all := range byType {
			name := filepath.Join(data, typ+".json")
			body := append(append([]byte(`{"data":[`), bytes.Join(all, []byte{','})...), `],"next_token":null}`...)
			if err := os.WriteFile(name, body, 0o600); err != nil {
				return "", 0, err
			}
			if err := fresh.Run(nil, "ingest", "--patient", p.ID, "--vendor", "oura", "--format", "v2:"+typ, name); err != nil {
				return "", 0, err
			}
		}
	}
	want, err := l.content(fresh, patients)
	if err != nil || maps.Equal(got, want) {
		return "", len(want), err
	}
	missing, extra := difference(want, got), difference(got, want)
	return fmt.Sprintf("%d of %d Observations are missing, such as %s; %d are not at the vendor or there twice, such as %s",
		len(missing), len(want), first(missing), len(extra), first(extra)), len(want), nil
}

// difference returns the elements of a that are not as often in b.
func difference(a, b map[string]int) (out []string) {
	for s, n := range a {
		if n > b[s] {
			out = append(out, s)
		}
	}
	return out
}

func first(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	return s[0]
}

// content counts the valid Observations of a server by what they say, without the ids
// of the server. Patients are numbered.
func (l *links) content(srv *clusterrun.Servers, patients []string) (map[string]int, error) {
	c, err := l.newClient(srv)
	if err != nil {
		return nil, err
	}
	c.HTTP.Timeout = 2 * time.Minute // several processes look at their log before each block
	all, _, err := c.Export("$export?_type=Observation")
	if err != nil {
		return nil, err
	}
	var numbers []string
	for i, p := range patients {
		numbers = append(numbers, "Patient/"+p, fmt.Sprintf("Patient/%d", i))
	}
	number := strings.NewReplacer(numbers...)
	out := map[string]int{}
	for _, raw := range all["Observation"] {
		if bytes.Contains(raw, []byte(`"code":"preferred"`)) {
			continue // derived by the server, later than the measurements
		}
		var o map[string]any
		if err := json.Unmarshal([]byte(number.Replace(string(raw))), &o); err != nil {
			return nil, err
		}
		switch o["status"] {
		case "entered-in-error":
			continue
		case "amended":
			o["status"] = "final"
		}
		for _, member := range []string{"id", "meta", "identifier", "device"} {
			delete(o, member)
		}
		b, err := json.Marshal(o)
		if err != nil {
			return nil, err
		}
		out[string(b)]++
	}
	return out, nil
}
