// Package authorize is the authorization endpoint: GET and POST
// /oauth/authorize (SMART App Launch 2.2, standalone and EHR launch).
//
// It owns: the check of an app's request, its keeping until a person has
// decided, the redirect with a code. It does not own: who the person is and
// how the question looks (the page that the browser is sent to, through
// Flow), the code's redemption (smart/oauth/token, smart/authz), or the launch
// handle (smart/oauth/launch).
//
// A request is answered by a redirect to the page (Options.Page) with the
// query request=<id>. It waits for 10 minutes, for the browser that began it:
// a cookie (Secure on https, HttpOnly, SameSite=Lax) holds a secret whose hash
// lies beside the request. The page passes that on with WithBrowser.
//
// An error about the client or the redirect URI is shown to the person
// (Options.ShowError), for there is nowhere to send it. Every other goes back to the app (RFC 6749
// 4.1.2.1), with state and iss (RFC 9207).
//
// # State
//
//	authorize/<id>   the request, until it is answered
//
// The code, the end of the request and of its launch handle are one commit,
// with the record of who approved what.
//
// Sources: SMART App Launch 2.2; RFC 6749; RFC 7636; RFC 9207; RFC 9449 10;
// RFC 9700; OpenID Connect Core 1.0, 3.1.2.
package authorize
