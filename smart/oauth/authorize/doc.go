// Package authorize implements the authorization endpoint: GET and POST
// /oauth/authorize (SMART App Launch 2.2, standalone and EHR launch).
//
// It owns the validation of authorization requests, their storage until a
// person decides, and the redirect with the code. It does not own the sign-in
// and the consent page (the browser is sent to that page, which uses Flow), the
// redemption of codes (smart/oauth/token, smart/authz), or launch handles
// (smart/oauth/launch).
//
// The endpoint answers a valid request with a redirect to the page
// (Options.Page) with the query request=<id>. The request waits for 10 minutes
// for the browser that began it. A cookie (Secure over https, HttpOnly,
// SameSite=Lax) holds a secret, the hash of which is stored with the request.
// The page passes the cookie on with WithBrowser.
//
// An error in the client_id or the redirect URI is shown to the person
// (Options.ShowError), because there is no trusted URI to send it to. All other
// errors are returned to the app (RFC 6749 4.1.2.1) with state and iss (RFC
// 9207).
//
// # State
//
//	authorize/<id>   the request, until it is answered
//
// One commit stores the code and the AuditEvent of the approval, and deletes
// the request and its launch handle.
//
// Sources: SMART App Launch 2.2; RFC 6749; RFC 7636; RFC 9207; RFC 9449 10; RFC
// 9700; OpenID Connect Core 1.0, 3.1.2.
package authorize
