// Package session keeps the sessions that sign-ins start.
//
// It owns: sessions, their limits, their cookies, and the protection against
// cross-site requests. It does not own: the sign-in itself
// (smart/people/signin) or the permissions of a role (smart/people/role).
//
// A session ends after 15 minutes without activity for staff and one hour for
// patients, after twelve hours in any case, when the user signs out, and as
// soon as the user is disabled or changes roles, links or authenticators (see
// Epoch in smart/people/user). Every request reads the state; nothing is cached
// in memory.
//
// # State
//
//	session/<SHA-256 of secret>   Session, JSON
//	session-sid/<SID>             current key of the session
//	session-user/<user>/<SID>     the same, to list the sessions of a user
//
// The secret is the value of the cookie and is not stored. It changes at every
// sign-in and step-up. The time of last activity is written at most once a
// minute, so a session may end up to a minute early, but never late.
//
// # Cookies
//
// Over https the names of cookies begin with __Host-, which requires Secure, no
// Domain and Path=/. All cookies are HttpOnly and SameSite=Lax: a link from an
// app must find the session, a form or script of another site must not.
//
//	pulsegate-session   the secret
//	pulsegate-visit     Visit, sealed: state of a sign-in or enrollment in progress; 10 minutes
//	pulsegate-device    devices, sealed: accounts that have signed in at this browser; 180 days
//
// A request that changes state must carry the CSRF token of the session or,
// before sign-in, of the visit. It must come from this origin according to
// Sec-Fetch-Site or, for browsers that do not send it, Origin.
package session
