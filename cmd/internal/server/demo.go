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
	"pulsegate/adapters/fitbit/fitbitgen"
	"pulsegate/adapters/oura/ouragen"
	"pulsegate/cmd/internal/admin"
	"pulsegate/fhir"
	"pulsegate/fhir/element"
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
)

// The demo has three invented wearers with a month of data each, every one from
// another vendor.
const (
	demoClient = "demo"
	demoGroup  = "demo-wearers"
	demoScope  = "system/*.rs"
	demoMonth  = 30           // in days
	demoStart  = "demo/start" // store key of the first day

	demoTokenLife = 5 * time.Minute
)

type wearer struct {
	id, given, family, born, gender, vendor string
	payloads                                func(start time.Time, days int) (map[string][]byte, error)
}

var wearers = []wearer{
	{"demo-ada", "Ada", "Beispiel", "1979-04-12", "female", "apple",
		func(start time.Time, days int) (map[string][]byte, error) {
			var b bytes.Buffer
			err := applegen.GenerateZip(&b, applegen.Options{Seed: 1, Days: days, Start: start, Name: "Ada"})
			return map[string][]byte{"export.zip": b.Bytes()}, err
		}},
	{"demo-ben", "Ben", "Ejemplo", "1988-11-03", "male", "fitbit",
		func(start time.Time, days int) (map[string][]byte, error) {
			f := files{}
			err := fitbitgen.Generate(f.create,
				fitbitgen.Options{Seed: 2, Days: days, Start: start, Offset: offset(start)})
			return f.bytes(), err
		}},
	{"demo-chi", "Chi", "Exempel", "1995-07-21", "other", "oura",
		func(start time.Time, days int) (map[string][]byte, error) {
			f := files{}
			err := ouragen.Generate(f.create, ouragen.Options{Seed: 3, Days: days, Start: start, Offset: offset(start)})
			return f.bytes(), err
		}},
}

// offset returns the offset of t from UTC.
func offset(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// files collects the files that a generator writes, by name.
type files map[string]*bytes.Buffer

func (f files) create(name string) (io.Writer, error) {
	f[name] = &bytes.Buffer{}
	return f[name], nil
}

func (f files) bytes() map[string][]byte {
	out := map[string][]byte{}
	for name, b := range f {
		out[name] = b.Bytes()
	}
	return out
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
	for _, w := range wearers {
		one, err := ops.demoWearer(ctx, op, w, start, days)
		if err != nil {
			return fmt.Errorf("%s: %w", w.id, err)
		}
		sum.Add(one)
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
	return ops.printDemo(stdout, tok.Access, people, &sum)
}

func (ops operations) demoWearer(ctx context.Context, op admin.Operator, w wearer, start time.Time,
	days int) (ingest.Summary, error) {
	var sum ingest.Summary
	_, err := ops.AddPatient(ctx, op, admin.NewPatient{ID: w.id, Given: w.given, Family: w.family, BirthDate: w.born,
		Gender: w.gender, TimeZone: "Europe/Berlin"})
	created := err == nil
	if err != nil && fhir.KindOf(err) != fhir.Conflict {
		return sum, err
	}
	if created {
		if _, err := ops.GrantConsent(ctx, op, admin.NewConsent{Patient: w.id, Vendor: w.vendor}); err != nil {
			return sum, err
		}
	} else if _, ok, err := ops.consents.Collects(ctx, w.id, w.vendor); err != nil || !ok {
		return sum, err // the consent has been withdrawn
	}
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

func (ops operations) printDemo(stdout io.Writer, tok, people string, sum *ingest.Summary) error {
	hr := url.QueryEscape(element.LOINC + "|8867-4")
	_, err := fmt.Fprintf(stdout, `
Three invented wearers, a month of data: %d items read, %d created, %d unchanged, in %.1f s.
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
		ops.now().In(demoZone()).AddDate(0, 0, -1).Format(time.DateOnly))
	return err
}
