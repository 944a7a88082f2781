// Package pages serves the HTML pages for people: sign-in, the account, the
// consent screen, the apps, and the pages for administrators. The pages work
// without script, except for passkeys, which need the browser's WebAuthn API.
//
// It owns: the pages and their texts, the routes below /auth/, and the
// protection of every request that changes state. It does not own any decision:
// smart/people/signin, smart/people/role, smart/oauth/authorize and
// smart/people/breakglass decide who may sign in, act or see.
//
//	GET       /auth/                       account: ways to sign in, and sessions
//	POST      /auth/sessions               end one session, or all other sessions and the access of all apps
//	GET POST  /auth/signin                 password and code; passkeys use /auth/passkey/…
//	GET       /auth/stepup                 ask for a fresh passkey
//	GET       /auth/external, …/callback   sign-in at the hospital's OpenID provider
//	GET POST  /auth/invite                 open a one-time link; continues at /auth/enrol
//	GET POST  /auth/consent                decide on an app's request; /auth/patient chooses the patient before
//	GET POST  /auth/apps                   apps with access, and revoking it; apps that others opened about the
//	                                       patient, and stopping them at /auth/apps/refusals
//	GET POST  /auth/devices/connect        consent to collect data, and the way to a vendor, which comes back to
//	                                       /auth/devices/callback; /auth/devices/disconnect ends a connection
//	GET       /auth/devices                what sends data of the patient; POST /auth/devices/keys makes a push
//	                                       key, POST /auth/devices/keys/revoke ends it
//	GET POST  /auth/users, /auth/clients   administration
//	GET POST  /auth/launches               launch an app with a patient in context
//	GET POST  /auth/emergency              open and close emergency access (break-glass)
//	GET POST  /auth/reviews                review emergency access
//	GET POST  /auth/notices                show a patient the emergency access to their data
//
// The Content-Security-Policy of every response allows only the server's own
// style sheet, script and form targets; the consent screen also allows the
// redirect target of the app. Responses are never cached and cannot be framed.
// No page contains inline script or style.
//
// Pages that show a patient's name read it through fhir/interaction with the
// rules of the person's role, so that every access is recorded in the audit
// trail.
package pages
