package blackbox

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Person uses the pages of a server as a browser without scripts does.
type Person struct {
	http *http.Client
	base string
}

var (
	csrfField = regexp.MustCompile(`name="csrf" value="([^"]*)"`)
	secretKey = regexp.MustCompile(`id="secret">([^<]*)<`)
)

// Enroll opens a one-time link and sets a password and a code app, which signs the
// person in.
func Enroll(invite, password string) (*Person, error) {
	u, err := url.Parse(invite)
	if err != nil {
		return nil, err
	}
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	p := &Person{http: &http.Client{Jar: jar, Timeout: 30 * time.Second}, base: u.Scheme + "://" + u.Host}
	if _, err := p.Submit(u.RequestURI(), "/auth/invite", url.Values{"token": {u.Query().Get("token")}}); err != nil {
		return nil, err
	}
	page, err := p.Page("/auth/enrol/password")
	if err != nil {
		return nil, err
	}
	secret := secretKey.FindStringSubmatch(page)
	if secret == nil {
		return nil, fmt.Errorf("the page shows no key for the code app")
	}
	code, err := totp(secret[1], time.Now())
	if err != nil {
		return nil, err
	}
	_, err = p.post("/auth/enrol/password", url.Values{"csrf": {csrf(page)}, "password": {password}, "repeat": {password},
		"code": {code}})
	return p, err
}

// totp returns the code of an RFC 6238 app with the usual parameters.
func totp(secret string, at time.Time) (string, error) {
	key, err := base32.StdEncoding.WithPadding(base32.NoPadding).DecodeString(
		strings.ToUpper(strings.ReplaceAll(strings.TrimSpace(secret), " ", "")))
	if err != nil {
		return "", err
	}
	mac := hmac.New(sha1.New, key)
	_, _ = mac.Write(binary.BigEndian.AppendUint64(nil, uint64(at.Unix()/30))) // never fails
	sum := mac.Sum(nil)
	n := binary.BigEndian.Uint32(sum[sum[19]&15:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1_000_000), nil
}

func csrf(page string) string {
	if m := csrfField.FindStringSubmatch(page); m != nil {
		return html.UnescapeString(m[1])
	}
	return ""
}

// Page returns a page. Redirects are followed.
func (p *Person) Page(path string) (string, error) {
	r, err := p.http.Get(p.base + path)
	return p.read(r, err)
}

// Submit fills in the form of a page and returns the answer.
func (p *Person) Submit(page, action string, form url.Values) (string, error) {
	body, err := p.Page(page)
	if err != nil {
		return "", err
	}
	form.Set("csrf", csrf(body))
	return p.post(action, form)
}

func (p *Person) post(path string, form url.Values) (string, error) {
	rq, err := http.NewRequest(http.MethodPost, p.base+path, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	rq.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	rq.Header.Set("Origin", p.base)
	r, err := p.http.Do(rq)
	return p.read(r, err)
}

func (p *Person) read(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode >= 400 {
		err = fmt.Errorf("%s: status %d", r.Request.URL.Path, r.StatusCode)
	}
	return string(b), err
}

// Connect connects an account at a vendor whose consent page is answered by approve,
// which gets the query of the authorization request and returns the form to post.
func (p *Person) Connect(vendor string, approve func(q url.Values) url.Values) error {
	page, err := p.Submit("/auth/devices/connect?vendor="+vendor, "/auth/devices/connect",
		url.Values{"vendor": {vendor}, "sees": {"all"}})
	if err != nil {
		return err
	}
	link := regexp.MustCompile(`class="btn primary" href="([^"]*)"`).FindStringSubmatch(page)
	if link == nil {
		return fmt.Errorf("the page has no link to %s", vendor)
	}
	u, err := url.Parse(html.UnescapeString(link[1]))
	if err != nil {
		return err
	}
	form := approve(u.Query())
	u.RawQuery = ""
	direct := *p.http
	direct.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	r, err := direct.PostForm(u.String(), form)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	back, err := url.Parse(r.Header.Get("Location"))
	if err != nil || back.Host == "" {
		return fmt.Errorf("%s does not send the browser back: status %d", vendor, r.StatusCode)
	}
	_, err = p.Page(back.RequestURI())
	return err
}
