// Package consent answers what a patient's consents allow: which vendor's
// data may be collected, and which recipient may see what.
//
// It owns: the meaning of a FHIR R4 Consent on this server, its compilation,
// a cache of compiled consents that a change reaches before its writer is
// answered, the making and withdrawing of Consent resources, and what a client
// may write of them (Engine.Check). It does not own: scopes (smart/scope),
// which clients are registered to record Consents (smart/client), or where the
// decision is applied (fhir/access).
//
// # Representation
//
// A Consent counts when its status is active, its scope holds patient-privacy
// and Consent.patient names the patient. Within provision:
//
//	type       permit or deny. At the root it may be absent: then policyRule
//	           OPTIN permits and everything else denies.
//	period     when the provision is in force; dates without a zone are UTC,
//	           both ends included.
//	actor      recipients: role IRCP of v3-ParticipationType, reference by
//	           identifier with system <Canonical>/identifier/client and the
//	           client id, or "any"; or with system
//	           <Canonical>/identifier/authorization and the id of what a
//	           person allowed an app: the tokens of that, and no other of the
//	           same client. A permit must name its recipients, itself or by a
//	           provision around it.
//	action     of HL7's consentaction: collect is to take data in, access and
//	           disclose are to give it out; no action means all.
//	class      resource types; no class means all.
//	code       system <Canonical>/CodeSystem/vendor: a vendor's code; no
//	           such code means all. System observation-category (HL7's, or
//	           <Canonical>/CodeSystem/observation-category for what HL7 has no
//	           code for, such as sleep): categories; no such code means all.
//	provision  exceptions; a deny beats a permit, the deepest match decides.
//
// Any other element (purpose, securityLabel, other actions, dataPeriod, data,
// a modifierExtension, codes of other systems) is not understood: a permit
// that holds one permits nothing, a deny that holds one denies everything.
// Across several Consents a deny beats a permit, and no Consent means no.
//
// # Rules
//
// Data of a vendor is seen under a permit for that vendor, the recipient and
// all of its categories. The category sleep is a refinement of activity: what
// is both is covered by a permit for either, and denied by a denial of either;
// a consent to sleep alone covers no other activity. Device and Provenance have no categories: for them
// vendor and recipient decide. Data without a vendor was written by a client:
// any permit that names the recipient covers it, categories still apply; and
// its author may read it back unless a consent denies it, or one was
// withdrawn and no active one covers it.
//
// # Apps
//
// What a patient allows an app is a Consent of its own (ForApp), for the one
// authorization, to disclose and not to collect; no Consent for authorizations
// alone collects. Which scopes it has is asked
// of the token; they stand in the Consent for who reads it. A patient's last
// word counts: the withdrawal of another Consent, which had covered the same
// data for that app, ends the app's view of it until the app is allowed anew.
//
// What a patient refuses an app (Refuse) is a denial to disclose that names the
// client, so it holds for whoever uses the app; to take it back is to delete
// it, for a denial that is over has nothing left to withdraw.
//
// # Withdrawal
//
// A Taking ends what a patient agreed to, of all vendors or of one. A Consent
// that permits nothing else becomes inactive; one that is about other vendors
// too names those from then on; a denial within a Consent that ends becomes a
// Consent of its own. An inactive Consent records what was taken back. Nothing
// of it is a denial, so a new consent opens the data again, and what had been
// denied is still denied. (Data of clients has no vendor: a denial that lay
// within a Consent to one vendor no longer reaches it.)
//
// # Who writes a Consent
//
// The patient's pages (smart/appconsent) and the operator. A client writes one
// only if the operator has registered it for that (access.Grant.RecordsConsent),
// whatever its scopes are, and then
//
//   - it changes and deletes only what it recorded itself, and of that neither
//     a withdrawn Consent nor one that denies something;
//   - it does not change Consent.patient, does not name an authorization, and
//     does not take an id that begins with app- or stop-;
//   - it records no permit for a patient who has withdrawn a Consent or who has
//     stopped this client. A permit that a client recorded at or after the
//     first withdrawal counts for nothing, should it be stored all the same;
//   - it records no more than half of what is compiled for one patient
//     (Options.Limit).
//
// Source: https://hl7.org/fhir/R4/consent.html
package consent
