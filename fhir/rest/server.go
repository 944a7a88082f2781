package rest

import (
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/interaction"
	"pulsegate/fhir/limit"
)

// Authenticator authenticates the caller of a request. Its errors are *fhir.Error,
// with the kind Unauthorized for a missing or invalid token.
type Authenticator interface {
	Authenticate(*http.Request) (*access.Principal, error)
}

// Mounter is a handler that adds its routes to a router.
type Mounter interface{ Mount(gin.IRouter) }

// Limits bounds requests. A zero field means the default.
type Limits struct {
	Body     int64         // size of a body as received, in bytes; 10 MiB by default
	Inflated int64         // size of a decompressed body in bytes; 50 MiB by default
	Timeout  time.Duration // for the work, without the transfer; 60 s by default
	Denied   int           // recorded requests without a valid token per second; 20 by default
	// Shared, if set, makes Denied the limit of all processes of a cluster together.
	Shared limit.Shared
}

func (l Limits) withDefaults() Limits {
	if l.Body <= 0 {
		l.Body = 10 << 20
	}
	if l.Inflated <= 0 {
		l.Inflated = 50 << 20
	}
	if l.Timeout <= 0 {
		l.Timeout = 60 * time.Second
	}
	if l.Denied <= 0 {
		l.Denied = 20
	}
	return l
}

// Server is the REST API. Service, Auth, Metadata, Logger, Clock and Rand are
// required.
type Server struct {
	Service  *interaction.Service
	Auth     Authenticator
	Metadata func() []byte // returns the CapabilityStatement
	// Terminology returns the TerminologyCapabilities. It may be nil.
	Terminology func() []byte
	// Definitions holds the OperationDefinitions that need no token, by id.
	Definitions map[string][]byte
	Logger      *slog.Logger
	Clock       func() time.Time
	Rand        io.Reader // for request ids
	Limits      Limits
	// Consents is used to abort long answers when consents change. It may be nil.
	Consents Consents
	// Operations are mounted below /fhir with authentication, Public without it.
	Operations, Public []Mounter
	// Unsynced reports whether a request outside of /fhir reads nothing of the store.
	// It is then answered without store.Store.Sync. It may be nil.
	Unsynced func(*http.Request) bool
	// Unavailable answers a request outside of /fhir for which Sync has failed with
	// err. If it is nil, the answer is an OperationOutcome, as below /fhir.
	Unavailable func(c *gin.Context, err error)

	// SignIn is the URL of the page on which people sign in. Pages of the API for
	// browsers without a token refer to it. It may be empty.
	SignIn string

	randMu     sync.Mutex
	statements preparations   // of the CapabilityStatement
	denied     *limit.Buckets // set by Engine
}

const prefix = "/fhir"

// Engine returns a gin engine with the middleware of the server and the FHIR
// routes. Other handlers may be mounted on it.
func (s *Server) Engine() *gin.Engine {
	recorded := s.Limits.withDefaults().Denied
	s.denied = limit.NewBuckets(recorded, recorded).Share(s.Limits.Shared, "rest denied")
	gin.SetMode(gin.ReleaseMode)
	e := gin.New()
	e.RedirectTrailingSlash = false
	e.HandleMethodNotAllowed = true
	e.ContextWithFallback = true
	e.Use(s.identify, s.observe(), s.recover, s.headers, s.sync)
	e.NoRoute(s.noRoute)
	e.NoMethod(s.noMethod)
	s.Mount(e)
	return e
}

// Handler returns Engine as an http.Handler.
func (s *Server) Handler() http.Handler { return s.Engine() }

// Mount adds the FHIR routes. The router must carry the middleware of Engine.
func (s *Server) Mount(r gin.IRouter) {
	public := r.Group(prefix)
	public.GET("/metadata", s.metadata)
	public.HEAD("/metadata", s.metadata)
	for _, m := range s.Public {
		m.Mount(public)
	}
	private := r.Group(prefix, s.authenticate)
	for _, m := range s.Operations {
		m.Mount(private)
	}
	api := private.Group("", s.negotiate, s.limitTime)
	api.POST("", s.bundle)
	api.POST("/", s.bundle)
	s.mountOperations(api)
	api.POST("/:type", s.create)
	api.POST("/_search", s.searchSystemForm)
	api.POST("/:type/_search", s.searchForm)
	api.POST("/:type/:id/:compartment/_search", s.searchCompartmentForm)
	for _, path := range []string{"/:type", "/:type/:id"} { // by criteria, and by id
		api.PUT(path, s.update)
		api.PATCH(path, s.patch)
		api.DELETE(path, s.delete)
	}
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		api.Handle(method, "", s.searchSystem)
		api.Handle(method, "/", s.searchSystem)
		api.Handle(method, "/:type", s.search)
		api.Handle(method, "/:type/:id/:compartment", s.searchCompartment)
		api.Handle(method, "/_history", s.history)
		api.Handle(method, "/:type/_history", s.history)
		// A route of its own for OperationDefinition would hide the longer paths below it from gin.
		public.Handle(method, "/:type/:id", s.definition, s.authenticate, s.negotiate, s.limitTime, s.read)
		api.Handle(method, "/:type/:id/_history", s.history)
		api.Handle(method, "/:type/:id/_history/:vid", s.vread)
	}
}

func isFHIR(path string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// noRoute answers unknown paths. Below /fhir it requires a token and answers with
// an OperationOutcome.
func (s *Server) noRoute(c *gin.Context) {
	if isFHIR(c.Request.URL.Path) {
		if s.authenticate(c); c.IsAborted() {
			return
		}
	}
	fail(c, fhir.Errorf(fhir.NotFound, "rest.noRoute", "no such path"))
}

func (s *Server) noMethod(c *gin.Context) {
	if isFHIR(c.Request.URL.Path) {
		if s.authenticate(c); c.IsAborted() {
			return
		}
	}
	fail(c, fhir.Errorf(fhir.NotAllowed, "rest.noMethod", "this method is not offered here"))
}
