package rest

import (
	"context"
	"errors"
	"net/http"

	"github.com/coder/websocket"
	"github.com/gin-gonic/gin"

	"pulsegate/fhir"
	"pulsegate/fhir/access"
	"pulsegate/fhir/subscription"
)

// Sockets serves the WebSocket of subscriptions:
//
//	GET /$subscription-ws
//
// It is mounted without authentication, because browsers cannot send a token with the
// handshake. What is sent depends on the binding token in the messages. If the request has
// an access token, it must be valid, and allows R4's message "bind". There are no cookies,
// so that the origin of the page does not matter.
type Sockets struct {
	Engine *subscription.Engine
	Auth   Authenticator
}

// Mount adds the route below the FHIR base.
func (h Sockets) Mount(r gin.IRouter) { r.GET(subscription.SocketPath, h.serve) }

// maxSocketMessage bounds a message of the peer in bytes.
const maxSocketMessage = 4 << 10

func (h Sockets) serve(c *gin.Context) {
	var caller *access.Principal
	if c.Request.Header.Get("Authorization") != "" {
		p, err := h.Auth.Authenticate(c.Request)
		if err != nil {
			c.Header("WWW-Authenticate", `Bearer error="invalid_token"`)
			fail(c, fhir.Errorf(fhir.Unauthorized, "rest.Sockets", "the access token is not valid"))
			return
		}
		caller = p
	}
	if !c.IsWebsocket() {
		c.Header("Connection", "Upgrade")
		c.Header("Upgrade", "websocket")
		c.AbortWithStatus(http.StatusUpgradeRequired)
		return
	}
	conn, err := websocket.Accept(c.Writer, c.Request, &websocket.AcceptOptions{InsecureSkipVerify: true,
		CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		c.Abort() // Accept has answered
		return
	}
	conn.SetReadLimit(maxSocketMessage)
	// The request's context does not end with the connection after it was taken over.
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.Request.Context()))
	defer cancel()
	if err := h.Engine.Serve(ctx, socket{conn}, caller, c.RemoteIP()); err != nil {
		c.Abort() // the peer has been told
	}
}

// socket implements subscription.Socket.
type socket struct{ conn *websocket.Conn }

var errNotText = errors.New("messages must be text")

func (s socket) Read(ctx context.Context) ([]byte, error) {
	typ, b, err := s.conn.Read(ctx)
	if err == nil && typ != websocket.MessageText {
		err = errNotText
	}
	return b, err
}

func (s socket) Write(ctx context.Context, text []byte) error {
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// Close implements subscription.Socket.
func (s socket) Close(err error) {
	code, reason := websocket.StatusNormalClosure, ""
	switch {
	case errors.Is(err, subscription.ErrSocketRefused):
		code, reason = websocket.StatusPolicyViolation, err.Error()
	case errors.Is(err, subscription.ErrSocketExpired):
		reason = err.Error()
	case errors.Is(err, subscription.ErrSocketsFull):
		code, reason = websocket.StatusTryAgainLater, err.Error()
	case errors.Is(err, errNotText):
		code, reason = websocket.StatusUnsupportedData, err.Error()
	case errors.Is(err, context.Canceled):
		code = websocket.StatusGoingAway
	case err != nil:
		code = websocket.StatusInternalError
	}
	if err := s.conn.Close(code, reason); err != nil {
		return // the peer has closed the connection
	}
}

func (s socket) Ping(ctx context.Context) error { return s.conn.Ping(ctx) }
