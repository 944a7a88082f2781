package protocol

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// rows are what an attacker or a fault must not achieve (RFC 9700, RFC 6819,
// SMART App Launch 2.2, OWASP ASVS 5.0 V6, V7 and V10), each with the tests
// that hold it, as package.Test below smart/.
var rows = []struct {
	must  string
	tests []string
}{
	{"redirect URIs match byte for byte, http on loopback alone, no open redirector (RFC 9700 2.1)",
		[]string{"protocol.TestRedirectMatching", "protocol.TestUntrustedRedirectGetsNoResponse",
			"pages.TestNoOpenRedirect"}},
	{"PKCE with S256 alone; a verifier only with a challenge (RFC 7636, RFC 9700 2.1.1)",
		[]string{"protocol.TestPKCE", "protocol.TestCodesRefused"}},
	{"a code lives a minute and is used once; a second use ends its tokens (RFC 6749 4.1.2)",
		[]string{"protocol.TestCodesRefused", "protocol.TestSingleUseSurvivesKill"}},
	{"of two redemptions at once one wins, and loses what it won", []string{"protocol.TestConcurrentRedemptions"}},
	{"no implicit grant, no password grant",
		[]string{"protocol.TestErrorsReturnToApp", "protocol.TestRegistration", "token.TestRequestsRefused"}},
	{"iss in the answer, no CORS on the authorization endpoint (RFC 9207)",
		[]string{"protocol.TestClientTypesGetGrantedAccess", "protocol.TestErrorsReturnToApp"}},
	{"aud is checked by the authorization server and by the API",
		[]string{"protocol.TestErrorsReturnToApp", "token.TestAccessTokensRefused", "protocol.TestExternalIssuer"}},
	{"refresh tokens rotate; a replayed one ends the family",
		[]string{"protocol.TestRefresh", "protocol.TestReuseEndsAuthorization"}},
	{"grace of 5 s for an identical retry only", []string{"protocol.TestGracePeriodIsForIdenticalRetry"}},
	{"a thousand refreshes at once have one winner", []string{"protocol.TestConcurrentRefreshesHaveOneWinner"}},
	{"refresh for three months, absolute end after six", []string{"protocol.TestLifetimes"}},
	{"an assertion is used once, across a restart, a kill -9 and a clock that jumps (RFC 7523)",
		[]string{"token.TestReplay", "token.TestConcurrentReplaysHaveOneWinner",
			"protocol.TestReplayedAssertionAfterRestart", "protocol.TestSingleUseSurvivesKill", "protocol.TestClockJumps"}},
	{"an assertion lives 5 minutes at most; kid matches one key; jku is the registered URL",
		[]string{"token.TestAssertionsRefused"}},
	{"a client's key set is not cached past its Cache-Control", []string{"token.TestKeysByURL"}},
	{"access tokens of backends live 5 minutes at most, those of people 15",
		[]string{"token.TestAccessTokensRefused", "token.TestCachedTokenExpires", "protocol.TestLifetimes"}},
	{"a token from before the clock jumped is neither early nor late", []string{"protocol.TestClockJumps"}},
	{"the server's keys rotate under load and nobody is refused",
		[]string{"protocol.TestKeyRotationWithCachedKeySet", "protocol.TestKeyRotationDuringRequests",
			"token.TestKeyRotationOverlaps"}},
	{"a stolen token is worth nothing without its key; a proof is used once (RFC 9449)",
		[]string{"protocol.TestDPoP", "protocol.TestDPoPNonce"}},
	{"a stolen token is worth nothing without its certificate (RFC 8705)",
		[]string{"protocol.TestCertificateBound", "protocol.TestCertificateBoundBehindProxy"}},
	{"introspection tells the owner and who may ask; revocation holds at the next request (RFC 7662, RFC 7009)",
		[]string{"protocol.TestIntrospectionAndRevocation", "introspect.TestUnauthenticatedIntrospectionRefused",
			"introspect.TestForgedTokensAreInactive", "introspect.TestEndedTokensAreInactive", "introspect.TestWithdrawnConsent"}},
	{"a registration is managed with its own token alone, and gains nothing by it (RFC 7591, RFC 7592)",
		[]string{"protocol.TestRegistration", "register.TestMetadataRefused", "register.TestManagement",
			"register.TestInitialTokens", "register.TestFailuresAreLimited"}},
	{"a launch handle has one use, by one app, with the scope launch, in its patient's record",
		[]string{"protocol.TestEHRLaunch", "protocol.TestLaunchRefused", "launch.TestLaunchRefused",
			"launch.TestHandle"}},
	{"a client behind a proxy is slowed down and recorded by its own address, whatever it claims",
		[]string{"token.TestFailuresAreLimitedBehindProxy", "protocol.TestClientAddressBehindProxy"}},
	{"an approval that nobody redeems leaves no consent", []string{"protocol.TestApprovalWithoutRedemption"}},
	{"what a person may is asked at each use",
		[]string{"protocol.TestRightsAreCheckedPerRequest", "pages.TestSessionBoundAccess"}},
	{"step-up with a phishing-resistant factor of the last five minutes (RFC 9470)",
		[]string{"protocol.TestAPIRequiresStepUp", "policy.TestStepUpDemand", "policy.TestStepUpDevice",
			"pages.TestStepUp"}},
	{"a cloned passkey is refused, and every broken step of the ceremony", []string{"pages.TestPasskeyRefusals"}},
	{"a one-time code is used once, also at once", []string{"authn.TestTOTPOnce", "pages.TestOneCodeOneSignIn"}},
	{"a changed account, another link, role or a link to begin anew ends everything that it allowed (RFC 9700 4.14.2)",
		[]string{"pages.TestChangeOfAccountEndsEverything", "pages.TestChangeOfAccountEndsLaunchAndEmergency",
			"pages.TestCodeRacesWithChange"}},
	{"people see and end their own sessions and what they allowed (ASVS 5.0 7.5.2)",
		[]string{"pages.TestOwnSessions", "pages.TestConsentAllowAndRevoke"}},
	{"a clock that was ahead costs six minutes, and nobody in particular moves the mark",
		[]string{"token.TestClockAheadOnce", "token.TestUnauthenticatedRequestKeepsMark", "token.TestResetMark"}},
	{"stolen and guessable passwords are refused (ASVS 5.0 6.2)",
		[]string{"authn.TestGuessablePasswords", "authn.TestGoodPasswords", "authn.TestStolen"}},
	{"a patient is told of emergency access", []string{"pages.TestPatientIsToldOfEmergencyAccess"}},
	{"sessions end: idle, absolute, with the role, with their authenticators",
		[]string{"pages.TestSessionEnds", "pages.TestSessionEndsWithTheRole",
			"pages.TestTakenAuthenticatorsEndSessions"}},
	{"no lock-out by an outsider, no free guesses, no oracle of users",
		[]string{"pages.TestThrottle", "pages.TestGuessesAtOnce", "pages.TestNoOracle"}},
	{"a forged request of another site changes nothing",
		[]string{"pages.TestForeignRequestsRefused", "protocol.TestRequestIsBoundToBrowser"}},
}

// Every row names tests that are there.
func TestRequirementsHaveTests(t *testing.T) {
	have := map[string]bool{}
	err := filepath.WalkDir("../..", func(p string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
				have[filepath.Base(filepath.Dir(p))+"."+fn.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		for _, name := range r.tests {
			if !have[name] {
				t.Errorf("%s: there is no test %s", r.must, name)
			}
		}
		if len(r.tests) == 0 {
			t.Errorf("%s: no test", r.must)
		}
	}
}
