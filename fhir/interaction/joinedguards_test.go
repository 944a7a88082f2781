package interaction_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/store"
)

// device returns a Device that a patient wears.
func device(id, manufacturer, patient string) string {
	return `{"resourceType":"Device","id":"` + id + `","manufacturer":"` + manufacturer +
		`","patient":{"reference":"Patient/` + patient + `"}}`
}

// wornBy returns an Observation that a device has measured.
func wornBy(id, device, code string) string {
	return `{"resourceType":"Observation","id":"` + id + `","status":"final","code":{"coding":[{"code":"` + code +
		`"}]},"subject":{"reference":"Patient/ada"},"device":{"reference":"Device/` + device + `"}}`
}

func listOf(refs ...string) string {
	var entries []string
	for _, r := range refs {
		entries = append(entries, `{"item":{"reference":"`+r+`"}}`)
	}
	list := `{"resourceType":"List","id":"l","status":"current","mode":"working"`
	if len(entries) > 0 {
		list += `,"entry":[` + strings.Join(entries, ",") + `]`
	}
	return list + `}`
}

func putIf(typ, criteria, body string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalUpdate(context.Background(), operator, typ, criteria, []byte(body),
			interaction.Preconditions{})
	}
}

func removeIf(typ, criteria string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalDelete(context.Background(), operator, typ, criteria, interaction.Preconditions{})
	}
}

func patchIf(typ, criteria, patch string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		return s.ConditionalPatch(context.Background(), operator, typ, criteria,
			interaction.Patch{Body: []byte(patch)}, interaction.Preconditions{})
	}
}

// past writes a Device as ingestion does, past the interactions.
func past(body string) act {
	return func(s *interaction.Service) (interaction.Written, error) {
		_, err := s.Store.Commit(context.Background(), &store.Batch{Writes: []store.Write{{
			Resource: fhir.Resource{Type: "Device", ID: "d1", JSON: []byte(fhir.Prefix("Device", "d1") + "}," +
				strings.TrimPrefix(body, `{"resourceType":"Device","id":"d1",`))}}}})
		return interaction.Written{}, err
	}
}

// outcome describes what a request has done. Ids of the server are left out.
func outcome(w interaction.Written, err error) string {
	if err != nil {
		return fmt.Sprint("error ", fhir.KindOf(err))
	}
	id := w.Resource.ID
	if len(id) > 8 {
		id = "(new)"
	}
	return fmt.Sprintf("matched %t, created %t, deleted %t %s %d", w.Matched, w.Created, w.Resource.Deleted, id,
		w.Resource.Version)
}

// TestGuardsOfJoins lets one process change what decides a chained parameter, _has or
// _list of the criteria of another, between its search and its commit. The outcome must be
// that of one request after the other. Without guards, which is the control, it must not.
func TestGuardsOfJoins(t *testing.T) {
	const byAcme = "device.manufacturer=acme"
	acme, other := put("Device", "d1", device("d1", "Acme", "ada")), put("Device", "d1", device("d1", "Other", "ada"))
	obs := wornBy("o1", "d1", "x")
	fresh := strings.Replace(obs, `"id":"o1",`, "", 1)
	inTransaction := func(method, url, more string) act {
		return transact(`{"resource":` + fresh + `,"request":{"method":"` + method + `","url":"` + url + `"` + more + `}}`)
	}
	for _, test := range []struct {
		name            string
		before          act
		overtaken, fast act
		wantSerial      string
	}{
		{name: "create, the linked resource comes to match", before: other, fast: acme,
			overtaken: post("Observation", fresh, byAcme), wantSerial: "matched true"},
		{name: "create, written past the interactions", before: other, fast: past(device("d1", "Acme", "ada")),
			overtaken: post("Observation", fresh, byAcme), wantSerial: "matched true"},
		{name: "create by _filter", before: other, fast: acme,
			overtaken: post("Observation", fresh, "_filter=device.manufacturer%20eq%20Acme"), wantSerial: "matched true"},
		{name: "create, two hops", before: acme, fast: put("Patient", "ada", strings.Replace(ada, "}", `,"gender":"female"}`, 1)),
			overtaken: post("Observation", fresh, "device.patient.gender=female"), wantSerial: "matched true"},
		{name: "update, the linked resource no longer matches", before: acme, fast: other,
			overtaken: putIf("Observation", byAcme, fresh), wantSerial: "created true"},
		{name: "patch, the linked resource is deleted", before: acme, fast: remove("Device", "d1"),
			overtaken:  patchIf("Observation", byAcme, `[{"op":"replace","path":"/status","value":"amended"}]`),
			wantSerial: fmt.Sprint("error ", fhir.NotFound)},
		{name: "delete, the linked resource no longer matches", before: acme, fast: other,
			overtaken: removeIf("Observation", byAcme), wantSerial: "deleted true  0"},
		{name: "delete by _has, a resource refers to it no longer", before: acme, fast: remove("Observation", "o1"),
			overtaken: removeIf("Device", "_has:Observation:device:code=x"), wantSerial: "deleted true  0"},
		{name: "create by _has, a resource refers to it", before: put("Device", "d2", device("d2", "Two", "ada")),
			fast:      put("Observation", "o2", wornBy("o2", "d2", "y")),
			overtaken: post("Device", strings.Replace(device("x", "x", "ada"), `"id":"x",`, "", 1), "_has:Observation:device:code=y"), wantSerial: "matched true"},
		{name: "delete by _list, the entry is removed", before: put("List", "l", listOf("Observation/o1")),
			fast: put("List", "l", listOf()), overtaken: removeIf("Observation", "_list=l"), wantSerial: "deleted true  0"},
		{name: "create in a transaction", before: other, fast: acme,
			overtaken: inTransaction("POST", "Observation", `,"ifNoneExist":"`+byAcme+`"`), wantSerial: "matched true"},
		{name: "update in a transaction", before: acme, fast: transact(`{"request":{"method":"DELETE","url":"Device/d1"}}`),
			overtaken: inTransaction("PUT", "Observation?"+byAcme, ""), wantSerial: "matched false"},
		{name: "conditional reference", before: acme, fast: put("Patient", "ada", strings.Replace(ada, "}", `,"active":false}`, 1)),
			overtaken: transact(`{"resource":` + strings.Replace(fresh, "Device/d1", "Device?patient.active:missing=true", 1) +
				`,"request":{"method":"POST","url":"Observation"}}`), wantSerial: fmt.Sprint("error ", fhir.PreconditionFailed)},
	} {
		t.Run(test.name, func(t *testing.T) {
			run := func(overtake, unguarded bool) (string, string) {
				here, there, mine := twoProcesses(t)
				for _, do := range []act{put("Patient", "ada", ada), put("Device", "d1", device("d1", "First", "ada")),
					put("Observation", "o1", obs), test.before} {
					if _, err := do(there); err != nil {
						t.Fatal(err)
					}
				}
				fast := func() {
					if _, err := test.fast(there); err != nil {
						t.Errorf("the fast request: %v", err)
					}
				}
				mine.unguarded = unguarded
				if mine.before = fast; !overtake {
					mine.before = nil
					fast()
				}
				said := outcome(test.overtaken(here))
				if mine.before != nil {
					t.Error("the overtaken request has not committed")
				}
				return said, contents(t, mine.Store)
			}
			serial, state := run(false, false)
			if !strings.Contains(serial, test.wantSerial) {
				t.Errorf("one after the other: %s, want %s", serial, test.wantSerial)
			}
			if said, now := run(true, false); said != serial || now != state {
				t.Errorf("overtaken: %s and\n%s, want %s and\n%s", said, now, serial, state)
			}
			if said, now := run(true, true); said == serial && now == state {
				t.Errorf("without guards: %s and %s, too", said, now)
			}
		})
	}
}

// contents describes the resources of the store without their ids and times.
func contents(t *testing.T, st store.Store) string {
	t.Helper()
	n := map[string]int{}
	err := st.Scan(t.Context(), store.ScanRange{Types: []string{"Observation", "Device", "List"}, At: st.LastSeq(),
		Filter: access.All().Filter(access.Read)}, func(f *store.Found) bool {
		name := f.Resource.Ref().String()
		if len(f.Resource.ID) > 8 {
			name = f.Resource.Type + "/(new)"
		}
		n[fmt.Sprint(name, " ", f.Resource.Version)]++
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(n)
}

// TestGuardsOfJoinsConcern checks that criteria with a chained parameter are not delayed by
// writes of types that decide nothing.
func TestGuardsOfJoinsConcern(t *testing.T) {
	here, there, mine := twoProcesses(t)
	for _, do := range []act{put("Patient", "ada", ada), put("Device", "d1", device("d1", "Acme", "ada")),
		put("Observation", "o1", wornBy("o1", "d1", "x"))} {
		if _, err := do(there); err != nil {
			t.Fatal(err)
		}
	}
	mine.commits, mine.before = 0, func() {
		if _, err := post("Organization", named, "")(there); err != nil {
			t.Error(err)
		}
	}
	w, err := putIf("Observation", "device.manufacturer=acme", wornBy("o1", "d1", "z"))(here)
	if err != nil || w.Resource.ID != "o1" || mine.commits != 1 {
		t.Errorf("%d attempts: %+v %v", mine.commits, w, err)
	}
}
