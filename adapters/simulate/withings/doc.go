// Package withings simulates the cloud of Withings as its API reference and developer
// guide (developer.withings.com) describe it: the public API with OAuth 2.0, reads with
// pages, and notifications.
//
//	GET, POST /oauth2_user/authorize2  page on which a wearer signs in and gives consent
//	POST      /v2/oauth2               requesttoken, revoke
//	POST      /v2/signature            getnonce
//	POST      /measure                 getmeas
//	POST      /v2/measure              getactivity
//	POST      /v2/sleep                getsummary
//	POST      /notify                  subscribe, get, list, revoke
//
// Answers have HTTP status 200 and their own status in the body. A refresh replaces the
// refresh token; the former one remains valid for eight hours or until the new access
// token is used. An application may send 120 requests a minute and is then answered with
// status 601. The callback of a subscription is verified with HEAD, and a notification is
// sent in five cycles of two attempts each.
//
// The documents say that users correct and delete measures, and that notifications
// announce it. Deleted measures are missing from the lists. A night may be analyzed again
// at the next synchronization, and the totals of a day grow during the day.
package withings
