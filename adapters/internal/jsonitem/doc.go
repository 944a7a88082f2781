// Package jsonitem reads large JSON bodies one item at a time: the outer
// objects and arrays are streamed, an item (a data point, a document) is
// built as a small tree within a bound of size and depth. It also reads the
// decimals, instants and days that vendor APIs write. It knows no vendor.
package jsonitem
