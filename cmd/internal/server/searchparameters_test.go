package server

import (
	"net/http"
	"strings"
	"testing"
)

const nickParameter = `{"resourceType":"SearchParameter","id":"nick","url":"https://hospital.example/SearchParameter/nick",` +
	`"name":"Nick","status":"active","description":"d","code":"nick","base":["Patient"],"type":"string",` +
	`"expression":"Patient.extension.where(url = 'https://hospital.example/nick').value"}`

// TestSearchParametersOfTwoServers defines a search parameter at one server. The other must
// search by it and list it in its CapabilityStatement with its next request, both build the
// index, and both end with it.
func TestSearchParametersOfTwoServers(t *testing.T) {
	all := newPeers(t, 2, nil)
	bearer := all.backend(0, "system/*.cruds", nil).bearer(t, all.client())
	write := append([]string{"Content-Type", "application/fhir+json"}, bearer...)
	one, two := all.at(0), all.at(1)
	send(t, one, http.StatusCreated, "PUT", "/fhir/Patient/zoe",
		`{"resourceType":"Patient","id":"zoe","extension":[{"url":"https://hospital.example/nick","valueString":"Zee"}]}`,
		write...)
	send(t, two, http.StatusBadRequest, "GET", "/fhir/Patient?nick=zee", "", bearer...)
	lists := func(c *http.Client) bool {
		return strings.Contains(send(t, c, http.StatusOK, "GET", "/fhir/metadata", "").body,
			"https://hospital.example/SearchParameter/nick")
	}
	if lists(two) {
		t.Error("the parameter is listed before its definition")
	}
	send(t, one, http.StatusCreated, "PUT", "/fhir/SearchParameter/nick", nickParameter, write...)
	found := func(c *http.Client) bool {
		body := send(t, c, http.StatusOK, "GET", "/fhir/Patient?nick=zee&_sort=nick", "", bearer...).body
		return strings.Contains(body, `"Zee"`)
	}
	if !found(two) || !lists(two) || !found(one) || !lists(one) {
		t.Error("the parameter is not known to both servers")
	}
	send(t, two, http.StatusUnprocessableEntity, "PUT", "/fhir/SearchParameter/second",
		strings.Replace(strings.Replace(nickParameter, `"id":"nick"`, `"id":"second"`, 1), "/nick", "/second", 1), write...)
	for _, n := range all.nodes {
		until(t, "the index is built", func() bool {
			out, err := n.ops().SearchParameters(t.Context(), operatorOfTest)
			if err != nil || len(out.Parameters) != 1 {
				t.Fatalf("%+v, %v", out, err)
			}
			return out.Parameters[0].State == "indexed"
		})
	}
	if !found(one) || !found(two) {
		t.Error("the resource is not found by the index")
	}
	send(t, two, http.StatusOK, "PUT", "/fhir/SearchParameter/nick",
		strings.Replace(nickParameter, `"active"`, `"retired"`, 1), write...)
	for _, c := range []*http.Client{one, two} {
		send(t, c, http.StatusBadRequest, "GET", "/fhir/Patient?nick=zee", "", bearer...)
		if lists(c) {
			t.Error("a retired parameter is listed")
		}
	}
}
