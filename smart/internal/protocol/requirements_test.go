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

// requirements lists what an attacker or a failure must not achieve (RFC 9700,
// RFC 6819, SMART App Launch 2.2, OWASP ASVS 5.0 V6, V7 and V10). Each
// requirement names its tests below smart/ as package.Test.
var requirements = []struct {
	text  string
	tests []string
}{
	{"redirect URIs match exactly, http is allowed on loopback only, no open redirector (RFC 9700 2.1)",
		[]string{"protocol.TestRedirectMatching", "protocol.TestUntrustedRedirectGetsNoResponse",
			"pages.TestNoOpenRedirect"}},
	{"PKCE requires S256, and a code without its verifier is refused (RFC 7636, RFC 9700 2.1.1)",
		[]string{"protocol.TestPKCE", "protocol.TestCodesRefused"}},
	{"a code is valid for one minute and works once; a second use revokes its tokens (RFC 6749 4.1.2)",
		[]string{"protocol.TestCodesRefused", "protocol.TestSingleUseSurvivesKill"}},
	{"of two concurrent redemptions one succeeds, and its tokens are revoked",
		[]string{"protocol.TestConcurrentRedemptions"}},
	{"no implicit grant, no password grant",
		[]string{"protocol.TestErrorsReturnToApp", "protocol.TestRegistration", "token.TestRequestsRefused"}},
	{"the response contains iss, no CORS on the authorization endpoint (RFC 9207)",
		[]string{"protocol.TestClientTypesGetGrantedAccess", "protocol.TestErrorsReturnToApp"}},
	{"aud is checked by the authorization server and by the API",
		[]string{"protocol.TestErrorsReturnToApp", "token.TestAccessTokensRefused", "protocol.TestExternalIssuer"}},
	{"refresh tokens rotate; a replayed one ends the authorization",
		[]string{"protocol.TestRefresh", "protocol.TestReuseEndsAuthorization"}},
	{"the grace period of 5 seconds is for an identical retry only",
		[]string{"protocol.TestGracePeriodIsForIdenticalRetry"}},
	{"a thousand concurrent refreshes rotate the token once",
		[]string{"protocol.TestConcurrentRefreshesHaveOneWinner"}},
	{"an idle refresh token expires after 90 days, an authorization after 180 days",
		[]string{"protocol.TestLifetimes"}},
	{"an assertion works once, across a restart, a SIGKILL and clock jumps (RFC 7523)",
		[]string{"token.TestReplay", "token.TestConcurrentReplaysHaveOneWinner",
			"protocol.TestReplayedAssertionAfterRestart", "protocol.TestSingleUseSurvivesKill",
			"protocol.TestClockJumps"}},
	{"an assertion is valid for at most 5 minutes; kid matches one key; jku is the registered URL",
		[]string{"token.TestAssertionsRefused"}},
	{"a client's key set is cached no longer than its Cache-Control allows", []string{"token.TestKeysByURL"}},
	{"access tokens of backends live at most 5 minutes, those of persons 15 minutes",
		[]string{"token.TestAccessTokensRefused", "token.TestCachedTokenExpires", "protocol.TestLifetimes"}},
	{"a clock jump makes no token valid too early or too late", []string{"protocol.TestClockJumps"}},
	{"the server's keys rotate under load without refused requests",
		[]string{"protocol.TestKeyRotationWithCachedKeySet", "protocol.TestKeyRotationDuringRequests",
			"token.TestKeyRotationOverlaps"}},
	{"a stolen token is useless without its key; a DPoP proof works once (RFC 9449)",
		[]string{"protocol.TestDPoP", "protocol.TestDPoPNonce"}},
	{"a stolen token is useless without its certificate (RFC 8705)",
		[]string{"protocol.TestCertificateBound", "protocol.TestCertificateBoundBehindProxy"}},
	{"introspection answers the owner and resource servers; revocation takes effect at the next request (RFC 7662, RFC 7009)",
		[]string{"protocol.TestIntrospectionAndRevocation", "introspect.TestUnauthenticatedIntrospectionRefused",
			"introspect.TestForgedTokensAreInactive", "introspect.TestEndedTokensAreInactive",
			"introspect.TestWithdrawnConsent"}},
	{"a registration is managed with its own token only and cannot be extended with it (RFC 7591, RFC 7592)",
		[]string{"protocol.TestRegistration", "register.TestMetadataRefused", "register.TestManagement",
			"register.TestInitialTokens", "register.TestFailuresAreLimited"}},
	{"a launch handle works once, for one app, with the scope launch, for its patient",
		[]string{"protocol.TestEHRLaunch", "protocol.TestLaunchRefused", "launch.TestLaunchRefused",
			"launch.TestHandle"}},
	{"a client behind a proxy is limited and recorded by its own address, not by a claimed one",
		[]string{"token.TestFailuresAreLimitedBehindProxy", "protocol.TestClientAddressBehindProxy"}},
	{"an approval without redemption leaves no consent", []string{"protocol.TestApprovalWithoutRedemption"}},
	{"the rights of a person are checked at each request",
		[]string{"protocol.TestRightsAreCheckedPerRequest", "pages.TestSessionBoundAccess"}},
	{"step-up requires a phishing-resistant factor within the last five minutes (RFC 9470)",
		[]string{"protocol.TestAPIRequiresStepUp", "policy.TestStepUpDemand", "policy.TestStepUpDevice",
			"pages.TestStepUp"}},
	{"a cloned passkey and every invalid step of the ceremony are refused", []string{"pages.TestPasskeyRefusals"}},
	{"a one-time code works once, even with concurrent uses",
		[]string{"authn.TestTOTPOnce", "pages.TestOneCodeOneSignIn"}},
	{"a change of an account's person, roles or authenticators ends everything that the account allowed (RFC 9700 4.14.2)",
		[]string{"pages.TestChangeOfAccountEndsEverything", "pages.TestChangeOfAccountEndsLaunchAndEmergency",
			"pages.TestCodeRacesWithChange"}},
	{"people see and end their own sessions and authorizations (ASVS 5.0 7.5.2)",
		[]string{"pages.TestOwnSessions", "pages.TestConsentAllowAndRevoke"}},
	{"a clock that was ahead delays tokens by six minutes, and unauthenticated requests do not move the mark",
		[]string{"token.TestClockAheadOnce", "token.TestUnauthenticatedRequestKeepsMark", "token.TestResetMark"}},
	{"stolen and guessable passwords are refused (ASVS 5.0 6.2)",
		[]string{"authn.TestGuessablePasswords", "authn.TestGoodPasswords", "authn.TestStolen"}},
	{"emergency access is disclosed to the patient", []string{"pages.TestPatientIsToldOfEmergencyAccess"}},
	{"sessions end when they are idle, at their maximum age, with the role and with their authenticators",
		[]string{"pages.TestSessionEnds", "pages.TestSessionEndsWithTheRole",
			"pages.TestTakenAuthenticatorsEndSessions"}},
	{"guesses are limited, outsiders cannot lock an account, and accounts cannot be enumerated",
		[]string{"pages.TestThrottle", "pages.TestGuessesAtOnce", "pages.TestNoOracle"}},
	{"a cross-site request changes nothing",
		[]string{"pages.TestForeignRequestsRefused", "protocol.TestRequestIsBoundToBrowser"}},
}

// TestRequirementsHaveTests checks that every requirement names existing tests.
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
	for _, r := range requirements {
		for _, name := range r.tests {
			if !have[name] {
				t.Errorf("%s: test %s does not exist", r.text, name)
			}
		}
		if len(r.tests) == 0 {
			t.Errorf("%s: no test", r.text)
		}
	}
}
