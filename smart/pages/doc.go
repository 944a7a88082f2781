// Package pages is what a person sees: sign-in, the account, the consent
// screen, the apps, and the administrators' pages. Server-rendered HTML that
// works without script, but for passkeys, which need the browser's own API.
//
// It owns: the pages and their words, the routes below /auth/, and the
// protection of each request that changes something. It does not own: any
// decision. Who may sign in, act or see is asked of smart/people/signin, smart/people/role,
// smart/oauth/authorize and smart/people/breakglass.
//
//	GET       /auth/                       the account: ways to sign in, and where the person is signed in
//	POST      /auth/sessions               the end of one of those sessions, or of everything
//	GET POST  /auth/signin                 password and code; passkey by /auth/passkey/…
//	GET       /auth/stepup                 a fresh passkey before what needs one
//	GET       /auth/external, …/callback   the hospital's provider
//	GET POST  /auth/invite                 a one-time link, then /auth/enrol
//	GET POST  /auth/consent                a person's decision on an app; /auth/patient before it
//	GET POST  /auth/apps                   apps with access, and their end; what others opened about a patient,
//	                                       and by /auth/apps/refusals the end of what of that rests on consent
//	GET POST  /auth/users, /auth/clients   administrators
//	GET POST  /auth/launches               launch an app with a patient in context
//	GET POST  /auth/emergency              break-glass
//	GET POST  /auth/reviews                its review
//	GET POST  /auth/notices                what a patient is told of it
//
// Every answer forbids by Content-Security-Policy all but its own style sheet,
// its own script and forms to itself (the consent screen also to the app that
// the answer goes to), is never stored, and cannot be framed. No page holds
// inline script or style.
//
// Pages that show a patient's name do so through fhir/interaction, with the
// role's rules, so that each look is in the audit trail.
package pages
