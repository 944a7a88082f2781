package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
	"github.com/lestrrat-go/jwx/v2/jws"

	"pulsegate/fhir"
)

// Provider signs people in at the hospital's OpenID provider: authorization
// code with PKCE (S256), state and nonce (OpenID Connect Core 1.0, 3.1; RFC
// 9700). Its fields are set once.
type Provider struct {
	Issuer   string // exactly as in the provider's tokens
	ClientID string
	// Secret is sent by Basic; "" for a public client, which PKCE protects.
	Secret   string
	Redirect string // our callback
	Name     string // on the button
	// MFA and PhishingResistant are the provider's acr (or amr) values that
	// mean so.
	MFA, PhishingResistant []string
	HTTP                   *http.Client // egress
	Clock                  func() time.Time

	mu    sync.Mutex
	doc   providerDoc
	keys  jwk.Set
	until time.Time
}

type providerDoc struct {
	Issuer    string `json:"issuer"`
	Authorize string `json:"authorization_endpoint"`
	Token     string `json:"token_endpoint"`
	JWKS      string `json:"jwks_uri"`
}

// Outward is what has to be kept, unseen by the browser, while it is away.
type Outward struct {
	State    string    `json:"state"`
	Nonce    string    `json:"nonce"`
	Verifier string    `json:"verifier"`
	Expires  time.Time `json:"expires"`
	// MFA: the answer must be of several factors; Fresh: the person must have
	// signed in after Asked.
	Fresh bool      `json:"fresh,omitempty"`
	Asked time.Time `json:"asked"`
}

// Identity is who the provider says has signed in.
type Identity struct {
	Issuer, Subject string
	ACR             string // translated: PhishingResistant, MultiFactor or SingleFactor
	AMR             []string
	AuthTime        time.Time
}

const (
	metadataLife = 10 * time.Minute
	outwardLife  = 10 * time.Minute
	skew         = time.Minute
	maxIDToken   = 16 << 10
)

// Begin returns where to send the browser. acr names what is wished for.
func (p *Provider) Begin(ctx context.Context, acr string, fresh bool) (string, Outward, error) {
	const op = "authn.Begin"
	doc, _, err := p.metadata(ctx, false)
	if err != nil {
		return "", Outward{}, err
	}
	o := Outward{State: rand.Text(), Nonce: rand.Text(), Verifier: rand.Text() + rand.Text(), Fresh: fresh,
		Asked: p.Clock(), Expires: p.Clock().Add(outwardLife)}
	sum := sha256.Sum256([]byte(o.Verifier))
	u, err := url.Parse(doc.Authorize)
	if err != nil {
		return "", Outward{}, fhir.Wrap(op, err)
	}
	q := u.Query()
	for k, v := range map[string]string{"response_type": "code", "client_id": p.ClientID,
		"redirect_uri": p.Redirect, "scope": "openid",
		"state": o.State, "nonce": o.Nonce, "code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]),
		"code_challenge_method": "S256"} {
		q.Set(k, v)
	}
	switch {
	case acr == PhishingResistant && len(p.PhishingResistant) > 0:
		q.Set("acr_values", strings.Join(p.PhishingResistant, " "))
	case len(p.MFA)+len(p.PhishingResistant) > 0:
		q.Set("acr_values", strings.Join(append(slices.Clone(p.PhishingResistant), p.MFA...), " "))
	}
	if fresh {
		q.Set("max_age", "0")
		q.Set("prompt", "login")
	}
	u.RawQuery = q.Encode()
	return u.String(), o, nil
}

// Finish redeems the answer's code and checks the id_token. A failure is
// Unauthorized with a fixed reason.
func (p *Provider) Finish(ctx context.Context, o Outward, answer url.Values) (Identity, error) {
	const op = "authn.Finish"
	now := p.Clock()
	switch {
	case !now.Before(o.Expires):
		return Identity{}, failed(op, "it took too long")
	case len(answer["state"]) != 1 || subtle.ConstantTimeCompare([]byte(answer.Get("state")), []byte(o.State)) != 1:
		return Identity{}, failed(op, "the answer is not for this browser")
	case answer.Get("iss") != "" && answer.Get("iss") != p.Issuer: // RFC 9207
		return Identity{}, failed(op, "the answer is from another provider")
	case answer.Get("error") != "" || len(answer["code"]) != 1:
		return Identity{}, failed(op, "the provider refused")
	}
	doc, _, err := p.metadata(ctx, false)
	if err != nil {
		return Identity{}, err
	}
	form := url.Values{"grant_type": {"authorization_code"}, "code": {answer.Get("code")},
		"redirect_uri": {p.Redirect}, "code_verifier": {o.Verifier}}
	if p.Secret == "" {
		form.Set("client_id", p.ClientID)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, doc.Token, strings.NewReader(form.Encode()))
	if err != nil {
		return Identity{}, fhir.Wrap(op, err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if p.Secret != "" {
		req.SetBasicAuth(url.QueryEscape(p.ClientID), url.QueryEscape(p.Secret))
	}
	var tok struct {
		ID string `json:"id_token"`
	}
	if err := p.fetch(req, &tok); err != nil {
		return Identity{}, failed(op, "the provider did not redeem the code")
	}
	return p.check(ctx, tok.ID, o, now)
}

type idClaims struct {
	Iss      string   `json:"iss"`
	Sub      string   `json:"sub"`
	Aud      audience `json:"aud"`
	Azp      string   `json:"azp"`
	Nonce    string   `json:"nonce"`
	ACR      string   `json:"acr"`
	AMR      []string `json:"amr"`
	Exp      float64  `json:"exp"`
	Iat      float64  `json:"iat"`
	AuthTime float64  `json:"auth_time"`
}

// audience is one string or an array of them.
type audience []string

func (a *audience) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(b, (*[]string)(a))
}

func (p *Provider) check(ctx context.Context, token string, o Outward, now time.Time) (Identity, error) {
	const op = "authn.check"
	if token == "" || len(token) > maxIDToken {
		return Identity{}, failed(op, "no id_token")
	}
	payload, err := p.verify(ctx, []byte(token))
	if err != nil {
		return Identity{}, err
	}
	var c idClaims
	if err := json.Unmarshal(payload, &c); err != nil {
		return Identity{}, failed(op, "the id_token cannot be read")
	}
	exp, iat := time.Unix(int64(c.Exp), 0), time.Unix(int64(c.Iat), 0)
	authTime := iat
	if c.AuthTime > 0 {
		authTime = time.Unix(int64(c.AuthTime), 0)
	}
	switch {
	case c.Iss != p.Issuer:
		return Identity{}, failed(op, "id_token: iss")
	case !slices.Contains(c.Aud, p.ClientID) || len(c.Aud) > 1 && c.Azp != p.ClientID || c.Azp != "" &&
		c.Azp != p.ClientID:
		return Identity{}, failed(op, "id_token: aud")
	case subtle.ConstantTimeCompare([]byte(c.Nonce), []byte(o.Nonce)) != 1:
		return Identity{}, failed(op, "id_token: nonce")
	case c.Exp == 0 || c.Iat == 0 || !now.Before(exp.Add(skew)) || iat.After(now.Add(skew)) ||
		now.Sub(iat) > outwardLife+skew:
		return Identity{}, failed(op, "id_token: exp or iat")
	case c.Sub == "" || len(c.Sub) > 255:
		return Identity{}, failed(op, "id_token: sub")
	case o.Fresh && (c.AuthTime == 0 || authTime.Before(o.Asked.Add(-skew))):
		return Identity{}, failed(op, "id_token: auth_time is too old")
	}
	id := Identity{Issuer: c.Iss, Subject: c.Sub, ACR: SingleFactor, AMR: []string{"ext"}, AuthTime: authTime}
	is := func(values []string) bool {
		return slices.Contains(values, c.ACR) ||
			slices.ContainsFunc(c.AMR, func(a string) bool { return slices.Contains(values, a) })
	}
	switch {
	case is(p.PhishingResistant):
		id.ACR, id.AMR = PhishingResistant, append(id.AMR, "mfa")
	case is(p.MFA):
		id.ACR, id.AMR = MultiFactor, append(id.AMR, "mfa")
	}
	return id, nil
}

// algorithms are those of an id_token: asymmetric only.
var algorithms = []jwa.SignatureAlgorithm{jwa.RS256, jwa.RS384, jwa.RS512, jwa.PS256, jwa.PS384, jwa.PS512,
	jwa.ES256, jwa.ES384, jwa.ES512}

func (p *Provider) verify(ctx context.Context, token []byte) ([]byte, error) {
	const op = "authn.verify"
	msg, err := jws.Parse(token, jws.WithCompact())
	if err != nil || len(msg.Signatures()) != 1 {
		return nil, failed(op, "the id_token cannot be read")
	}
	h := msg.Signatures()[0].ProtectedHeaders()
	if !slices.Contains(algorithms, h.Algorithm()) {
		return nil, failed(op, "id_token: alg")
	}
	for _, again := range []bool{false, true} {
		_, set, err := p.metadata(ctx, again)
		if err != nil {
			return nil, err
		}
		for i := range set.Len() {
			k, _ := set.Key(i)
			if h.KeyID() != "" && k.KeyID() != h.KeyID() || k.KeyUsage() != "" && k.KeyUsage() != "sig" ||
				k.KeyType() == jwa.OctetSeq {
				continue
			}
			if payload, err := jws.Verify(token, jws.WithKey(h.Algorithm(), k)); err == nil {
				return payload, nil
			}
		}
	}
	return nil, failed(op, "id_token: signature")
}

// metadata returns the provider's document and keys, read again when they are
// older than ten minutes, or at once when a key is missing.
func (p *Provider) metadata(ctx context.Context, again bool) (providerDoc, jwk.Set, error) {
	const op = "authn.metadata"
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Clock()
	// A key that is not there is asked for at most every ten seconds.
	if p.keys != nil && now.Before(p.until) && (!again || p.until.Sub(now) > metadataLife-10*time.Second) {
		return p.doc, p.keys, nil
	}
	unavailable := fhir.Errorf(fhir.Unavailable, op, "the sign-in of the hospital does not answer")
	var doc providerDoc
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		strings.TrimSuffix(p.Issuer, "/")+"/.well-known/openid-configuration", nil)
	if err != nil {
		return doc, nil, fhir.Wrap(op, err)
	}
	if err := p.fetch(req, &doc); err != nil || doc.Issuer != p.Issuer {
		return doc, nil, unavailable
	}
	var raw json.RawMessage
	if req, err = http.NewRequestWithContext(ctx, http.MethodGet, doc.JWKS, nil); err != nil {
		return doc, nil, unavailable
	}
	if err := p.fetch(req, &raw); err != nil {
		return doc, nil, unavailable
	}
	set, err := jwk.Parse(raw)
	if err != nil {
		return doc, nil, unavailable
	}
	p.doc, p.keys, p.until = doc, set, now.Add(metadataLife)
	return doc, set, nil
}

func (p *Provider) fetch(req *http.Request, out any) error {
	req.Header.Set("Accept", "application/json")
	resp, err := p.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fhir.Errorf(fhir.Unavailable, "authn.fetch", "status %d", resp.StatusCode)
	}
	return json.NewDecoder(io.LimitReader(resp.Body, 256<<10)).Decode(out)
}
