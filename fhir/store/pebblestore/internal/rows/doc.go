// Package rows encodes and decodes the values of pebblestore's rows, and reads single
// rows. The comment of package pebblestore lists them.
package rows
