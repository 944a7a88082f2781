// Package link connects patients to their accounts at vendors: the linking flow,
// the custody of tokens, and the status of each connection.
//
// It owns the state with the key prefix link/. It does not own the facts about
// vendors (package cloud), the decision when to read data (package sync), or the
// pages.
//
// # Linking
//
// Begin returns the URL of the vendor's consent page. The flow is an authorization
// code flow with PKCE (S256); its state value is stored as a hash, bound to the
// session of the browser, valid once and for ten minutes. Complete redeems the
// code, asks the vendor for the ids of the account, and stores link and tokens in
// one commit with the AuditEvent. The scopes that the patient granted are stored,
// and streams of other scopes are not read. An account feeds the record of one
// patient only.
//
// # Tokens
//
// Tokens are sealed in the store. One refresh of a link runs at a time. Before the
// request is sent, the stored tokens are marked, and the new pair replaces them
// before it is used. If the answer is lost or unreadable, or the process dies before
// it is stored, it is unknown which refresh token is valid. If the vendor's refresh
// tokens are single-use, the patient must then connect again; the request is never
// repeated, because many vendors take a second use for theft and end the grant. A
// request that did not use the token (an answer 429, 500 or 503, or no connection)
// removes the mark, and the refresh is tried again later.
//
// # Unlinking
//
// Unlink removes the link from the store, revokes the grant at the vendor, and erases
// the data if asked to. Sweep repeats a revocation that failed for a week, and an
// erasure until it succeeds. Grants that were obtained and not used, because the
// linking flow failed or a refresh lost to another change, are revoked in the same
// way.
//
// # Several processes
//
// If Options.Clustered is set, any process may serve each step of a flow. The mark of a
// refresh excludes other processes for two minutes, and a claim in link/ended/ID excludes
// them from a revocation or an erasure under way. A change of a link is kept in
// link/changed/ID until the process that reads the links has seen it.
//
//	link/record/ID                 the link as JSON, without tokens
//	link/token/ID                  sealed tokens
//	link/account/VENDOR/ACCOUNT    id of the link
//	link/patient/PATIENT/ID        empty
//	link/pending/HASH              a flow that has begun; the verifier is sealed
//	link/ended/ID                  an unused grant that is to be revoked or erased
//	link/changed/ID                random id of the latest change that was not seen
package link
