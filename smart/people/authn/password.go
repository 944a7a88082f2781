package authn

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"pulsegate/fhir"
)

// Parameters of Argon2id, from OWASP's Password Storage Cheat Sheet.
const (
	argonMemory = 19 << 10 // KiB
	argonTime   = 2
	argonLanes  = 1
	argonKey    = 32

	minPassword = 12
	maxPassword = 256
)

// Breached looks up passwords that are known to attackers.
type Breached interface {
	// Breached reports whether a password is known, given its SHA-1 in
	// lower-case hex.
	Breached(ctx context.Context, sha1 string) (bool, error)
}

// Passwords hashes and verifies passwords. It computes at most two hashes at a
// time, which bounds the memory of many concurrent attempts.
type Passwords struct {
	breached Breached
	slots    chan struct{}
	dummy    string
}

// NewPasswords returns Passwords. b is a list in addition to the one of package
// stolen, and may be nil.
func NewPasswords(b Breached) *Passwords {
	p := &Passwords{breached: b, slots: make(chan struct{}, 2)}
	p.dummy = encode(make([]byte, 16), derive("", make([]byte, 16)))
	return p
}

func derive(password string, salt []byte) []byte {
	return argon2.IDKey([]byte(norm.NFC.String(password)), salt, argonTime, argonMemory, argonLanes, argonKey)
}

func encode(salt, key []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonLanes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

func (p *Passwords) slot(ctx context.Context) error {
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fhir.Errorf(fhir.Unavailable, "authn.Passwords", "try again")
	}
}

// Set checks a new password and returns its hash. words are texts that the
// password must not contain, such as the login and the name. An error of kind
// Invalid names the broken rule.
func (p *Passwords) Set(ctx context.Context, password string, words ...string) (string, error) {
	const op = "authn.Set"
	if err := guessable(password, words); err != nil {
		return "", err
	}
	if p.breached != nil {
		sum := sha1.Sum([]byte(password))
		bad, err := p.breached.Breached(ctx, hex.EncodeToString(sum[:]))
		if err != nil {
			return "", fhir.Wrap(op, err)
		}
		if bad {
			return "", fhir.Errorf(fhir.Invalid, op,
				"password: it is in a list of stolen passwords; choose another one")
		}
	}
	if err := p.slot(ctx); err != nil {
		return "", err
	}
	defer func() { <-p.slots }()
	salt := make([]byte, 16)
	_, _ = rand.Read(salt) // crypto/rand never fails
	return encode(salt, derive(password, salt)), nil
}

// Match compares a password with a stored hash. If stored is empty, because the
// user has no password or does not exist, it takes the same time and returns
// false.
func (p *Passwords) Match(ctx context.Context, stored, password string) (bool, error) {
	real := stored != ""
	if !real {
		stored = p.dummy
	}
	parts := strings.Split(stored, "$")
	if len(parts) != 6 || len(password) > maxPassword {
		return false, nil
	}
	var m, t uint32
	var lanes uint8
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &m, &t, &lanes); err != nil {
		return false, fhir.Wrap("authn.Match", err)
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fhir.Wrap("authn.Match", err)
	}
	key, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil {
		return false, fhir.Wrap("authn.Match", err)
	}
	if err := p.slot(ctx); err != nil {
		return false, err
	}
	defer func() { <-p.slots }()
	got := argon2.IDKey([]byte(norm.NFC.String(password)), salt, t, m, lanes, uint32(len(key)))
	return subtle.ConstantTimeCompare(got, key) == 1 && real, nil
}

// breachedFile is a list of SHA-1 prefixes in memory.
type breachedFile struct {
	length int
	have   map[string]bool
}

const (
	minPrefix    = 10 // hex digits; the false positive rate is one in 10^12 per line
	maxBreached  = 256 << 20
	maxHashLines = 5_000_000
)

// ReadBreached reads a list with one SHA-1, or one prefix of it, per line in
// hex, all of the same length. Anything after a colon, such as a count, is
// ignored.
func ReadBreached(r io.Reader) (*breachedFile, error) {
	const op = "authn.ReadBreached"
	f := &breachedFile{have: map[string]bool{}}
	sc := bufio.NewScanner(io.LimitReader(r, maxBreached))
	for n := 1; sc.Scan(); n++ {
		h, _, _ := strings.Cut(strings.TrimSpace(sc.Text()), ":")
		if h == "" {
			continue
		}
		h = strings.ToLower(h)
		if f.length == 0 {
			f.length = len(h)
		}
		if len(h) != f.length || len(h) < minPrefix || len(h) > 40 || strings.Trim(h, "0123456789abcdef") != "" {
			return nil, fhir.Errorf(fhir.Invalid, op,
				"line %d: it must be a SHA-1 hash or a prefix of one, %d to 40 hex digits, of the same length as the other lines", n, minPrefix)
		}
		if f.have[h] = true; len(f.have) > maxHashLines {
			return nil, fhir.Errorf(fhir.TooLarge, op, "more than %d lines", maxHashLines)
		}
	}
	return f, fhir.Wrap(op, sc.Err())
}

// Breached implements Breached.
func (f *breachedFile) Breached(_ context.Context, sha1 string) (bool, error) {
	return f.length > 0 && len(sha1) >= f.length && f.have[sha1[:f.length]], nil
}
