// Package signin implements what people do with their accounts: sign in and
// out, step up, enroll and remove authenticators, and, for administrators,
// invite people, change roles and disable users.
//
// It owns: the order of the checks, and that every operation is one commit
// together with its AuditEvent, so that nothing happens unrecorded and no
// record is false. It does not own: the authenticators (smart/people/authn),
// the records (smart/people/user, smart/people/session), or the pages
// (smart/pages).
//
// Every refused sign-in returns the same error, regardless of the reason. Refusals
// are recorded in the audit trail up to a rate. Beyond it they are only counted
// and logged, so that an attacker cannot fill the trail.
//
//	ceremony/<SHA-256 of challenge or state>   used, kept until it would have expired
//	signin/bootstrap                           random; changes with every bootstrap link
package signin
