package protocol

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"pulsegate/smart/scope"
)

// TestDiscovery checks the metadata documents.
func TestDiscovery(t *testing.T) {
	w := newWorld(t)
	var first m
	for _, path := range []string{"/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration",
		"/.well-known/openid-configuration"} {
		r := must(http.NewRequest("GET", w.base+path, nil))
		r.Header.Set("Accept", "text/html")
		res := must(http.DefaultClient.Do(r))
		var d m
		if err := json.NewDecoder(res.Body).Decode(&d); err != nil {
			t.Fatal(err)
		}
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), "application/json") ||
			res.Header.Get("Access-Control-Allow-Origin") != "*" {
			t.Error(path, res.Status, res.Header)
		}
		if first == nil {
			first = d
		} else if fmt.Sprint(first) != fmt.Sprint(d) {
			t.Errorf("%s differs", path)
		}
	}
	list := func(name string) (out []string) {
		for _, value := range first[name].([]any) {
			out = append(out, value.(string))
		}
		return out
	}
	for name, want := range map[string][]string{
		"grant_types_supported": {"authorization_code", "refresh_token",
			"client_credentials"},
		"code_challenge_methods_supported": {"S256"},
		"token_endpoint_auth_methods_supported": {"private_key_jwt", "client_secret_basic",
			"client_secret_post"},
		"token_endpoint_auth_signing_alg_values_supported": {"RS384", "ES384"},
		"id_token_signing_alg_values_supported":            {"RS256"},
		"response_types_supported":                         {"code"}, "subject_types_supported": {"public"},
		"capabilities": {"launch-standalone", "launch-ehr", "client-public", "client-confidential-symmetric",
			"client-confidential-asymmetric", "sso-openid-connect",
			"context-standalone-patient", "context-ehr-patient", "context-banner", "context-style",
			"permission-offline", "permission-patient", "permission-user",
			"authorize-post", "permission-v1", "permission-v2"},
	} {
		for _, value := range want {
			if !slices.Contains(list(name), value) {
				t.Errorf("%s lacks %s", name, value)
			}
		}
	}
	if slices.Contains(list("code_challenge_methods_supported"), "plain") || first["issuer"] != w.base ||
		first["authorization_response_iss_parameter_supported"] != true {
		t.Error(first)
	}
	// All endpoints in the document exist, and the parser accepts all scopes.
	for _, name := range []string{"authorization_endpoint", "token_endpoint", "introspection_endpoint",
		"revocation_endpoint", "registration_endpoint", "jwks_uri"} {
		res := must(http.Get(first[name].(string)))
		if err := res.Body.Close(); err != nil {
			t.Fatal(err)
		}
		if res.StatusCode == 404 {
			t.Error(name, res.Status)
		}
	}
	for _, s := range list("scopes_supported") {
		if _, err := (scope.Parser{TokenParam: scope.Registered}).Parse(s); err != nil {
			t.Error(err)
		}
	}
}
