// The launch URL of the app. An EHR adds iss and launch to the query; a standalone
// launch takes iss from the settings.
fetch("settings" + location.search).then((r) => r.json()).then((s) => FHIR.oauth2.authorize(s)).catch((e) => { document.body.textContent = "failed: " + e })
