// Package jsonitem reads large JSON bodies item by item. It streams the outer objects
// and arrays, and builds each item, such as a data point or a document, as a small tree
// of limited size and depth. It also reads the decimals, instants and days that vendor
// APIs write. It is independent of vendors.
package jsonitem
