package fhirpath

// Check reports what is wrong with the expression on a type of R4.
func (e *Expression) Check(typ string) error { return nil }
