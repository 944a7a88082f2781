package authn

// Guessable is guessable without the work of storing the password.
func Guessable(password string, words ...string) error { return guessable(password, words) }
