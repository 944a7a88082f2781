package relay

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"sync"
	"time"

	"pulsegate/fhir/cluster/sealed"
)

// protocol is the version of the protocol in ALPN. It is raised with every change
// of frames or of package wire.
const protocol = "pulsegate-relay/1"

const (
	peerName = "peer.pulsegate.internal" // the name in every certificate
	leafLife = 24 * time.Hour
	maxSkew  = time.Hour // of the clocks of two processes
)

// Trust authenticates the processes of a cluster to each other. The cluster key
// determines the key of a certificate authority, so that every process that has the
// cluster key, and no other, can issue itself a certificate. It is safe for concurrent
// use.
type Trust struct {
	clock func() time.Time
	pool  *x509.CertPool
	ca    *x509.Certificate
	caKey ed25519.PrivateKey

	mu   sync.Mutex
	leaf *tls.Certificate
	next time.Time // when another certificate is issued
}

// NewTrust returns the Trust of a cluster. Peers with either of two keys are
// accepted.
func NewTrust(keys sealed.Keys, clock func() time.Time) (*Trust, error) {
	t := &Trust{clock: clock, pool: x509.NewCertPool()}
	for i, k := range keys.All() {
		key := ed25519.NewKeyFromSeed(sealed.Derive(k, "relay certificate authority", ed25519.SeedSize))
		ca, err := authority(key)
		if err != nil {
			return nil, err
		}
		t.pool.AddCert(ca)
		if i == 0 {
			t.ca, t.caKey = ca, key
		}
	}
	_, err := t.certificate()
	return t, err
}

// authority returns the certificate of a certificate authority. It is the same in
// every process, because Ed25519 signatures are.
func authority(key ed25519.PrivateKey) (*x509.Certificate, error) {
	id := sha256.Sum256(key.Public().(ed25519.PublicKey))
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1),
		Subject:   pkix.Name{CommonName: "Pulsegate cluster"},
		NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
		SubjectKeyId: id[:20]}, &x509.Certificate{Subject: pkix.Name{CommonName: "Pulsegate cluster"}, SubjectKeyId: id[:20]},
		key.Public(), key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// certificate returns the certificate of this process, which is replaced when half
// of its life is over.
func (t *Trust) certificate() (*tls.Certificate, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.clock()
	if t.leaf != nil && now.Before(t.next) && now.After(t.next.Add(-leafLife)) {
		return t.leaf, nil
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: serial,
		Subject: pkix.Name{CommonName: "Pulsegate server"}, DNSNames: []string{peerName},
		NotBefore: now.Add(-maxSkew), NotAfter: now.Add(leafLife), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}, t.ca, pub, t.caKey)
	if err != nil {
		return nil, err
	}
	t.leaf, t.next = &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, now.Add(leafLife/2)
	return t.leaf, nil
}

// config returns what both sides of a connection require.
func (t *Trust) config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{protocol}, Time: t.clock,
		SessionTicketsDisabled: true, // every connection presents a certificate
		VerifyConnection: func(s tls.ConnectionState) error {
			if s.NegotiatedProtocol != protocol {
				return errVersion
			}
			return nil
		}}
}

var errVersion = errors.New("relay: the peer has no version of the protocol in common")

// server returns the configuration of a listener.
func (t *Trust) server() *tls.Config {
	c := t.config()
	c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, t.pool
	c.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return t.certificate() }
	return c
}

// client returns the configuration of a connection to a peer.
func (t *Trust) client() *tls.Config {
	c := t.config()
	c.RootCAs, c.ServerName = t.pool, peerName
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return t.certificate() }
	return c
}
