// Package discovery says what the authorization server can do:
// .well-known/smart-configuration, at the FHIR base and at the host's root.
//
// It owns that document and nothing else. It names only what is there; a
// launch, an authorization endpoint and OpenID Connect are not.
//
// Source: SMART App Launch 2.2, "Conformance"; RFC 8414.
package discovery

import (
	"encoding/json"
	"net/http"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
)

// Handler serves the document.
type Handler struct {
	BaseURL string // of the server, without a slash at the end
}

type document struct {
	Issuer         string   `json:"issuer"`
	JWKS           string   `json:"jwks_uri"`
	Token          string   `json:"token_endpoint"`
	AuthMethods    []string `json:"token_endpoint_auth_methods_supported"`
	AuthAlgs       []string `json:"token_endpoint_auth_signing_alg_values_supported"`
	Grants         []string `json:"grant_types_supported"`
	Scopes         []string `json:"scopes_supported"`
	ResponseTypes  []string `json:"response_types_supported"`
	CodeChallenges []string `json:"code_challenge_methods_supported"`
	Capabilities   []string `json:"capabilities"`
}

func (h Handler) document() document {
	d := document{
		Issuer:         h.BaseURL,
		JWKS:           h.BaseURL + "/.well-known/jwks.json",
		Token:          h.BaseURL + "/oauth/token",
		AuthMethods:    []string{"private_key_jwt"},
		AuthAlgs:       []string{"RS384", "ES384"},
		Grants:         []string{"client_credentials"},
		Scopes:         []string{"system/*.cruds", "system/*.rs", "system/*.read", "system/*.write", "system/*.*"},
		ResponseTypes:  []string{},
		CodeChallenges: []string{"S256"},
		Capabilities:   []string{"client-confidential-asymmetric", "permission-v1", "permission-v2"},
	}
	for _, t := range fhir.Types {
		d.Scopes = append(d.Scopes, "system/"+t+".cruds", "system/"+t+".rs", "system/"+t+".read")
	}
	return d
}

// ServeHTTP answers with the document, whatever Accept says.
func (h Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Access-Control-Allow-Origin", "*")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=300")
	b, err := json.Marshal(h.document())
	if err != nil {
		http.Error(w, "", http.StatusInternalServerError)
		return
	}
	if r.Method == http.MethodOptions {
		w.Header().Set("Access-Control-Allow-Methods", "GET")
		w.WriteHeader(http.StatusNoContent)
		return
	}
	if _, err := w.Write(b); err != nil {
		return // the caller has gone
	}
}

// Mount puts the document at its two places.
func (h Handler) Mount(m gin.IRouter) {
	for _, p := range []string{"/fhir/.well-known/smart-configuration", "/.well-known/smart-configuration"} {
		m.GET(p, gin.WrapH(h))
		m.OPTIONS(p, gin.WrapH(h))
	}
}
