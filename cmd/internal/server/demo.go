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
	"pulsegate/mapping/ingest"
	"pulsegate/smart/client"
)

// The demo world: three invented wearers, one vendor each, a month of data up
// to the present moment.
const (
	demoClient = "demo"
	demoGroup  = "demo-wearers"
	demoScope  = "system/*.rs"
	demoMonth  = 30 // days
	demoStart  = "demo/start"

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

// offset returns the distance of t's zone from UTC.
func offset(t time.Time) time.Duration {
	_, seconds := t.Zone()
	return time.Duration(seconds) * time.Second
}

// files collects what a generator writes.
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

// demo fills the store through the same code as any other caller and prints
// what to try. Filling again changes nothing.
func (m *Main) demo(ctx context.Context) error {
	o := operator{m}
	op := admin.Operator{Name: "demo"}
	start, days, err := m.demoDays(ctx)
	if err != nil {
		return err
	}
	var sum ingest.Summary
	for _, w := range wearers {
		one, err := o.demoWearer(ctx, op, w, start, days)
		if err != nil {
			return fmt.Errorf("%s: %w", w.id, err)
		}
		sum.Add(one)
	}
	if err := o.demoGroup(ctx, op); err != nil {
		return err
	}
	if err := m.demoClient(ctx); err != nil {
		return err
	}
	tok, err := m.tokens.Issue(ctx, demoClient, demoScope, demoTokenLife, "demo")
	if err != nil {
		return err
	}
	people, err := o.demoPeople(ctx, op)
	if err != nil {
		return err
	}
	return m.demoPrint(tok.Access, people, &sum)
}

func (o operator) demoWearer(ctx context.Context, op admin.Operator, w wearer, start time.Time,
	days int) (ingest.Summary, error) {
	var sum ingest.Summary
	_, err := o.AddPatient(ctx, op, admin.NewPatient{ID: w.id, Given: w.given, Family: w.family, BirthDate: w.born,
		Gender: w.gender, TimeZone: "Europe/Berlin"})
	fresh := err == nil
	if err != nil && fhir.KindOf(err) != fhir.Conflict {
		return sum, err
	}
	if fresh {
		if _, err := o.GrantConsent(ctx, op, admin.NewConsent{Patient: w.id, Vendor: w.vendor}); err != nil {
			return sum, err
		}
	} else if _, ok, err := o.m.consents.Collects(ctx, w.id, w.vendor); err != nil || !ok {
		return sum, err // withdrawn since: the demo respects that, too
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
	p := o.m.ingestPipeline(o.m.pipeline.Mapper, untilNow(o.m.adapters, o.m.now()))
	for _, n := range names {
		rq := o.request(op)
		one, err := p.Run(ctx, ingest.Request{Patient: w.id, Vendor: w.vendor, Name: n,
			Body: bytes.NewReader(payloads[n]), Caller: rq.Caller})
		if err != nil {
			return sum, fmt.Errorf("%s: %w", n, err)
		}
		sum.Add(one)
	}
	return sum, nil
}

func (o operator) demoGroup(ctx context.Context, op admin.Operator) error {
	if _, _, err := o.m.store.Read(ctx, fhir.Ref{Type: "Group", ID: demoGroup},
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
	_, err = o.put(ctx, o.request(op), "Group", demoGroup, body)
	return err
}

// demoClient registers a client with a key that nobody holds: its only token
// is the one printed.
func (m *Main) demoClient(ctx context.Context) error {
	if _, err := m.clients.Get(ctx, demoClient); err == nil {
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
	c, write, err := m.clients.Prepare(client.Client{ID: demoClient, Name: "Demo", JWKS: body, Scope: demoScope})
	if err != nil {
		return err
	}
	return operator{m}.commitClient(ctx, admin.Operator{Name: "demo"}, "client add", c.ID, write)
}

func (m *Main) demoPrint(tok, people string, sum *ingest.Summary) error {
	hr := url.QueryEscape("http://loinc.org|8867-4")
	_, err := fmt.Fprintf(m.Stdout, `
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

%[9]s`, sum.Read, sum.Created, sum.Unchanged, sum.Seconds, tok, m.fhirBase(), hr, demoGroup, people,
		m.now().In(demoZone()).AddDate(0, 0, -1).Format(time.DateOnly))
	return err
}
