// Package fault describes errors of Pebble and the file system without the keys that
// their texts quote, and walks rows past damaged blocks.
package fault
