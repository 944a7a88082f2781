// Package readcache caches single resources and small state.
package readcache
