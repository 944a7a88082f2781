// Package searchparameter holds the search parameters of this moment: those of R4, and
// those that the active SearchParameter resources of the store define.
//
// It owns the registry that searches, index rows and the CapabilityStatement use
// (Parameters.Registry), and the rules for a SearchParameter that becomes active (Check).
// It does not own what a definition may say (search.ParseDefinition), the rows of the
// index (fhir/store/reindex), nor the permission to write: that is fhir/access, as for
// other definitions. The roles of persons do not include SearchParameters, so that a
// client needs a system/ scope.
//
// # What is in effect
//
// A definition is in effect while its SearchParameter has the status active. Another
// status or a deletion ends it. A search that names it then fails as with an unknown
// parameter, and the rows of its index are removed in the background.
//
// Every process follows the commits that it shows. A watcher of the store reads what a
// commit has changed before the writer gets its answer, and in a cluster before
// Store.Sync returns. So a search never uses a registry older than the last commit that
// its process shows.
//
// A parameter can be searched at once. Until the index has the rows of all older
// resources, searches read every resource of the type, which is slower but complete.
// States tells how far the index is.
//
// Granular scopes, compartments and consent use R4's parameters only: no resource that a
// client writes changes what anybody may see. Subscriptions and topics use R4's
// parameters, too, and refuse others.
//
// A SearchParameter whose derivedFrom names R4's parameter of the same code, type and bases
// documents how that parameter is used, as most of US Core's do. It is stored and defines
// nothing: R4's parameter answers the searches.
//
// # Bounds
//
// A definition counts once for each of its base types. There are at most 1000 in effect,
// and at most 64 per type. Check refuses more. Definitions that were accepted at the same
// time and that together exceed a bound, or have the same code, are ordered by id: the
// first ones are in effect, and States names the others.
package searchparameter
