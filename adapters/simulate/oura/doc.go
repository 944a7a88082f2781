// Package oura simulates the cloud of Oura: the OAuth endpoints of both identity
// providers, the Oura API v2, and webhooks. A client written against Oura's documents
// works with it unmodified.
//
//	GET, POST /oauth/authorize                       login and consent page (legacy provider)
//	POST /oauth/token, /oauth/revoke                 legacy provider
//	/oauth/v2/ext/oauth-authorize, oauth-token,      the same for clients of the provider of 2026
//	  oauth-revoke, oauth-introspect
//	GET /v2/usercollection/TYPE[/ID]                 documents and time series
//	/v2/webhook/subscription[/ID], .../renew/ID      subscriptions
//
// # Data
//
// Documents appear, change and vanish when a wearer's phone syncs. The content of a
// document is a function of seed, wearer, day and revision, and the revisions are a
// function of seed and time, so that the server stores none of them. Server.Truth lists
// everything that the cloud holds at the time of the clock.
//
//	sleep               created after the night; edited bedtimes, nights marked as deleted, naps that
//	                    become "rest" and evening naps that vanish because they join the night
//	daily_sleep, ...    created with the night and restated with the same id; gone with a deleted night
//	daily_activity,     created in the morning, updated with every sync of the day, final after 04:00
//	  daily_stress
//	workout             detected, then confirmed or deleted
//	ring_configuration  one per wearer, updated with the firmware
//	heartrate, ring_battery_level   rows in bulk at each sync
//
// # Times
//
// The clock of the wearers may run faster than the clients'. Tokens, rate limits, the
// timestamp of a signature and subscriptions follow Options.Wall, the clock that clients
// compare them with.
package oura
