package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jwt"
	"github.com/spf13/cobra"

	"pulsegate/cmd/internal/admin"
)

// keygenCommand creates a key pair for a backend client.
func keygenCommand() *cobra.Command {
	c := &cobra.Command{Use: "keygen", Short: "Create an ES384 key pair: write the private key to --key and print the public JWK Set",
		Args: cobra.NoArgs}
	file := c.Flags().String("key", "", "file for the private key; it is created with mode 0600 and never overwritten")
	need(c, "key")
	c.RunE = func(c *cobra.Command, _ []string) error {
		raw, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
		if err != nil {
			return err
		}
		key, err := jwk.FromRaw(raw)
		if err != nil {
			return err
		}
		for name, v := range map[string]any{jwk.KeyIDKey: strings.ToLower(rand.Text())[:12],
			jwk.AlgorithmKey: jwa.ES384, jwk.KeyUsageKey: "sig"} {
			if err := key.Set(name, v); err != nil {
				return err
			}
		}
		private, err := json.MarshalIndent(key, "", "  ")
		if err != nil {
			return err
		}
		f, err := os.OpenFile(*file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err = f.Write(append(private, '\n')); err != nil {
			return errors.Join(err, f.Close())
		}
		if err := f.Close(); err != nil {
			return err
		}
		public, err := key.PublicKey()
		if err != nil {
			return err
		}
		set := jwk.NewSet()
		if err := set.AddKey(public); err != nil {
			return err
		}
		e := json.NewEncoder(c.OutOrStdout())
		e.SetIndent("", "  ")
		return e.Encode(set)
	}
	return c
}

// tokenCommand requests an access token over HTTP with a signed assertion, like any
// backend client.
func tokenCommand() *cobra.Command {
	c := &cobra.Command{Use: "token", Short: "Get an access token as a backend client, with its private key",
		Args: cobra.NoArgs}
	file := c.Flags().String("key", "", "file with the private key (JWK), as written by keygen")
	id := c.Flags().String("client", "", "client id")
	scope := c.Flags().String("scope", "", "scopes to request")
	base := c.Flags().String("base-url", "",
		"base URL of the server (default: that of the only running server, or "+defaultBase+")")
	need(c, "key", "client", "scope")
	c.RunE = func(c *cobra.Command, _ []string) error {
		raw, err := os.ReadFile(*file)
		if err != nil {
			return err
		}
		key, err := jwk.ParseKey(raw)
		if err != nil {
			return fmt.Errorf("%s is not a private key (JWK)", *file)
		}
		tok, err := requestToken(c.Context(), strings.TrimSuffix(baseURL(c.Context(), *base), "/"), *id, *scope, key)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), tok)
		return err
	}
	return c
}

// defaultBase is the base URL of a server with default settings.
const defaultBase = "http://localhost:8080"

// baseURL returns given if it is not empty, otherwise the base URL of the only
// running server, or defaultBase if there is none.
func baseURL(ctx context.Context, given string) string {
	if given != "" {
		return given
	}
	var info admin.ServerInfo
	none := ""
	r := &remote{data: &none}
	if err := r.call(ctx, "server/info", nil, nil, &info); err != nil || info.BaseURL == "" {
		return defaultBase
	}
	return info.BaseURL
}

// requestToken requests an access token from the token endpoint.
func requestToken(ctx context.Context, base, id, scope string, key jwk.Key) (string, error) {
	endpoint := base + "/oauth/token"
	now := time.Now()
	t, err := jwt.NewBuilder().Issuer(id).Subject(id).Audience([]string{endpoint}).JwtID(rand.Text()).
		IssuedAt(now).Expiration(now.Add(4 * time.Minute)).Build()
	if err != nil {
		return "", err
	}
	signed, err := jwt.Sign(t, jwt.WithKey(key.Algorithm(), key))
	if err != nil {
		return "", errors.New("the key cannot sign; give the file with the private key")
	}
	form := url.Values{"grant_type": {"client_credentials"}, "scope": {scope}, "client_assertion": {string(signed)},
		"client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return "", admin.Advise(err, "give the base URL of the server with --base-url URL")
	}
	defer resp.Body.Close()
	var out struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&out); err != nil {
		return "", fmt.Errorf("the server answered %s", resp.Status)
	}
	if out.AccessToken == "" {
		return "", admin.Advise(fmt.Errorf("%s refused: %s: %s", endpoint, out.Error, out.Description),
			nextForToken(out.Error))
	}
	return out.AccessToken, nil
}

// nextForToken returns the next step after an error of the token endpoint (RFC 6749
// 5.2).
func nextForToken(code string) string {
	switch code {
	case "invalid_client":
		return "see the clients with `pulsegate client list`, and check that --key is the key of --client and that --base-url is the base URL of the server"
	case "invalid_scope":
		return "see the scopes of the client with `pulsegate client list`"
	}
	return "see `pulsegate client token --help`"
}
