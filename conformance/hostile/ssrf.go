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

// ear counts connections.
type ear struct {
	addr string
	l    net.Listener
	n    atomic.Int64
}

func listen(addr string) (*ear, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	e := &ear{addr: l.Addr().String(), l: l}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			e.n.Add(1)
			if err := c.Close(); err != nil {
				return
			}
		}
	}()
	return e, nil
}

func (e *ear) port() string { return e.addr[strings.LastIndexByte(e.addr, ':')+1:] }

func (e *ear) close() {
	if err := e.l.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "hostile: listener:", err)
	}
}

func (e *ear) silent() error {
	if n := e.n.Load(); n != 0 {
		return fmt.Errorf("dialled %d times", n)
	}
	return nil
}

const subscription = `{"resourceType":"Subscription","status":"requested","reason":"hostile","criteria":"https://pulsegate.dev/fhir/SubscriptionTopic/observation-recorded",
"_criteria":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria","valueString":"Observation?patient=Patient/%s"}]},
"channel":{"type":"rest-hook","endpoint":"%s","payload":"application/fhir+json","_payload":{"extension":[{"url":"http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content","valueCode":"id-only"}]}}}`

// ssrf turns to the second server, to which no private network is allowed.
func (w *world) ssrf() error {
	ear, err := listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ear.close()
	var ids []string
	for _, u := range targets(ear.port()) {
		answer, id, err := w.subscribe(w.theirs, "strict", u)
		if id != "" {
			ids = append(ids, id)
		}
		w.note("Subscription endpoint "+strings.ReplaceAll(u, ear.port(), "PORT"), answer, err)
		answer, err = w.keysAt(w.strict, u)
		w.note("jwks_url "+strings.ReplaceAll(u, ear.port(), "PORT"), answer, err)
	}
	time.Sleep(4 * time.Second) // time for the first attempts, which come behind our back
	w.note("all of those Subscriptions", "not active",
		w.each(ids, func(id string) error { return notActive(w.theirs, id) }))
	w.note("all of those", "never dialled", ear.silent())
	if err := w.secret("the second server's log", w.strict.Log()); err != nil {
		w.fail("log", err)
	}
	return w.redirected()
}

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

// subscribe asks for notifications at u. The answer is a refusal, or the id
// of a Subscription that must never become active.
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
	return "201 (a name is looked up when it is dialled)", fmt.Sprint(out["id"]), nil
}

func notActive(by *blackbox.Client, id string) error {
	_, out, err := by.JSON("GET", "Subscription/"+id, nil)
	if err == nil && out["status"] != "requested" && out["status"] != "error" && out["status"] != "off" {
		err = fmt.Errorf("%v", out["status"])
	}
	return err
}

// eventually waits for ok, at most 10 s.
func eventually(ok func() bool) bool {
	for range 500 {
		if ok() {
			return true
		}
		time.Sleep(20 * time.Millisecond)
	}
	return false
}

// keysAt registers a client whose keys are at u and signs in as it.
func (w *world) keysAt(srv *blackbox.Server, u string) (string, error) {
	var c struct {
		ID string `json:"client_id"`
	}
	if err := srv.Run(&c, "client", "add", "--name", "x", "--jwks-url", u, "--scope",
		"system/Observation.rs"); err != nil {
		return "refused", nil
	}
	cl := &blackbox.Client{Base: srv.Base, ID: c.ID, Key: w.key, HTTP: w.ehr.HTTP}
	a, err := cl.Assertion(blackbox.NewJTI())
	if err != nil {
		return "", err
	}
	status, out, err := cl.TokenRequest(a, "system/Observation.rs")
	if err == nil && status != 401 && status != 429 {
		err = fmt.Errorf("%d %v", status, out["error"])
	}
	return fmt.Sprintf("registered; %d %v", status, out["error"]), err
}

// redirected has endpoints that are allowed send the server elsewhere.
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
	var asked atomic.Int64
	hook := &http.Server{ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, q *http.Request) {
			asked.Add(1)
			http.Redirect(rw, q, "http://"+target.addr+"/", http.StatusTemporaryRedirect)
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
	if err == nil && !eventually(func() bool { return asked.Load() > 0 }) {
		err = fmt.Errorf("%s, but the allowed endpoint was not asked: nothing is shown", answer)
	}
	if err == nil {
		time.Sleep(200 * time.Millisecond) // a second request would follow at once
		err = notActive(w.ehr, id)
	}
	w.note("an allowed endpoint that redirects", "asked; not followed; not active", errors.Join(err, target.silent()))
	asked.Store(0)
	answer, err = w.keysAt(w.srv, u)
	if err == nil && asked.Load() == 0 {
		err = errors.New("the allowed address was not asked: nothing is shown")
	}
	w.note("an allowed jwks_url that redirects", answer+"; not followed", errors.Join(err, target.silent()))
	return nil
}
