// Package subscription implements topic-based subscriptions for R4 according to
// the Subscriptions R5 Backport guide (IG 1.1.0), with one topic and the channel
// type rest-hook.
//
// It owns: the validation of Subscriptions (Check), the numbering and delivery
// of events, and the operations $status and $events.
//
// It does not own: the Subscription resources, which fhir/interaction writes and
// of which this package changes only the status; access decisions (fhir/access);
// and outgoing connections (fhir/egress).
//
// # Topic
//
// The topic Canonical+"/SubscriptionTopic/observation-recorded" fires when an
// Observation is created or updated. Its URL may also start with the server's
// own base URL. Filters are extensions of criteria of the form
// Observation?patient=&category=&code=. All parameters must match; the values of
// one parameter are alternatives separated by commas. The channel type is
// rest-hook, the payload application/fhir+json, and the content empty, id-only
// or full-resource. The extensions backport-heartbeat-period, backport-timeout
// (at most 30 seconds, default 10) and backport-max-count (default 20) are
// supported. Anything else is rejected with an error that names the element.
//
// # Events
//
// A follower walks the change log with a durable cursor. If an Observation
// matches a Subscription and its owner may see it at that moment (scopes and
// consents), the event gets the Subscription's next number, in the same commit
// as the cursor. So the numbers run from 1 without gaps, across restarts and
// whether or not the endpoint accepts them. Events are numbered while the status
// of a Subscription is requested, active or error, but not while it is off. For
// a Subscription in error, the first 256 events are stored. Later events are
// only counted, without a row or a write for each. When the status is set to
// requested again, the counted numbers are skipped, so that the client notices
// which events it missed.
//
// Each Subscription has one sender with its own position in the numbered events.
// The sender reads a few events at a time, so that a slow endpoint neither delays
// others nor takes memory. A notification is repeated until the endpoint answers
// with 2xx, after 1, 2, 4, … 60 seconds with jitter. Then the Subscription goes
// to error until it is updated to requested. Delivery is at least once and in
// order. If at the time of sending the Observation has been deleted or the owner may
// not see it any more, the event keeps its number and is sent without focus and
// content.
//
// The owner is the client that created the Subscription (access.Facts.Author).
// Only the owner can read $status, $events and the Subscription itself, because
// channel.header may contain a secret of the endpoint (access.Filter).
//
// # Several processes
//
// Every process answers requests: Check, $status and $events read the store. One
// process, which holds the role "subscriptions" (package fhir/cluster/role), numbers and
// delivers events. All that it writes is bound to its term, also the audit record that
// precedes each notification. Before each notification it synchronizes its store, so that
// a consent that was withdrawn at another process counts. The next holder goes on from the durable cursor and
// positions. As after a crash, it can repeat the notifications that the former holder
// delivered after it had last written its position, and the repetitions are equal.
//
// The limit of Subscriptions per client holds across processes by reservations in small
// state. Of the events that are only counted, the processes that do not hold the role
// know the last durable count, which is at most 5,000 commits old.
//
// # State
//
//	subscription/cursor             Seq up to which the follower is done, decimal
//	subscription/<id>/head          JSON: owner, number of events and, while
//	                                events are only counted, the commit up to
//	                                which they are counted
//	subscription/<id>/event/<n>     JSON of one event, n as 16 hex digits; or of a
//	                                run of events, with the number of the last:
//	                                consecutive changes of one commit, by their
//	                                indexes in the change log
//	subscription/<id>/sent          number of the last delivered event
//	subscription/reserved:<client>  JSON: ids and times of Subscriptions that Check has
//	                                accepted and that may not be stored yet
//
// Delivered events are kept for $events, at least the latest 1,000 of each
// Subscription.
//
// An import writes up to 65,536 samples in one commit. Their events take one row
// per series; the sender reads the details of a run from the change log.
package subscription
