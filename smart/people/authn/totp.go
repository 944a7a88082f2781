package authn

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/url"
	"strings"
	"time"
)

const (
	totpPeriod = 30 // seconds
	totpSecret = 20 // bytes, as RFC 4226 4 R6 recommends
	// Recovery is the number of recovery codes per user.
	Recovery = 10
)

var base32Code = base32.StdEncoding.WithPadding(base32.NoPadding)

// NewSecret returns a random TOTP secret.
func NewSecret() []byte {
	b := make([]byte, totpSecret)
	_, _ = rand.Read(b) // crypto/rand never fails
	return b
}

// SecretText encodes a secret for typing by hand.
func SecretText(secret []byte) string { return base32Code.EncodeToString(secret) }

// ParseSecret decodes SecretText, with or without spaces. It returns nil if the
// text is invalid.
func ParseSecret(s string) []byte {
	b, err := base32Code.DecodeString(strings.ToUpper(digits(s)))
	if err != nil {
		return nil
	}
	return b
}

// KeyURI returns the otpauth URI of a secret, which authenticator apps read
// from a QR code.
func KeyURI(secret []byte, issuer, login string) string {
	q := url.Values{"secret": {SecretText(secret)}, "issuer": {issuer}, "algorithm": {"SHA1"}, "digits": {"6"},
		"period": {"30"}}
	return "otpauth://totp/" + url.PathEscape(issuer+":"+login) + "?" + strings.ReplaceAll(q.Encode(), "+", "%20")
}

// code computes the HOTP value of RFC 4226 5.3 with six digits.
func code(secret []byte, step int64) string {
	mac := hmac.New(sha1.New, secret)
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(step))
	mac.Write(b[:])
	sum := mac.Sum(nil)
	at := sum[len(sum)-1] & 15
	n := binary.BigEndian.Uint32(sum[at:]) & 0x7fffffff
	return fmt.Sprintf("%06d", n%1e6)
}

// Code returns the code that an authenticator shows at t.
func Code(secret []byte, t time.Time) string { return code(secret, t.Unix()/totpPeriod) }

// MatchTOTP compares a code with the current time step and its two neighbors.
// Steps up to last were used before and do not match. The caller stores the
// returned step as last in the commit of the sign-in. The comparison takes
// constant time.
func MatchTOTP(secret []byte, typed string, now time.Time, last int64) (step int64, ok bool) {
	typed = digits(typed)
	at := now.Unix() / totpPeriod
	found := 0
	for s := at - 1; s <= at+1; s++ {
		same := subtle.ConstantTimeCompare([]byte(code(secret, s)), []byte(typed))
		fresh := 0
		if s > last {
			fresh = 1
		}
		hit := same & fresh & (1 - found)
		step = int64(subtle.ConstantTimeSelect(hit, int(s), int(step)))
		found |= hit
	}
	return step, found == 1
}

// digits removes spaces, which people type between groups of digits.
func digits(s string) string { return strings.Join(strings.Fields(s), "") }

// NewRecovery returns recovery codes of 80 random bits each, and their hashes.
func NewRecovery() (codes, hashes []string) {
	for range Recovery {
		b := make([]byte, 10)
		_, _ = rand.Read(b) // crypto/rand never fails
		s := strings.ToLower(base32Code.EncodeToString(b))
		s = s[:4] + "-" + s[4:8] + "-" + s[8:12] + "-" + s[12:]
		codes, hashes = append(codes, s), append(hashes, recoveryHash(s))
	}
	return codes, hashes
}

func recoveryHash(s string) string {
	s = strings.ToLower(strings.NewReplacer("-", "", " ", "").Replace(s))
	sum := sha256.Sum256([]byte("pulsegate recovery\x00" + s))
	return hex.EncodeToString(sum[:])
}

// MatchRecovery returns the index of a recovery code among the unused ones, or
// -1.
func MatchRecovery(hashes []string, typed string) int {
	h, found := recoveryHash(typed), -1
	for i, hash := range hashes {
		if subtle.ConstantTimeCompare([]byte(h), []byte(hash)) == 1 {
			found = i
		}
	}
	return found
}
