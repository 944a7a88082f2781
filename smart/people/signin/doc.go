// Package signin is what people do about who they are: sign in and out, step
// up, enrol and remove authenticators, and, for administrators, invite, change
// roles, disable.
//
// It owns: the order of the checks, and that each of these is one commit
// together with its AuditEvent, so nothing happens unrecorded and nothing is
// recorded that did not happen. It does not own: the proofs (smart/people/authn), the
// records (smart/people/user, smart/people/session), or the pages (smart/pages).
//
// A refused sign-in has one answer, whatever was wrong. Refusals are recorded
// up to a rate; beyond it they are counted and logged only, for an outsider
// must not fill the trail.
//
//	ceremony/<SHA-256 of challenge or state>   used up, until it would have lapsed
package signin
