// Package authn verifies the authenticators of people: passkeys, one-time
// codes, recovery codes, passwords, and the hospital's OpenID provider.
//
// It owns: the verification of each authenticator, the sealing of secrets at
// rest, and the delays after failures. It does not own: the enrollment of
// authenticators (smart/people/user), or the start of a session
// (smart/people/signin, smart/people/session). It writes nothing itself; it
// returns writes for the caller's own commit.
//
// A passkey (WebAuthn) requires user verification, so it counts as two factors
// and resists phishing. A signature counter that does not increase indicates a
// clone and is refused; go-webauthn only sets a flag. A password is accepted
// only together with a one-time code or a recovery code, in one form with one
// error, so that the response reveals neither which of them was wrong nor
// whether the user exists.
//
// # Authentication contexts
//
//	acr   authenticators                                   amr
//	phr   passkey with user verification                   hwk user mfa
//	mfa   password and one-time code (or recovery code)    pwd otp mfa
//	0     provider that asserts neither                    ext
//
// phr comes from OpenID Connect Extended Authentication Profile ACR Values 1.0,
// the amr values from RFC 8176. The configuration maps the provider's acr
// values.
//
// # Delays
//
// After five consecutive failures every further attempt has to wait. The wait
// doubles each time, up to 15 minutes. Failures are counted per account at a
// browser that has signed in with the account before, identified by its device
// cookie, and per account at all other browsers together. An attacker can
// therefore delay other attackers, but not the owner at their own browser, and
// never a passkey, which cannot be guessed. Failures are also counted per
// network address, over all accounts. The account is the name as entered, so
// the behavior does not reveal whether the user exists.
//
//	throttle/<SHA-256 of the counter's name>   consecutive failures and time of the last one, JSON
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

// Rank orders acr values by strength. Unknown values rank lowest.
func Rank(acr string) int {
	switch acr {
	case PhishingResistant:
		return 2
	case MultiFactor:
		return 1
	}
	return 0
}
