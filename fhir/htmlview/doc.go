// Package htmlview shows a FHIR resource as a page for people with a browser: its JSON or
// XML in colors, with references, canonical URLs of this server and page links as
// links, and its narrative.
//
// It owns the page and its Content-Security-Policy. It does not own negotiation, access
// or the HTTP answer (fhir/rest).
//
// # Safety
//
// All text of a resource is escaped, and links lead to this server only. The policy
// allows one inline stylesheet by its hash, and no scripts, images, forms or fetches. The
// narrative is shown in a frame with an empty sandbox, which inherits the policy: it
// cannot run code, load anything or leave the frame.
//
// A page needs the same token in the Authorization header as FHIR. There is no access by
// cookie, and no token is ever in a URL.
package htmlview
