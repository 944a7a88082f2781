// Package consent decides what a patient's consents allow: which vendor's data
// may be collected, and which recipient may see which resources.
//
// It owns: the meaning of a FHIR R4 Consent on this server and its compilation;
// a cache of compiled consents that is updated before the writer of a Consent
// gets its response; building and withdrawing Consent resources; and the rules for
// Consents that clients write (Engine.Check).
//
// It does not own: scopes (smart/scope), which clients are registered to record
// Consents (smart/client), or where decisions are enforced (fhir/access).
//
// # Representation
//
// A Consent counts if its status is active, its scope contains patient-privacy
// and Consent.patient references the patient. Within provision:
//
//	type       permit or deny. At the root it may be absent: then policyRule
//	           OPTIN permits and everything else denies.
//	period     when the provision is in force; dates without a zone are in UTC,
//	           both ends are included.
//	actor      recipients: role IRCP of v3-ParticipationType and a reference by
//	           identifier. With system <Canonical>/identifier/client, the value
//	           is a client id or "any". With system
//	           <Canonical>/identifier/authorization, it is the id of an
//	           authorization that a person gave an app, and applies to the tokens
//	           of this authorization only. A permit must name its recipients,
//	           itself or in an enclosing provision.
//	action     of HL7's consentaction: collect covers ingest; access and disclose
//	           cover showing data; no action means all.
//	class      resource types; no class means all.
//	code       system <Canonical>/CodeSystem/vendor: the code of a vendor; no
//	           such code means all. System observation-category (HL7's, or
//	           <Canonical>/CodeSystem/observation-category for codes that HL7
//	           does not have, such as sleep): categories; no such code means all.
//	provision  exceptions; a deny beats a permit, the deepest match decides.
//
// Any other element (purpose, securityLabel, other actions, dataPeriod, data,
// a modifierExtension, codes of other systems) is not understood. A permit with
// such an element permits nothing; a deny with one denies everything. Across
// several Consents a deny beats a permit. Without a Consent nothing is permitted.
//
// # Rules
//
// Data of a vendor is visible under a permit for the vendor, the recipient and all
// of the data's categories. The category sleep refines activity. Data with both
// categories is covered by a permit for either and denied by a denial of either; a
// permit for sleep alone does not cover other activity. The category location refines
// activity as well, but it is covered only by a provision that permits and names it
// itself: a permit for activity or for all categories does not show or collect where
// the patient was. A denial of activity denies location, too, and a permit for location
// alone covers nothing else. Device and Provenance have
// no categories, so vendor and recipient decide. Data without a vendor was written
// by a client: any permit that names the recipient covers it, within the permit's
// categories. Its author may read it back unless a consent denies that, or unless
// one was withdrawn and no active one covers the data.
//
// # Apps
//
// When a patient authorizes an app, ForApp records a Consent for that
// authorization. It permits disclosure only; a Consent with authorizations as its
// only recipients does not permit collection. The token decides about scopes; the
// Consent lists them for readers only. The patient's latest decision counts: after
// another Consent that covered the same data for the app has been withdrawn, the
// app does not see that data until it is authorized again.
//
// When a patient stops an app, Refuse records a denial of disclosure for the
// client id, so that it applies to every user of the app. To lift it, the denial
// is deleted, because a denial that is no longer in force has no meaning.
//
// # Withdrawal
//
// A Withdrawal ends the patient's permits for all vendors or for one. A Consent
// without other permits becomes inactive. A Consent that also covers other vendors
// is narrowed to those. A denial within a Consent that ends becomes a separate
// Consent. An inactive Consent records the withdrawal. None of these is a denial
// of the withdrawn data, so a new consent permits it again, while data that was
// denied stays denied. (Data written by clients has no vendor, so a denial that
// was part of a Consent for one vendor no longer applies to it.)
//
// The permits for locations can be withdrawn by themselves (Withdrawal.PlanLocations),
// for all vendors and recipients: a Consent for locations alone ends, and others lose
// that category.
//
// # Who writes a Consent
//
// The patient's pages (smart/appconsent) and the operator write Consents. A client
// may write one only if the operator has registered it for that
// (access.Grant.RecordsConsent); scopes alone do not suffice. These rules apply:
//
//   - It may change and delete only Consents that it recorded itself, and only if
//     they are neither withdrawn nor deny anything.
//   - It may not change Consent.patient, name an authorization, or use an id that
//     begins with app- or stop-.
//   - It may not record a permit for a patient who has withdrawn a Consent or who
//     has stopped this client. If a client's permit was stored at or after the
//     first withdrawal nevertheless, the permit is ignored.
//   - It may not record more than half of the Consents that are compiled for one
//     patient (Options.Limit).
//
// Source: https://hl7.org/fhir/R4/consent.html
package consent
