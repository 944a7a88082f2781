// Package role says what each kind of person may do: least privilege in one
// table, role x interaction x resource type, and one for what is no FHIR
// interaction (the pages' actions).
//
// It owns: the roles, the table, what a session of a role is held to. It does
// not own: which patient a role's rules reach (the compartment of a patient's
// own token, consents and break-glass: smart/policy), or who has which role
// (smart/people/user). It is pure.
//
// A role is a ceiling. A token's scopes and the consents only take from it.
package role
