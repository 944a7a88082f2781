// Package keys builds and parses the keys of pebblestore. The comment of package
// pebblestore lists them.
package keys
