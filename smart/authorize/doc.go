// Package authorize is the authorization endpoint: GET and POST
// /oauth/authorize (SMART App Launch 2.2, standalone and EHR launch).
//
// It owns: the check of an app's request, its keeping until a person has
// decided, the redirect with a code. It does not own: who the person is and
// how the question looks (the page that the browser is sent to, through
// Flow), the code's redemption (smart/token, smart/grant), or the launch
// handle (smart/launch).
package authorize
