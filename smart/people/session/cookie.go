package session

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"time"

	"pulsegate/fhir"
	"pulsegate/smart/people/authn"
)

const (
	nameSession = "pulsegate-session"
	nameVisit   = "pulsegate-visit"
	nameDevice  = "pulsegate-device"

	visitLife  = 10 * time.Minute
	deviceLife = 180 * 24 * time.Hour
	maxDevices = 4
	maxCookie  = 4000
)

// Cookies writes and reads the cookies of this server.
type Cookies struct {
	Origin string // scheme and host of this server
	Vault  *authn.Vault
	Clock  func() time.Time
}

// Secure reports whether the server is used over https.
func (c Cookies) Secure() bool { return strings.HasPrefix(c.Origin, "https://") }

func (c Cookies) name(s string) string {
	if c.Secure() {
		return "__Host-" + s
	}
	return s
}

func (c Cookies) set(w http.ResponseWriter, name, value string, life time.Duration) {
	ck := &http.Cookie{Name: c.name(name), Value: value, Path: "/", HttpOnly: true, Secure: c.Secure(),
		SameSite: http.SameSiteLaxMode}
	switch {
	case value == "":
		ck.MaxAge = -1
	case life > 0:
		ck.MaxAge = int(life / time.Second)
	}
	http.SetCookie(w, ck)
}

func (c Cookies) get(r *http.Request, name string) string {
	ck, err := r.Cookie(c.name(name))
	if err != nil {
		return ""
	}
	return ck.Value
}

// Secret returns the secret of the session, "" if there is none.
func (c Cookies) Secret(r *http.Request) string { return c.get(r, nameSession) }

// SetSecret sets the session cookie, or removes it if secret is empty. The
// cookie lasts until the browser is closed.
func (c Cookies) SetSecret(w http.ResponseWriter, secret string) { c.set(w, nameSession, secret, 0) }

// Visit is the state of a sign-in or enrollment in progress. It is kept in a
// sealed cookie, so that the browser can neither read nor change it.
type Visit struct {
	CSRF     string          `json:"csrf"`
	Expires  time.Time       `json:"expires"`
	Invite   string          `json:"invite,omitempty"`   // secret of the one-time link in use
	Return   string          `json:"return,omitempty"`   // path of the page to show afterwards
	Ceremony *authn.Ceremony `json:"ceremony,omitempty"` // pending passkey ceremony
	// AuthRequest is pending at the hospital's provider.
	AuthRequest *authn.AuthRequest `json:"outward,omitempty"`
	// Link reports that AuthRequest connects an account and does not sign in.
	Link bool   `json:"link,omitempty"`
	TOTP []byte `json:"totp,omitempty"` // secret that is being enrolled
}

// Visit returns the visit of the browser, or a new one.
func (c Cookies) Visit(r *http.Request) Visit {
	var v Visit
	if c.open(nameVisit, c.get(r, nameVisit), &v) && c.Clock().Before(v.Expires) {
		return v
	}
	return Visit{CSRF: rand.Text()}
}

// SetVisit stores v for ten more minutes. It fails if v does not fit into a
// cookie.
func (c Cookies) SetVisit(w http.ResponseWriter, v Visit) error {
	v.Expires = c.Clock().Add(visitLife)
	s, err := c.seal(nameVisit, v)
	if err != nil {
		return err
	}
	c.set(w, nameVisit, s, visitLife)
	return nil
}

// EndVisit removes the visit.
func (c Cookies) EndVisit(w http.ResponseWriter) { c.set(w, nameVisit, "", 0) }

func (c Cookies) seal(name string, v any) (string, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", fhir.Wrap("session.seal", err)
	}
	s := base64.RawURLEncoding.EncodeToString(c.Vault.Seal(name, b))
	if len(s) > maxCookie {
		return "", fhir.Errorf(fhir.TooLarge, "session.seal", "the state does not fit into a cookie")
	}
	return s, nil
}

func (c Cookies) open(name, s string, v any) bool {
	if s == "" || len(s) > maxCookie {
		return false
	}
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil {
		return false
	}
	plain, err := c.Vault.Open(name, raw)
	return err == nil && json.Unmarshal(plain, v) == nil
}

// device identifies an account that has signed in at this browser.
type device struct {
	User    string    `json:"u"`
	ID      string    `json:"d"`
	Expires time.Time `json:"e"`
}

func (c Cookies) devices(r *http.Request) []device {
	var all, good []device
	if c.open(nameDevice, c.get(r, nameDevice), &all) {
		for _, d := range all {
			if c.Clock().Before(d.Expires) {
				good = append(good, d)
			}
		}
	}
	return good
}

// Device returns the id of this browser for a user, "" if that user has not
// signed in here.
func (c Cookies) Device(r *http.Request, userID string) string {
	for _, d := range c.devices(r) {
		if d.User == userID && userID != "" {
			return d.ID
		}
	}
	return ""
}

// Remember records that the user has signed in at this browser.
func (c Cookies) Remember(w http.ResponseWriter, r *http.Request, userID string) error {
	list := []device{{User: userID, ID: rand.Text(), Expires: c.Clock().Add(deviceLife)}}
	for _, d := range c.devices(r) {
		if d.User == userID {
			list[0].ID = d.ID
		} else if len(list) < maxDevices {
			list = append(list, d)
		}
	}
	s, err := c.seal(nameDevice, list)
	if err != nil {
		return err
	}
	c.set(w, nameDevice, s, deviceLife)
	return nil
}

// SameOrigin reports whether a request was sent by a page of this server.
func (c Cookies) SameOrigin(r *http.Request) bool {
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	origin := r.Header.Get("Origin")
	return origin != "" && origin == c.Origin
}

// TokenOK compares CSRF tokens in constant time.
func TokenOK(want, got string) bool {
	return want != "" && subtle.ConstantTimeCompare([]byte(want), []byte(got)) == 1
}

// LocalPath returns s if it is a path of a page on this server, otherwise
// fallback. It refuses everything that a browser might take for a URL of
// another host.
func LocalPath(s, fallback string) string {
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") || len(s) > 2048 {
		return fallback
	}
	u, err := url.Parse(s)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || !strings.HasPrefix(u.Path, "/auth/") &&
		!strings.HasPrefix(u.Path, "/oauth/") {
		return fallback
	}
	return u.String()
}
