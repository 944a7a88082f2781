// Package authn proves that somebody is who they say: passkeys, one-time
// codes, recovery codes, passwords, and the hospital's OpenID provider.
//
// It owns: the checks of each authenticator, the sealing of what must be kept
// secret at rest, and the delays after failures. It does not own: who has
// which authenticator (smart/people/user), what a sign-in begins (smart/people/signin,
// smart/people/session). Nothing here writes; what has to be kept is given back, for
// the caller's own commit.
//
// Passkeys (WebAuthn) need user verification, so one of them is two factors
// and phishing-resistant. A signature counter that does not rise is a clone
// and is refused: go-webauthn only sets a mark. A password never suffices: it
// goes with a one-time code or a recovery code, in one form and with one
// answer, so that nobody learns which of the three was wrong, or whether there
// is such a user.
//
// # What a sign-in is worth
//
//	acr   how                                              amr
//	phr   passkey with user verification                   hwk user mfa
//	mfa   password and one-time code (or recovery code)    pwd otp mfa
//	0     the provider said neither                        ext
//
// phr is from OpenID Connect Extended Authentication Profile ACR Values 1.0;
// amr values are from RFC 8176. acr from the provider is translated by
// configuration.
//
// # Delays
//
// After five failures in a row each further try has to wait, twice as long
// each time, at most 15 minutes. What counts the failures is the account at a
// browser that has signed in with it before (it holds a device cookie), and
// the account at all other browsers together: an outsider slows other
// outsiders down, never the owner at their own browser, and never a passkey,
// which cannot be guessed. An address that fails with many accounts waits by
// itself. The account is the name as typed, so it makes no difference whether
// there is such a user.
//
//	throttle/<SHA-256 of what is counted>   failures in a row and the time of the last, JSON
//
// Sources: W3C WebAuthn Level 3; RFC 6238; RFC 4226; RFC 9106; OpenID Connect
// Core 1.0; NIST SP 800-63B; OWASP ASVS 5.0 V6.
package authn

// Authentication context class references.
const (
	PhishingResistant = "phr"
	MultiFactor       = "mfa"
	SingleFactor      = "0"
)

// Rank orders them; what is unknown ranks lowest.
func Rank(acr string) int {
	switch acr {
	case PhishingResistant:
		return 2
	case MultiFactor:
		return 1
	}
	return 0
}
