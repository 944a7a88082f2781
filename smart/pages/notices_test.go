package pages_test

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestPatientIsNotifiedOfEmergencyAccess checks that every page notifies a
// patient of emergency access to their data, and only theirs, until they
// acknowledge it, and that the list shows who used it and the result of the
// review.
func TestPatientIsNotifiedOfEmergencyAccess(t *testing.T) {
	const banner = "opened in an emergency"
	w := newWorld(t)
	ada := w.browser()
	k := ada.enroll(w.invite("ada", "Ada Beispiel", "patient"))
	ada.get("/auth/notices").status(200).has("No one has used emergency access")
	doc := w.browser()
	doc.enroll(w.invite("doc", "Dr. Doc", "practitioner"))
	openGlass := func(patient string) {
		doc.get("/auth/emergency?patient="+patient).post("/auth/emergency",
			url.Values{"patient": {patient}, "reason": {"unconscious after a fall"}}).status(200).has("Open now")
	}
	openGlass("ben")
	if ada.get("/auth/"); strings.Contains(ada.body, banner) {
		t.Error("the patient is notified of another patient's data")
	}
	openGlass("ada")
	for _, page := range []string{"/auth/", "/auth/apps", "/auth/enrol"} {
		ada.get(page).status(200).has(banner, "/auth/notices")
	}
	ada.get("/auth/notices").has("Dr. Doc", "open now", "not reviewed yet")
	if strings.Contains(ada.body, "unconscious") {
		t.Error("the patient sees the reason, which is for reviewers only")
	}
	foreign := between(doc.body, `action="/auth/emergency/`, `"`)
	id := between(ada.body, `name="id" value="`, `"`)
	if foreign == id {
		foreign = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	}
	ada.post("/auth/notices", url.Values{"id": {foreign}}).status(404)
	ada.get("/auth/notices").post("/auth/notices", url.Values{"id": {id}}).status(200).has("Thank you")
	if ada.get("/auth/"); strings.Contains(ada.body, banner) {
		t.Error("the patient is notified again after the acknowledgment")
	}
	if w.events("emergency-access-acknowledged") != 1 {
		t.Error("the acknowledgment is not recorded")
	}
	// The next emergency access causes a new notification. Earlier ones stay
	// listed with their review.
	w.pass(4 * time.Hour)
	doc.get("/auth/signin")
	aud := w.browser()
	aud.enroll(w.invite("aud", "Audi Tor", "auditor"))
	aud.get("/auth/reviews")
	for _, part := range strings.Split(aud.body, "<section")[1:] {
		if strings.Contains(part, "<dd>ada</dd>") {
			aud.post("/auth/reviews/"+between(part, `action="/auth/reviews/`, `"`),
				url.Values{"verdict": {"not"}, "note": {"no emergency"}}).status(200)
		}
	}
	ada.get("/auth/signin").passkey("/auth/passkey", k.Get)
	ada.get("/auth/notices").has("Dr. Doc", "found not justified")
	doc.get("/auth/notices").status(200).at("/auth/signin")
	aud.get("/auth/notices").status(403)
}
