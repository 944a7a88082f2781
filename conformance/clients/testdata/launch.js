// Where the app is opened: by an EHR with iss and launch in the query, or by
// itself with iss in its settings.
fetch("settings" + location.search).then((r) => r.json()).then((s) => FHIR.oauth2.authorize(s)).catch((e) => { document.body.textContent = "failed: " + e })
