// Package sync reads the data of linked accounts from the clouds of vendors: it
// polls, reads the past, follows notifications, and keeps what the store holds equal
// to what the vendor holds.
//
// It owns the schedule, the budgets of requests, the inbox of notifications, and the
// state with the key prefix sync/. It does not own links and tokens (package link),
// the vendors' protocols (package cloud), or decoding and storing (mapping/ingest).
//
// # Turns
//
// Each link has a plan: for every stream, the time up to which it was polled, the
// time down to which the past was read, and when to poll next. Workers take links in
// turns. A turn does one thing for one link: it handles one event, polls one stream,
// or reads one piece of the past, in this order of preference. After its turn, a
// link waits behind all others that are due, so that no link delays another. A link
// that fails waits longer after each failure, up to an hour.
//
// A turn begins only if the budgets of the vendor and of the account allow a request.
// The further pages of a window are charged to the budget without waiting, and
// delay the next turns instead. A limit that the vendor reports by status 429 or by
// its headers suspends the account; if several accounts in a row meet it, the whole
// vendor is suspended.
//
// # Windows
//
// A poll reads from a trailing time before the previous poll until now, so that
// restated items are seen. If the stream's Types are set, the window is complete:
// the store's items in the window that the answer lacks were deleted by the vendor
// and become entered-in-error. An answer without any item is believed only when it
// is repeated at the next poll, because vendors also answer so when they fail.
//
// # Notifications
//
// The body of an authenticated notification is durable in the inbox before it is
// acknowledged. An entry leaves the inbox when all of its events were handled; after
// a crash, the rest is handled again, which changes nothing, because deliveries are
// idempotent. A repetition of a notification is acknowledged and not stored. Events
// of one stream whose windows overlap are handled as one. Streams with notifications are
// polled daily while the vendor's notifications arrive, and as often as others when none
// has arrived for two days. An event always leads to
// reading the vendor's current state, so that a forged or late event does no harm.
//
// # Consent
//
// Without the patient's consent to collection nothing is requested, not even the next
// page of an answer. What was measured while there was no consent is not stored when the
// consent returns: reading begins anew at the time of the new consent, also for an
// account that is linked again. Vendors answer for whole days and documents, so ingest
// drops what lies wholly before this time and keeps what was stored of it. The first
// consent covers the past, unless the account was linked without any.
//
// # Several processes
//
// One process reads the links: the holder of the role "vendor-sync". It keeps the queues
// in memory, and another process that takes the role reads plans, inbox and budgets from
// the store. Webhooks, linking, Pull and Status are served by any process. What the
// holder must know is stored and deleted when it was followed: a new notification
// (sync/new), a changed link (link/changed), and a request to poll (sync/pull). Every
// commit of the holder, including those of ingest, has the role as a precondition.
// Changes of consents are followed by every process, so that no time without consent is
// missed while the role moves.
//
//	sync/consent/PATIENT/VENDOR       whether there is consent, and since when
//	sync/plan/LINK                    the plan as JSON
//	sync/inbox/VENDOR/TIME-RANDOM     time of receipt and body of a notification
//	sync/seen/VENDOR/KEY              empty; until the notification can no longer be repeated
//	sync/new/VENDOR/TIME-RANDOM       mark of a notification that the holder has not seen
//	sync/pull/LINK                    random id of a request to poll
//	sync/budget/VENDOR                the budget of a vendor as JSON
package sync
