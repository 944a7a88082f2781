// Package admin serves the commands of the operator: JSON operations over a unix
// socket with mode 0600 in the data directory. The permission to open the socket
// authenticates the operator; there are no accounts or passwords. Every operation
// records an AuditEvent with the user id of the peer.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"pulsegate/fhir"
	"pulsegate/fhir/budget"
	"pulsegate/mapping/explain"
	"pulsegate/mapping/ingest"
)

// Operations are the operations that the server offers to its operator.
type Operations interface {
	People
	Clocks
	LinkOperations
	PushKeyOperations
	TargetOperations
	RemapOperations
	PackOperations
	ClusterOperations
	AddPatient(ctx context.Context, op Operator, in NewPatient) (ID, error)
	ListPatients(ctx context.Context, op Operator) (Patients, error)
	ShowPatient(ctx context.Context, op Operator, id string) (PatientDetails, error)
	GrantConsent(ctx context.Context, op Operator, in NewConsent) (ID, error)
	WithdrawConsent(ctx context.Context, op Operator, in WithdrawConsent) (Withdrawn, error)
	ListConsents(ctx context.Context, op Operator, patient string) (Consents, error)
	AddClient(ctx context.Context, op Operator, in NewClient) (ClientInfo, error)
	ListClients(ctx context.Context, op Operator) (Clients, error)
	NewRegistrationToken(ctx context.Context, op Operator, in NewRegistrationToken) (RegistrationToken, error)
	ChangeClient(ctx context.Context, op Operator, in ChangeClient) (ClientInfo, error)
	DisableClient(ctx context.Context, op Operator, id string) (ClientInfo, error)
	EnableClient(ctx context.Context, op Operator, id string) (ClientInfo, error)
	Ingest(ctx context.Context, op Operator, in IngestRequest, body io.Reader) (ingest.Summary, error)
	Quarantine(ctx context.Context, op Operator, patient string) (Quarantine, error)
	ShowQuarantine(ctx context.Context, op Operator, id string) (QuarantineItem, error)
	// Explain tells how an Observation was made.
	Explain(ctx context.Context, op Operator, id string) (*explain.Explanation, error)
	RetryQuarantine(ctx context.Context, op Operator) (Retried, error)
	VerifyAudit(ctx context.Context, op Operator, checkpoint string) (any, error)
	DemoToken(ctx context.Context, op Operator) (DemoToken, error)
	ServerInfo(ctx context.Context, op Operator) (ServerInfo, error)
	StoreStat(ctx context.Context, op Operator) (StoreStat, error)
	SearchParameters(ctx context.Context, op Operator) (SearchParameters, error)
	StoreCheck(ctx context.Context, op Operator) (StoreCheck, error)
	// Profile records that a profile of the process is about to be taken.
	Profile(ctx context.Context, op Operator, name string) error
}

// Operator identifies the caller at the other end of the socket.
type Operator struct {
	Name string // user id of the peer process, such as "uid:0"
}

// IngestRequest describes the payload in the body of the request.
type IngestRequest struct {
	Patient, Vendor, Format, Name string
	Delivery                      map[string]string // headers of the original delivery, in lower case
}

// Server serves Operations on the socket.
type Server struct {
	Dir string
	Ops Operations
	Log *slog.Logger
	// Memory bounds the memory of request bodies, together with those of the
	// public listener. If it is nil, there is no bound.
	Memory *budget.Budget
	// Sync is called before each operation (store.Store.Sync). It may be nil.
	Sync func(context.Context) error
	// Refuses returns the reason why Sync fails, if there is one that the operator must
	// remove. It may be nil.
	Refuses func() error

	srv *http.Server
}

// operatorKey is the context key of the Operator.
type operatorKey struct{}

// Listen opens the socket. It replaces the socket that a killed server left behind.
func (s *Server) Listen() (net.Listener, error) {
	path := filepath.Join(s.Dir, SocketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The umask makes the socket private from the moment that it exists.
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, err
	}
	return l, os.Chmod(path, 0o600)
}

// Serve answers requests until Close is called.
func (s *Server) Serve(l net.Listener) error {
	s.srv = &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: 5 * time.Second,
		ConnContext:       peer,
	}
	if err := s.srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close waits for the requests in progress, until ctx ends.
func (s *Server) Close(ctx context.Context) error {
	if s.srv == nil {
		return nil
	}
	return s.srv.Shutdown(ctx)
}

// peer adds the Operator at the other end of c to ctx.
func peer(ctx context.Context, c net.Conn) context.Context {
	name := "unknown"
	if cred, err := peerCredentials(c); err == nil {
		name = fmt.Sprintf("uid:%d", cred.Uid)
	}
	return context.WithValue(ctx, operatorKey{}, Operator{Name: name})
}

// peerCredentials returns the process and user at the other end of a unix
// socket.
func peerCredentials(c net.Conn) (cred *unix.Ucred, err error) {
	u, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(cerr, err)
}

func operatorOf(r *http.Request) Operator {
	op, _ := r.Context().Value(operatorKey{}).(Operator)
	return op
}

// mux is a ServeMux that lists its patterns.
type mux struct {
	http.ServeMux
	patterns []string
}

func (m *mux) HandleFunc(pattern string, f http.HandlerFunc) {
	m.patterns = append(m.patterns, pattern)
	m.ServeMux.HandleFunc(pattern, f)
}

// Routes lists the patterns of the operations.
func (s *Server) Routes() []string { return s.routes().patterns }

// Handler returns the handler of the socket for requests by op.
func (s *Server) Handler(op Operator) http.Handler {
	m := s.synced(s.routes())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), operatorKey{}, op)))
	})
}

func (s *Server) handler() http.Handler {
	if s.Memory == nil {
		return s.synced(s.routes())
	}
	return s.Memory.Handler(s.synced(s.routes()))
}

// syncTimeout bounds the time for which an operation waits until the store shows all
// that was acknowledged before it.
const syncTimeout = 10 * time.Second

// synced calls Sync before next, except for profiles, which tell why a server hangs.
func (s *Server) synced(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.Sync == nil || strings.HasPrefix(r.URL.Path, "/debug/pprof/") {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), syncTimeout)
		defer cancel()
		if err := s.Sync(ctx); err != nil {
			text := "the server cannot confirm that it is up to date; repeat the command"
			if s.Refuses != nil && s.Refuses() != nil {
				text = s.Refuses().Error()
			}
			s.answer(w, r, nil, &fhir.Error{Kind: fhir.Unavailable, Op: "admin.synced", Err: err,
				Issues: []fhir.Issue{{Diagnostics: text}}})
			return
		}
		next.ServeHTTP(w, r)
	})
}

// profile records that a profile is taken before next takes it.
func (s *Server) profile(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := s.Ops.Profile(r.Context(), operatorOf(r),
			strings.TrimPrefix(r.URL.Path, "/debug/pprof/")); err != nil {
			s.answer(w, r, nil, err)
			return
		}
		next(w, r)
	}
}

func (s *Server) routes() *mux {
	m := &mux{}
	o := s.Ops
	people(m, s, o)
	clocks(m, s, o)
	links(m, s, o)
	pushKeys(m, s, o)
	targets(m, s, o)
	remaps(m, s, o)
	packs(m, s, o)
	clusters(m, s, o)
	post(m, s, "patient", o.AddPatient)
	get(m, s, "patient", func(ctx context.Context, op Operator, _ *http.Request) (Patients, error) {
		return o.ListPatients(ctx, op)
	})
	get(m, s, "patient/show", func(ctx context.Context, op Operator, r *http.Request) (PatientDetails, error) {
		return o.ShowPatient(ctx, op, r.FormValue("id"))
	})
	post(m, s, "consent/grant", o.GrantConsent)
	post(m, s, "consent/withdraw", o.WithdrawConsent)
	get(m, s, "consent", func(ctx context.Context, op Operator, r *http.Request) (Consents, error) {
		return o.ListConsents(ctx, op, r.FormValue("patient"))
	})
	post(m, s, "client", o.AddClient)
	get(m, s, "client", func(ctx context.Context, op Operator, _ *http.Request) (Clients, error) {
		return o.ListClients(ctx, op)
	})
	post(m, s, "client/registration-token", o.NewRegistrationToken)
	post(m, s, "client/change", o.ChangeClient)
	post(m, s, "client/disable", func(ctx context.Context, op Operator, in ID) (ClientInfo, error) {
		return o.DisableClient(ctx, op, in.ID)
	})
	post(m, s, "client/enable", func(ctx context.Context, op Operator, in ID) (ClientInfo, error) {
		return o.EnableClient(ctx, op, in.ID)
	})
	m.HandleFunc("POST /ingest", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		in := IngestRequest{Patient: q.Get("patient"), Vendor: q.Get("vendor"), Format: q.Get("format"),
			Name: q.Get("name"), Delivery: map[string]string{}}
		for _, d := range q["delivery"] {
			name, value, _ := strings.Cut(d, "=")
			in.Delivery[strings.ToLower(strings.TrimSpace(name))] = strings.TrimSpace(value)
		}
		out, err := o.Ingest(r.Context(), operatorOf(r), in, r.Body)
		s.answer(w, r, out, err)
	})
	get(m, s, "quarantine", func(ctx context.Context, op Operator, r *http.Request) (Quarantine, error) {
		return o.Quarantine(ctx, op, r.FormValue("patient"))
	})
	get(m, s, "quarantine/show", func(ctx context.Context, op Operator, r *http.Request) (QuarantineItem, error) {
		return o.ShowQuarantine(ctx, op, r.FormValue("id"))
	})
	get(m, s, "explain", func(ctx context.Context, op Operator, r *http.Request) (*explain.Explanation, error) {
		return o.Explain(ctx, op, r.FormValue("id"))
	})
	post(m, s, "quarantine/retry", func(ctx context.Context, op Operator, _ struct{}) (Retried, error) {
		return o.RetryQuarantine(ctx, op)
	})
	post(m, s, "audit/verify", func(ctx context.Context, op Operator, in struct{ Checkpoint string }) (any, error) {
		return o.VerifyAudit(ctx, op, in.Checkpoint)
	})
	post(m, s, "demo/token", func(ctx context.Context, op Operator, _ struct{}) (DemoToken, error) {
		return o.DemoToken(ctx, op)
	})
	get(m, s, "server/info", func(ctx context.Context, op Operator, _ *http.Request) (ServerInfo, error) {
		return o.ServerInfo(ctx, op)
	})
	m.HandleFunc("GET /debug/pprof/", s.profile(pprof.Index))
	m.HandleFunc("GET /debug/pprof/profile", s.profile(pprof.Profile))
	m.HandleFunc("GET /debug/pprof/trace", s.profile(pprof.Trace))
	get(m, s, "store/search-parameters",
		func(ctx context.Context, op Operator, _ *http.Request) (SearchParameters, error) {
			return o.SearchParameters(ctx, op)
		})
	get(m, s, "store/stat", func(ctx context.Context, op Operator, _ *http.Request) (StoreStat, error) {
		return o.StoreStat(ctx, op)
	})
	post(m, s, "store/check", func(ctx context.Context, op Operator, _ struct{}) (StoreCheck, error) {
		return o.StoreCheck(ctx, op)
	})
	return m
}

// post registers an operation with JSON input.
func post[In, Out any](m *mux, s *Server, path string, f func(context.Context, Operator, In) (Out, error)) {
	m.HandleFunc("POST /"+path, func(w http.ResponseWriter, r *http.Request) {
		var in In
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&in); err != nil {
			s.answer(w, r, nil, fhir.Errorf(fhir.Invalid, "admin", "the body is not valid input for %s", path))
			return
		}
		out, err := f(r.Context(), operatorOf(r), in)
		s.answer(w, r, out, err)
	})
}

// get registers an operation without a body.
func get[Out any](m *mux, s *Server, path string, f func(context.Context, Operator, *http.Request) (Out, error)) {
	m.HandleFunc("GET /"+path, func(w http.ResponseWriter, r *http.Request) {
		out, err := f(r.Context(), operatorOf(r), r)
		s.answer(w, r, out, err)
	})
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, out any, err error) {
	status := http.StatusOK
	if err != nil {
		status, out = refusal(strings.Trim(r.URL.Path, "/"), err)
		if status >= 500 {
			s.Log.Error("operator command failed", "error", err)
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(out); err != nil {
		s.Log.Warn("the answer to an operator command could not be sent", "error", err)
	}
}

// refusal converts an error to a status and a Failure. The Failure shows the
// issues, and for unexpected errors the cause, because the operator may read the
// log of the server anyway.
func refusal(operation string, err error) (int, Failure) {
	var e *fhir.Error
	var advice *Advice
	next := nextStep(operation, err)
	if errors.As(err, &advice) {
		next = advice.Next
	}
	if !errors.As(err, &e) {
		return http.StatusInternalServerError, Failure{Error: err.Error(), Next: next}
	}
	var text string
	for i, issue := range e.Issues {
		if i > 0 {
			text += "; "
		}
		text += issue.Diagnostics
		for _, path := range issue.Expression {
			text += " (" + path + ")"
		}
	}
	if text == "" {
		text = e.Error()
	}
	return e.Kind.HTTPStatus(), Failure{Error: text, Next: next}
}
