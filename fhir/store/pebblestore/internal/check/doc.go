// Package check checks the consistency of a store: all tables, or the rows of one type.
package check
