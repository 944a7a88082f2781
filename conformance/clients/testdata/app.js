// The redirect URI of the app. All requests go through the library.
const short = (o) => `${o.resourceType}/${o.id}`
async function use(client) {
  const out = { iss: client.state.serverUrl, scope: client.state.tokenResponse.scope, token: client.state.tokenResponse, patientID: client.patient.id, encounterID: client.encounter.id }
  out.user = client.getFhirUser()
  if (out.user) out.userResource = short(await client.user.read())
  out.patient = short(await client.patient.read())
  const bundle = await client.request("Observation?code=http://loinc.org|8867-4&_count=3&_sort=-date&patient=" + client.patient.id)
  out.found = bundle.entry.map((e) => short(e.resource))
  out.values = client.byCode(bundle.entry.map((e) => e.resource), "code")["8867-4"].length
  const pages = await client.request("Observation?code=http://loinc.org|8867-4&_count=5&patient=" + client.patient.id, { pageLimit: 3, flat: true })
  out.paged = new Set(pages.map(short)).size
  out.one = short(await client.request(out.found[0]))
  out.subject = short((await client.request(out.found[0], { resolveReferences: ["subject"] })).subject)
  out.statement = (await client.request("metadata")).fhirVersion
  out.refused = {}
  for (const path of ["Device?patient=" + client.patient.id, "Patient/demo-chi", "Observation/nothing"]) {
    out.refused[path] = await client.request(path).then(() => 200, (e) => e.statusCode || e.status || String(e))
  }
  if (client.state.tokenResponse.refresh_token) {
    const before = client.state.tokenResponse
    out.refreshed = await client.refresh().then(() => 200, (e) => e.statusCode || e.status || String(e))
    const after = client.state.tokenResponse
    out.rotated = after.access_token !== before.access_token && after.refresh_token !== before.refresh_token
    out.again = short(await client.request("Patient/" + client.patient.id))
  }
  return out
}
FHIR.oauth2.ready().then(use).then((o) => { window.result = o; document.body.textContent = "the app is done" }, (e) => { document.body.textContent = "failed: " + e.message + "\n" + e.stack })
