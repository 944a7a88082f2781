// Package fleet tests the flow from simulated vendor clouds into the store: wearers
// link their accounts, and data arrive by notifications, polls and reading the past,
// while the clouds restate, delete, fail and throttle. In the end, the store must
// hold exactly what the clouds hold.
package fleet
