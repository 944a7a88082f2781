"use strict"
// SMART App Launch 2.2 for a public client in one page: discovery, the authorization
// request with PKCE, the response, and requests with the token. The token stays in the
// memory of the page. The state that must survive the redirects is in the session
// storage of the tab, and is used once.
const smart = (() => {
  const random = () => base64url(crypto.getRandomValues(new Uint8Array(32)))
  const base64url = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes))).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "")
  const here = () => location.origin + "/"

  async function json(url, init) {
    const r = await fetch(url, { referrerPolicy: "no-referrer", credentials: "omit", cache: "no-store", ...init })
    const body = await r.json().catch(() => ({}))
    if (!r.ok) throw new Error(problem(r.status, body))
    return body
  }

  // problem returns the text of an error.
  function problem(status, body) {
    const issue = body.issue && body.issue[0]
    return body.error_description || body.error || (issue && (issue.diagnostics || (issue.details && issue.details.text))) || "the server answered " + status
  }

  // authorize redirects to the authorization endpoint, where the person decides.
  async function authorize(settings, launch) {
    const server = await json(settings.iss + "/.well-known/smart-configuration")
    if (!server.code_challenge_methods_supported.includes("S256")) throw new Error("the server does not offer PKCE with S256")
    const state = random(), verifier = random()
    const challenge = base64url(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier)))
    sessionStorage.setItem("smart." + state, JSON.stringify({ verifier, fhir: settings.iss, token: server.token_endpoint, issuer: server.issuer }))
    const q = new URLSearchParams({ response_type: "code", client_id: settings.client_id, redirect_uri: here(), aud: settings.iss, state,
      scope: settings.scope + (launch ? " launch" : " launch/patient"), code_challenge: challenge, code_challenge_method: "S256" })
    if (launch) q.set("launch", launch)
    location.assign(server.authorization_endpoint + "?" + q)
  }

  // redeem exchanges the code for a token and returns a client.
  async function redeem(settings, answer) {
    const key = "smart." + answer.get("state"), kept = JSON.parse(sessionStorage.getItem(key))
    sessionStorage.removeItem(key)
    if (!kept) throw new Error("this response was not requested in this tab, or has already been used")
    if (kept.issuer && answer.get("iss") !== kept.issuer) throw new Error("the response came from another server than the request went to")
    if (answer.has("error")) throw new Error(answer.get("error") === "access_denied" ? "access was not allowed" : answer.get("error_description") || answer.get("error"))
    const token = await json(kept.token, { method: "POST", body: new URLSearchParams({ grant_type: "authorization_code", code: answer.get("code"),
      redirect_uri: here(), client_id: settings.client_id, code_verifier: kept.verifier }) })
    const get = (url) => json(new URL(url, kept.fhir + "/").href, { headers: { Accept: "application/fhir+json", Authorization: "Bearer " + token.access_token } })
    return { patient: token.patient, banner: token.need_patient_banner !== false, scope: token.scope, get,
      // search returns all matches, from at most the given number of pages.
      async search(path, pages) {
        const out = []
        for (let url = path; url && pages-- > 0;) {
          const bundle = await get(url)
          if (!new URL(url, kept.fhir + "/").href.startsWith(kept.fhir + "/")) throw new Error("the server links to another server")
          for (const e of bundle.entry || []) if (!e.search || e.search.mode === "match") out.push(e.resource)
          const next = (bundle.link || []).find((l) => l.relation === "next")
          url = next && next.url
        }
        return out
      } }
  }

  return { authorize, redeem }
})()
