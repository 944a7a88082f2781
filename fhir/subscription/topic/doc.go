// Package topic defines the topics of subscriptions: what fires them, by which
// parameters a Subscription may narrow them, and what notifications contain besides
// the resource that fired.
//
// It owns: the model of a topic, reading it from a SubscriptionTopic of R5 or from a
// Basic of R4, writing it as a Basic, the evaluation of triggers, and the topics that
// every server has. It does not own Subscriptions, events or their delivery.
//
// # Forms
//
// R4 has no SubscriptionTopic. The Subscriptions R5 Backport guide represents one as
// a Basic whose code is SubscriptionTopic and whose extensions hold the elements of
// R5. In the guide's example, simple elements have URLs of version 5.0, and
// resourceTrigger, canFilterBy and notificationShape have URLs of version 4.3. Basic
// writes these. Parse accepts both versions for each element.
//
// # Triggers
//
// A resourceTrigger names a type and the interactions create, update and delete; if it
// names none, all three count. Its queryCriteria are searches on the previous and the
// current version. If requireBoth is true, both must match, otherwise one suffices. On
// a create there is no previous version, and resultForCreate is the result of previous;
// on a delete, resultForDelete is the result of current. R5 gives them no default; here
// it is test-fails. A criterion that is not given counts only if the other is not given
// either. fhirPathCriteria has the variables %previous and %current, which are empty if
// the version does not exist. R5 says that the author gives both forms to mean the
// same; here both must hold. now() is the time of the current version, so that a
// trigger has the same result after a restart. Errors and exceeded limits do not fire.
//
// Chained parameters and _has are not supported in criteria, nor are eventTriggers.
package topic
