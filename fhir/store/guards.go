package store

// InUseGuard returns the guard that a commit touches when it writes a resource that
// refers to the Patient with this id. The deletion of the Patient checks it.
func InUseGuard(patient string) string { return "in-use/" + patient }

// DeletedGuard returns the guard that a commit touches when it deletes the Patient with
// this id. A commit that writes a resource that refers to the Patient checks it.
func DeletedGuard(patient string) string { return "deleted/" + patient }

// TypeGuard returns the guard that a commit touches when it writes a resource of a type,
// or deletes one, whichever way it is written. AuditEvents have none.
func TypeGuard(typ string) string { return "type/" + typ }

// Refer ties b, which writes resources that refer to patients, to the existence of these
// Patients. The writer has found them with b.Seen or later.
func (b *Batch) Refer(patients ...string) {
	for _, p := range patients {
		b.Guards = append(b.Guards, DeletedGuard(p))
		b.Touches = append(b.Touches, InUseGuard(p))
	}
}

// Abandon ties b, which deletes Patients, to the absence of other resources that refer
// to them. The writer has found none with b.Seen or later. Consents count without Refer.
func (b *Batch) Abandon(patients ...string) {
	for _, p := range patients {
		b.Guards = append(b.Guards, InUseGuard(p), ConsentGuard(p))
		b.Touches = append(b.Touches, DeletedGuard(p))
	}
}
