// Package subscription is topic-based subscriptions for R4 by the
// Subscriptions R5 Backport guide (IG 1.1.0): one topic, rest-hook.
//
// It owns: which Subscriptions are accepted (Check), the numbering of events,
// their delivery, and the operations $status and $events. It does not own:
// the Subscription resources (fhir/interaction writes them, this package only
// their status), who may (fhir/access), outgoing connections (fhir/egress).
//
// # Topic
//
// Canonical+"/SubscriptionTopic/observation-recorded": an Observation was
// created or updated. It may also be spelled below the server's own base URL.
// Filters are extensions on criteria, Observation?patient=&category=&code=,
// all of which must match; values of one parameter may be alternatives
// separated by commas. Channel rest-hook, payload application/fhir+json,
// content empty, id-only or full-resource; backport-heartbeat-period,
// backport-timeout (at most 30 s, default 10) and backport-max-count (default
// 20). Anything else is refused with the place named.
//
// # Events
//
// A follower walks the change log with its own durable cursor. For each
// Observation that a Subscription asks for and its owner may see at that
// moment (scopes and consents), the event gets the Subscription's next number,
// in one commit with the cursor: numbers run 1..n without gaps, across
// restarts and whatever the receiver does. Subscriptions that are requested,
// active or in error are numbered; those that are off are not. Of a
// Subscription in error the first 256 events are kept; those behind are counted
// without a row and without a write for each, and when it is set to requested
// again their numbers are passed over, so that the client sees what it missed.
//
// Each Subscription has one sender with its own place in the numbered events,
// read from the store a few at a time: a slow endpoint delays nobody else and
// takes no memory. An event is repeated until it is answered with 2xx: after
// 1, 2, 4 ... 60 s with jitter, then the Subscription goes to error and waits
// until it is updated to requested. Delivery is at least once and in order.
// What the owner may not see any more at the time of sending, and what has
// been deleted, keeps its number and is sent without focus and content.
//
// The owner is the client that created the Subscription (access.Facts.Author).
// Only it sees $status and $events, and the Subscription itself, whose
// channel.header may hold a secret of the endpoint (access.Filter).
//
// # State
//
//	subscription/cursor             T the follower has done, decimal
//	subscription/<id>/head          JSON: owner, number of events, and while
//	                                they are only counted the commit up to which
//	subscription/<id>/event/<n>     JSON of one event, n as 16 hex digits; or of
//	                                a run of events, n the last of them: changes
//	                                of one commit that follow one another in
//	                                the change log, by their places in it
//	subscription/<id>/sent          number of the last event that was answered
//
// Delivered events are kept for $events, at least the latest 1,000 of each.
//
// An import writes 65,536 samples in a commit, and for its events there is one
// row a series. What a run of events is of is read from the change log when it
// is sent.
package subscription
