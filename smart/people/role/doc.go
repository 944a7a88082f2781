// Package role defines the permissions of each role with least privilege: one
// table of role, interaction and resource type, and one of the actions on the
// pages, which are not FHIR interactions.
//
// It owns: the roles, the tables, and the limits of a role's session. It does
// not own: the patients that a role's rules cover (smart/policy adds the
// compartment of a patient's own token, consents and break-glass), or the roles
// of each user (smart/people/user). It is pure.
//
// A role is an upper bound. The scopes of a token and the consents only
// restrict it further.
package role
