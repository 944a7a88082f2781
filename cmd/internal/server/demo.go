package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"sort"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"

	"pulsegate/adapters/apple/applegen"
	"pulsegate/adapters/link"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
)

// The demo has three invented wearers with a month of data each, every one from
// another vendor. The file of one is imported, and the accounts of the others at
// simulated clouds are connected.
const (
	demoClient = "demo"
	demoGroup  = "demo-wearers"
	demoScope  = "system/*.rs system/Subscription.cud"
	demoMonth  = 30           // in days
	demoStart  = "demo/start" // store key of the first day

	demoTokenLife = 5 * time.Minute
)

type wearer struct {
	id, given, family, born, gender, vendor string
	// payloads returns files to import. If it is nil, the account of the simulated
	// cloud with this number is connected.
	payloads func(start time.Time, days int) (map[string][]byte, error)
	account  int
}

var wearers = []wearer{
	{id: "demo-ada", given: "Ada", family: "Beispiel", born: "1979-04-12", gender: "female", vendor: "apple",
		payloads: func(start time.Time, days int) (map[string][]byte, error) {
			var b bytes.Buffer
			err := applegen.GenerateZip(&b, applegen.Options{Seed: 1, Days: days, Start: start, Name: "Ada"})
			return map[string][]byte{"export.zip": b.Bytes()}, err
		}},
	{id: "demo-ben", given: "Ben", family: "Ejemplo", born: "1988-11-03", gender: "male", vendor: "fitbit", account: 1},
	{id: "demo-chi", given: "Chi", family: "Exempel", born: "1995-07-21", gender: "other", vendor: "oura", account: 2},
}

// fillDemo fills the store by the operator's commands and prints requests to
// try. Filling it again changes nothing.
func (ops operations) fillDemo(ctx context.Context, stdout io.Writer) error {
	op := admin.Operator{Name: "demo"}
	start, days, err := demoDays(ctx, ops.store, ops.now())
	if err != nil {
		return err
	}
	var sum ingest.Summary
	var connected []link.Link
	for _, w := range wearers {
		switch ok, err := ops.demoWearer(ctx, op, w); {
		case err != nil:
			return fmt.Errorf("%s: %w", w.id, err)
		case !ok, w.payloads == nil && ops.demo == nil: // the demo has clouds of its operator
		case w.payloads == nil:
			l, err := ops.connectDemo(ctx, op, w)
			if err != nil {
				return fmt.Errorf("%s: %w", w.id, err)
			}
			connected = append(connected, l)
		default:
			one, err := ops.importDemo(ctx, op, w, start, days)
			if err != nil {
				return fmt.Errorf("%s: %w", w.id, err)
			}
			sum.Add(one)
		}
	}
	items, err := ops.awaitPast(ctx, connected)
	if err != nil {
		return err
	}
	if err := ops.demoGroup(ctx, op); err != nil {
		return err
	}
	if err := ops.addDemoClient(ctx, op); err != nil {
		return err
	}
	tok, err := ops.oauth.tokens.Issue(ctx, demoClient, demoScope, demoTokenLife, "demo")
	if err != nil {
		return err
	}
	people, err := ops.demoPeople(ctx, op)
	if err != nil {
		return err
	}
	return ops.printDemo(stdout, tok.Access, people, &sum, items)
}

// demoWearer adds a wearer with a consent, and reports whether the consent has not
// been withdrawn.
func (ops operations) demoWearer(ctx context.Context, op admin.Operator, w wearer) (bool, error) {
	_, err := ops.AddPatient(ctx, op, admin.NewPatient{ID: w.id, Given: w.given, Family: w.family, BirthDate: w.born,
		Gender: w.gender, TimeZone: "Europe/Berlin"})
	switch {
	case err == nil:
		_, err = ops.GrantConsent(ctx, op, admin.NewConsent{Patient: w.id, Vendor: w.vendor})
		return err == nil, err
	case fhir.KindOf(err) != fhir.Conflict:
		return false, err
	}
	_, ok, err := ops.consents.Collects(ctx, w.id, w.vendor)
	return ok, err
}

// importDemo imports the files of a wearer.
func (ops operations) importDemo(ctx context.Context, op admin.Operator, w wearer, start time.Time,
	days int) (ingest.Summary, error) {
	var sum ingest.Summary
	payloads, err := w.payloads(start, days)
	if err != nil {
		return sum, err
	}
	var names []string
	for n := range payloads {
		names = append(names, n)
	}
	sort.Strings(names)
	p := withAdapters(ops.pipeline, untilNow(ops.adapters, ops.now()))
	for _, n := range names {
		rq := ops.request(op)
		one, err := p.Run(ctx, ingest.Request{Patient: w.id, Vendor: w.vendor, Name: n,
			Body: bytes.NewReader(payloads[n]), Caller: rq.Caller})
		if err != nil {
			return sum, fmt.Errorf("%s: %w", n, err)
		}
		sum.Add(one)
	}
	return sum, nil
}

func (ops operations) demoGroup(ctx context.Context, op admin.Operator) error {
	if _, _, err := ops.store.Read(ctx, fhir.Ref{Type: "Group", ID: demoGroup},
		0); fhir.KindOf(err) != fhir.NotFound || err == nil {
		return err
	}
	var members []any
	for _, w := range wearers {
		members = append(members, map[string]any{"entity": map[string]any{"reference": "Patient/" + w.id}})
	}
	body, err := json.Marshal(map[string]any{"resourceType": "Group", "id": demoGroup, "type": "person",
		"actual": true, "name": "Demo wearers", "member": members})
	if err != nil {
		return err
	}
	_, err = ops.put(ctx, ops.request(op), "Group", demoGroup, body)
	return err
}

// addDemoClient registers a client and discards its private key, so that only the
// server itself can issue tokens for it.
func (ops operations) addDemoClient(ctx context.Context, op admin.Operator) error {
	if _, err := ops.clients.Get(ctx, demoClient); err == nil {
		return nil
	}
	raw, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return err
	}
	k, err := jwk.FromRaw(raw.PublicKey)
	if err != nil {
		return err
	}
	for name, v := range map[string]any{jwk.KeyIDKey: "demo", jwk.AlgorithmKey: jwa.ES384, jwk.KeyUsageKey: "sig"} {
		if err := k.Set(name, v); err != nil {
			return err
		}
	}
	set := jwk.NewSet()
	if err := set.AddKey(k); err != nil {
		return err
	}
	body, err := json.Marshal(set)
	if err != nil {
		return err
	}
	c, write, err := ops.clients.Prepare(client.Client{ID: demoClient, Name: "Demo", JWKS: body, Scope: demoScope})
	if err != nil {
		return err
	}
	return ops.commitClient(ctx, op, "client add", c.ID, write)
}

func (ops operations) printDemo(stdout io.Writer, tok, people string, sum *ingest.Summary, items uint64) error {
	hr := url.QueryEscape(element.LOINC + "|8867-4")
	_, err := fmt.Fprintf(stdout, `
Three invented wearers with a month of data. Ada's export.zip: %d items read, %d created, %d unchanged, in %.1f s.
Ben's Fitbit and Chi's Oura are connected to simulated clouds: %[11]d items so far. New data arrive with their syncs.
A token for five minutes (bin/pulsegate demo token prints another):

export TOKEN=%[5]s

# the ten latest heart rates of Ada
curl -s -H "Authorization: Bearer $TOKEN" '%[6]s/Observation?patient=demo-ada&code=%[7]s&_sort=-date&_count=10'

# yesterday of Chi, by date
curl -s -H "Authorization: Bearer $TOKEN" '%[6]s/Observation?patient=demo-chi&date=%[10]s'

# a Bulk Data export of the group: the answer's Content-Location tells when the files are ready
curl -si -H "Authorization: Bearer $TOKEN" -H 'Prefer: respond-async' '%[6]s/Group/%[8]s/$export?_type=Patient,Observation,Device'

# the audit trail of Ada: who did what, this curl included
curl -s -H "Authorization: Bearer $TOKEN" '%[6]s/AuditEvent?patient=demo-ada&_sort=-date&_count=20'

Two people, who sign in with a passkey; each link is good once, for two days:

%[9]s`, sum.Read, sum.Created, sum.Unchanged, sum.Seconds, tok, ops.fhirBase(), hr, demoGroup, people,
		ops.now().In(demoZone()).AddDate(0, 0, -1).Format(time.DateOnly), items)
	return err
}
