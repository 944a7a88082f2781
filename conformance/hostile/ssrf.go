package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"pulsegate/conformance/blackbox"
)

// trap is a listener that must not be connected to.
type trap struct {
	addr        string
	listener    net.Listener
	connections atomic.Int64
}

// listen opens a trap.
func listen(addr string) (*trap, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	t := &trap{addr: l.Addr().String(), listener: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.connections.Add(1)
			if err := c.Close(); err != nil {
				return
			}
		}
	}()
	return t, nil
}

func (t *trap) port() string { return t.addr[strings.LastIndexByte(t.addr, ':')+1:] }

func (t *trap) close() {
	if err := t.listener.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "hostile: listener:", err)
	}
}

// untouched returns an error if there was a connection.
func (t *trap) untouched() error {
	if n := t.connections.Load(); n != 0 {
		return fmt.Errorf("connected %d times", n)
	}
	return nil
}

const subscription = `{"resourceType":"Subscription","status":"requested","reason":"hostile","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded",
"_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/%s"}]},
"channel":{"type":"rest-hook","endpoint":"%s","payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"id-only"}]}}}`

// ssrf attacks the second server, which allows no private networks.
func (w *world) ssrf() error {
	trap, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer trap.close()
	var ids []string
	for _, u := range targets(trap.port()) {
		answer, id, err := w.subscribe(w.strictEHR, "strict", u)
		if id != "" {
			ids = append(ids, id)
		}
		w.note("Subscription endpoint "+strings.ReplaceAll(u, trap.port(), "PORT"), answer, err)
		answer, err = w.keysAt(w.strict.Base, w.strict.Run, u)
		w.note("jwks_url "+strings.ReplaceAll(u, trap.port(), "PORT"), answer, err)
	}
	time.Sleep(4 * time.Second) // time for the first attempts in the background
	w.note("all of those Subscriptions", "not active",
		w.each(ids, func(id string) error { return notActive(w.strictEHR, id) }))
	w.note("all of those", "never connected", trap.untouched())
	if err := w.secret("the second server's log", w.strict.Log()); err != nil {
		w.fail("log", err)
	}
	return w.redirected()
}

// targets returns URLs that must not be requested. Those with a port lead to loopback.
func targets(port string) []string {
	return []string{
		"http://127.0.0.1:" + port, "https://127.0.0.1:" + port, "https://localhost:" + port,
		"https://localhost.:" + port, "https://127.1:" + port,
		"https://2130706433:" + port, "https://0x7f000001:" + port, "https://0177.0.0.1:" + port,
		"https://0.0.0.0:" + port, "https://[::]:" + port, "https://[::1]:" + port,
		"https://[::ffff:127.0.0.1]:" + port, "https://[::ffff:7f00:1]:" + port,
		"https://[64:ff9b::7f00:1]:" + port, "https://[2002:7f00:1::]:" + port,
		"https://example.com@127.0.0.1:" + port, "https://127.0.0.1:" + port + "#@example.com",
		"https://user:zanaria@localhost:" + port,
		"https://10.0.0.1/", "https://172.16.0.1/", "https://192.168.0.1/", "https://100.64.0.1/",
		"https://169.254.169.254/latest/meta-data/", "https://[fd00:ec2::254]/",
		"https://[fe80::1]/", "https://224.0.0.1/", "https://255.255.255.255/", "file:///etc/passwd",
		"gopher://127.0.0.1:" + port, "unix:///admin.sock", "//127.0.0.1:" + port, "zanaria",
	}
}

// subscribe creates a Subscription with the endpoint u. If it is not refused, subscribe
// returns its id, and it must never become active.
func (w *world) subscribe(by *blackbox.Client, patient, u string) (answer, id string, err error) {
	status, out, err := by.JSON("POST", "Subscription", fmt.Appendf(nil, subscription, patient, u))
	switch {
	case err != nil:
		return "", "", err
	case status == 400 || status == 422:
		return fmt.Sprint(status), "", w.secret("the answer", fmt.Sprint(out))
	case status != 201:
		return "", "", fmt.Errorf("%d", status)
	}
	return "201 (names are resolved when the server connects)", fmt.Sprint(out["id"]), nil
}

// notActive returns an error if a Subscription is active.
func notActive(by *blackbox.Client, id string) error {
	_, out, err := by.JSON("GET", "Subscription/"+id, nil)
	if err == nil && out["status"] != "requested" && out["status"] != "error" && out["status"] != "off" {
		err = fmt.Errorf("%v", out["status"])
	}
	return err
}

// eventually waits at most two minutes for ok.
func eventually(ok func() bool) bool {
	for end := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

// keysAt registers a client of a server with its keys at u, by the command line, and
// requests a token as that client.
func (w *world) keysAt(base string, command func(out any, args ...string) error, u string) (string, error) {
	var c struct {
		ID string `json:"client_id"`
	}
	if err := command(&c, "client", "add", "--name", "x", "--jwks-url", u, "--scope",
		"system/Observation.rs"); err != nil {
		return "refused", nil
	}
	client := &blackbox.Client{Base: base, ID: c.ID, Key: w.key, HTTP: w.ehr.HTTP}
	a, err := client.Assertion(blackbox.NewJTI())
	if err != nil {
		return "", err
	}
	status, out, err := client.TokenRequest(a, "system/Observation.rs")
	if err == nil && status != 401 && status != 429 {
		err = fmt.Errorf("%d %v", status, out["error"])
	}
	return fmt.Sprintf("registered; %d %v", status, out["error"]), err
}

// redirected checks that the server does not follow redirects of allowed endpoints.
func (w *world) redirected() error {
	target, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer target.close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var requests atomic.Int64
	hook := &http.Server{ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			http.Redirect(rw, r, "http://"+target.addr+"/", http.StatusTemporaryRedirect)
		})}
	go func() {
		if err := hook.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, "hostile: hook:", err)
		}
	}()
	defer func() {
		if err := hook.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "hostile: hook:", err)
		}
	}()
	u := "http://" + l.Addr().String() + "/"
	answer, id, err := w.subscribe(w.ehr, w.patient, u)
	if err == nil && !eventually(func() bool { return requests.Load() > 0 }) {
		err = fmt.Errorf("%s, but the allowed endpoint was not requested, so this proves nothing", answer)
	}
	if err == nil {
		time.Sleep(200 * time.Millisecond) // a second request would follow immediately
		err = notActive(w.ehr, id)
	}
	w.note("an allowed endpoint that redirects", "requested; not followed; not active",
		errors.Join(err, target.untouched()))
	requests.Store(0)
	answer, err = w.keysAt(w.srv.Base, w.srv.Run, u)
	if err == nil && requests.Load() == 0 {
		err = errors.New("the allowed URL was not requested, so this proves nothing")
	}
	w.note("an allowed jwks_url that redirects", answer+"; not followed", errors.Join(err, target.untouched()))
	return nil
}
