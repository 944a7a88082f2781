package interaction

import (
	"context"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/audit"
	"pulsegate/fhir/r4"
)

// TestAlone tests which entries of a batch are performed alone.
func TestAlone(t *testing.T) {
	s := &Service{Base: "https://pg.example/fhir", Receiver: struct{ Receiver }{}, Checks: map[string]Check{
		"Device": func(context.Context, *access.Principal, *fhir.Resource, *fhir.Resource) (*fhir.Resource, error) {
			return nil, nil
		}}}
	marked := `{"meta":{"profile":["` + PhoneMadeProfile + `|1.0"]}}`
	for _, test := range []struct {
		method, url, body, ifNoneExist string
		phone, want                    bool
	}{
		{method: "POST", url: "Observation", body: `{}`},
		{method: "POST", url: "Observation", body: `{}`, phone: true, want: true},
		{method: "POST", url: "Observation", body: marked, want: true},
		{method: "POST", url: "Observation", body: strings.Replace(marked, "phone-made", `phone\u002dmade`, 1),
			want: true},
		{method: "POST", url: "Observation", body: `{"note":[{"text":"a \"b\" c"}]}`},
		{method: "POST", url: "Organization", body: `{}`, phone: true},
		{method: "POST", url: "Observation", body: `{}`, ifNoneExist: "identifier=1", want: true},
		{method: "POST", url: "Consent", body: `{}`, want: true},
		{method: "PUT", url: "Consent/c", body: `{}`, want: true},
		{method: "DELETE", url: "Consent/c", want: true},
		{method: "POST", url: "Device", body: `{}`, want: true},
		{method: "DELETE", url: "Device/d", want: true},
		{method: "DELETE", url: "Patient/p", want: true},
		{method: "DELETE", url: "Observation/o"},
		{method: "PUT", url: "Patient/p", body: `{}`},
		{method: "PUT", url: "Patient/p", body: `{"a":"b","a":"Patient/q"}`, want: true}, // not JSON for everybody
		{method: "PUT", url: "Patient/p", body: `{"a":`, want: true},
		{method: "GET", url: "Patient/p"},
		{method: "GET", url: "Patient/p/_history/1"},
		{method: "GET", url: "Patient/p/_history", want: true},
		{method: "GET", url: "Patient?_id=p", want: true},
		{method: "GET", url: "Patient", want: true},
	} {
		e := entry{Entry: r4.Entry{Method: test.method, URL: test.url, Resource: []byte(test.body),
			IfNoneExist: test.ifNoneExist}}
		if err := s.resolveTarget("test", &e); err != nil {
			t.Fatal(err)
		}
		rq := &Request{Caller: audit.Caller{Principal: &access.Principal{Grant: &access.Grant{PhoneMade: test.phone}}}}
		if f := s.footprint(rq, &e, map[fhir.Ref]bool{{Type: "Patient", ID: "q"}: true}); f.alone != test.want {
			t.Errorf("%+v: alone: %v", test, f.alone)
		}
	}
}

// TestRefersTo tests that a reference is found in each of its forms.
func TestRefersTo(t *testing.T) {
	named := map[fhir.Ref]bool{{Type: "Patient", ID: "p-1.x"}: true}
	for ref, want := range map[string]bool{
		"Patient/p-1.x":                              true,
		"Patient/p-1.x/_history/3":                   true,
		"https://pg.example/fhir/Patient/p-1.x":      true,
		"https://pg.example/fhir/Patient/p-1.x#part": true,
		`Pa\u0074ient\/p-1.x`:                        true,
		" Patient/p-1.x ":                            true,
		"a/b Patient/p-1.x|2":                        true,
		"Patient/p-1.xy":                             false,
		"MyPatient/p-1.x":                            false,
		"Patient/":                                   false,
		"/":                                          false,
		"Observation/p-1.x":                          false,
	} {
		refs, ok := refersTo([]byte("\ufeff"+`{"subject":[1,null,{"reference":"`+ref+`"}]}`), named)
		if !ok || len(refs) > 0 != want {
			t.Errorf("%s: %v, %v", ref, refs, ok)
		}
	}
}
