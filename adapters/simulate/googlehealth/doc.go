// Package googlehealth simulates the cloud of the Google Health API v4 as Google
// documents it (discovery document, revision 20261030), with the deviations that live
// answers were seen to have. One Server answers what Google spreads over four hosts:
//
//	GET  /o/oauth2/v2/auth             accounts.google.com: consent page
//	POST /o/oauth2/v2/auth             decision of the consent page
//	POST /token                        oauth2.googleapis.com: authorization_code with PKCE,
//	                                   refresh_token, jwt-bearer of service accounts
//	POST /revoke                       oauth2.googleapis.com
//	GET  /v4/users/me/dataTypes/{type}/dataPoints[:reconcile]
//	POST /v4/users/me/dataTypes/{type}/dataPoints:rollUp, :dailyRollUp
//	GET  /v4/users/me/dataTypes/{type}/dataPoints/{id}[:exportExerciseTcx]
//	GET  /v4/users/me/{identity,profile,settings,irnProfile,pairedDevices}
//	*    /v4/projects/{number}/subscribers[/{id}[/subscriptions[/{id}]]]
//	GET  /googlehealthapi/webhooks/webhooks_public_keyset.json
//	                                   www.gstatic.com
//
// Requests to write data points, profile or settings and SMART Health Links are answered
// 501.
//
// # Data
//
// Every value is a function of the seed, the number of the wearer, the day and the
// revision. A day is drawn when a request needs it, so that wearers cost nothing until
// they are read. A point appears with the sync that delivers
// it. Later the service and the wearer change it:
//
//   - A night arrives unprocessed (CLASSIC, one stage), and is processed 5 to 25 minutes
//     later (STAGES) under the same name with a later updateTime. Some nights are edited
//     by the wearer hours later, which moves the start, and some are deleted.
//   - The resting heart rate of a day is restated with the first sync of the next day;
//     the other daily values are in three of ten cases.
//   - Workouts are corrected and deleted, weights are deleted.
//   - Tracker and phone count the same steps. list has both, reconcile and the roll-ups
//     prefer the tracker.
//
// The types food, food-measurement-unit and basal-energy-burned exist and are empty.
//
// # Deviations that were seen live
//
// The page size of heart-rate is 50 unless it is stated. A full page always has a token,
// so that the last page may be {}; one page in twelve is empty with a token. reconcile
// repeats the summary of stages in some nights. exercise is
// filtered by civil time only. Notifications are mostly arrays, sometimes single objects.
//
// # Time
//
// Data and webhooks follow Options.Clock. Deliver sends what is due, Run does so until it
// is stopped. The interval of a notification contains the start of everything that has
// changed; a night that ends with the interval is found by its end only if the client
// includes the end of the interval.
package googlehealth
