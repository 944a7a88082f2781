// Package salvage copies the readable part of a damaged store to a new one, and
// derives the rows that are lost from others where it can.
package salvage
