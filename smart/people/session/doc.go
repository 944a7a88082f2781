// Package session is what a sign-in begins and what ends it.
//
// It owns: sessions, their limits, the cookies, and what keeps a foreign site
// from acting in a session. It does not own: the sign-in itself
// (smart/people/signin), what a role may do (smart/people/role).
//
// A session ends when it rests (15 minutes for staff, an hour for a patient),
// after twelve hours whatever it does, when the user signs out, and as soon as
// the user is disabled or changes roles, links or authenticators (the epoch of
// smart/people/user). Each request asks; nothing is remembered in memory.
//
// # State
//
//	session/<SHA-256 of secret>   Session, JSON
//	session-sid/<SID>             where the session is now
//	session-user/<user>/<SID>     the same, for the list of a user's sessions
//
// The secret is the cookie's value and is not stored. It changes at sign-in
// and at step-up. When a session was last seen is written at most once a
// minute, so it may end up to a minute early, never late.
//
// # Cookies
//
// Over https their names begin with __Host-: Secure, no Domain, Path=/. All
// are HttpOnly and SameSite=Lax: an app that sends the browser here by a link
// must find the session, a foreign form or script must not.
//
//	pulsegate-session   the secret
//	pulsegate-visit     Visit, sealed: what a sign-in or an enrolment under way has to keep; 10 minutes
//	pulsegate-device    Devices, sealed: accounts that have signed in here; 180 days
//
// A request that changes something must carry the CSRF token of the session
// (or, before there is one, of the visit), and must come from this origin by
// Sec-Fetch-Site, or where a browser does not send that, by Origin.
package session
