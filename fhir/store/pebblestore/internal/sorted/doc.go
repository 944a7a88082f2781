// Package sorted sorts the matches of searches whose order no rows have. It sorts in
// memory up to a bound and on disk beyond it, and keeps results for the next pages.
//
// A position holds the sort keys of its match. If the result was dropped, the search
// is sorted again and the same page follows.
package sorted
