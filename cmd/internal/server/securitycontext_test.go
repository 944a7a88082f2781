package server

import (
	"net/http"
	"strings"
	"testing"
)

// TestSecurityContext finds, reads and exports Binaries whose securityContext names another
// resource, with grants of the whole server: the one that is looked up while a search of the
// store goes on. Control: without the resource, its Binary is hidden as well.
func TestSecurityContext(t *testing.T) {
	all := newPeers(t, 1, nil)
	bearer := all.backend(0, "system/*.cruds", nil).bearer(t, all.client())
	write := append([]string{"Content-Type", "application/fhir+json"}, bearer...)
	c := all.at(0)
	send(t, c, http.StatusCreated, "PUT", "/fhir/Organization/h", `{"resourceType":"Organization","id":"h","name":"H"}`,
		write...)
	for id, context := range map[string]string{"free": "", "named": `,"securityContext":{"reference":"Organization/h"}`,
		"dangling": `,"securityContext":{"reference":"Organization/none"}`} {
		send(t, c, http.StatusCreated, "PUT", "/fhir/Binary/"+id,
			`{"resourceType":"Binary","id":"`+id+`","contentType":"text/plain","data":"eA=="`+context+`}`, write...)
	}
	visible := func(named bool) {
		t.Helper()
		status := map[bool]int{true: http.StatusOK, false: http.StatusNotFound}[named]
		send(t, c, http.StatusOK, "GET", "/fhir/Binary/free", "", bearer...)
		send(t, c, status, "GET", "/fhir/Binary/named", "", bearer...)
		send(t, c, http.StatusNotFound, "GET", "/fhir/Binary/dangling", "", bearer...)
		for _, path := range []string{"/fhir/Binary", "/fhir/Binary/_history", "/fhir?_type=Binary", "/fhir/_history"} {
			body := send(t, c, http.StatusOK, "GET", path, "", bearer...).body
			if !strings.Contains(body, "/Binary/free") || strings.Contains(body, "/Binary/named") != named ||
				strings.Contains(body, "/Binary/dangling") {
				t.Errorf("%s: %s", path, body)
			}
		}
	}
	visible(true)
	send(t, c, http.StatusNoContent, "DELETE", "/fhir/Organization/h", "", bearer...)
	visible(false)
}
