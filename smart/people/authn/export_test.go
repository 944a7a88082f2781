package authn

// Guessable exports guessable, which is much cheaper than Set.
func Guessable(password string, words ...string) error { return guessable(password, words) }
