// Package subscription implements topic-based subscriptions for R4 according to
// the Subscriptions R5 Backport guide (IG 1.1.0), US Core's Patient Data Feed, and R4's
// own Subscriptions with criteria.
//
// It owns: the validation of Subscriptions (Check), the numbering and delivery of
// events, the channels, and the operations $status, $events, $resend and
// $get-ws-binding-token.
//
// It does not own: the Subscription resources, which fhir/interaction writes and
// of which this package changes only the status; what topics are and when they fire
// (package topic below); access decisions (fhir/access); outgoing connections
// (fhir/egress), SMTP and brokers (packages mail and nats below).
//
// # Topics
//
// The topics of every server are
//
//	Canonical+"/SubscriptionTopic/"
//	  observation-recorded     an Observation was created or updated
//	  observation-amended      an Observation has the status amended or corrected
//	  observation-retracted    an Observation became entered-in-error or was deleted
//	  consent-changed          a Consent was created, changed or deleted
//	  device-changed           a Device was created, changed or deleted
//	  alert                    an abnormal value, or a device's notice to the wearer
//	http://hl7.org/fhir/us/core/SubscriptionTopic/patient-data-feed
//
// The URL of the own ones may also start with the server's base URL. Others are Basics
// in the store, which only the operator writes (CheckBasic). A change of one applies to
// the Subscriptions that exist. All are published as Basics and listed in the
// CapabilityStatement.
//
// Filters are extensions of criteria of the form Type?parameter=value, with the search
// parameters that the topic names. All parameters must match; the values of one are
// alternatives separated by commas; filters on one type must all match. If a topic is
// about several types, the filters also select the types.
//
// The Patient Data Feed is data-driven: every creation, update and deletion of a
// resource is a feed-event, also of one that the server derives; nothing is coalesced.
// Notifications carry the trigger codes feed-event and create, update or delete, by which
// the filter trigger selects. Filters that the server does not support are removed, and
// the Subscription has the status error until its client has accepted the rest. If no
// filter would be left, it is refused, because it would then be about everything.
//
// Criteria of R4 are a search without chains, sorting and includes. There is no
// notification of a deletion, or of a resource that no longer matches (R4
// subscription.html), no handshake, and no heartbeat.
//
// The content is empty, id-only or full-resource. The extensions
// backport-heartbeat-period, backport-timeout (at most 30 seconds, default 10) and
// backport-max-count (default 20) are supported. Anything else is rejected with an error
// that names the element.
//
// # Channels
//
//	rest-hook   POST of the notification. The extension subscription-signing-secret of
//	            channel makes the server sign it as Standard Webhooks says. Criteria of
//	            R4: PUT of each resource below the endpoint if there is a payload,
//	            otherwise a POST without a body.
//	message     POST of a message Bundle to [endpoint]/$process-message. Its focus is the
//	            notification or, for criteria of R4, the resource.
//	websocket   see Serve
//	email       text without content, if there is a Mailer
//	others      backport-channel-type with a Coding of ChannelSystem: the notification goes
//	            to the Publisher with this name
//
// The operator can configure access tokens for the endpoints of a client
// (Options.Authorize).
//
// # Finding Subscriptions
//
// A change is compared only with the Subscriptions that an index finds by its type, then
// by its patient or id, then by the codes of one token parameter (index). 10,000
// Subscriptions to one patient and code each cost one comparison.
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
// A socket is served by the process that holds it. After each commit it looks whether
// events of its Subscriptions were numbered, wherever that was, and sends them under its
// own check of consents and after a Sync of its own. An event counts as received when the
// peer has answered a ping after it. The latest 1,000 events wait for a client that comes
// back.
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
//	subscription/<id>/socket        number of the last event that a socket acknowledged
//	subscription/<id>/resend        the last request to send events to sockets again
//	subscription/ws:<sha256>        JSON: client, Subscriptions and expiry of a binding token
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
