// A program that uses fhirclient in node with a token of SMART Backend Services.
const assert = require("node:assert/strict")
const FHIR = require(process.env.LIBRARY)

const client = FHIR({}, {}).client({ serverUrl: process.env.BASE + "/fhir", tokenResponse: { access_token: process.env.TOKEN } })

async function run() {
  const { caught, done, feature, measured, own, short } = await import("./features.mjs")
  let created
  await feature("create, update, patch and delete", async () => {
    created = await client.create(measured("fhirclient", 170))
    assert.equal(created.meta.versionId, "1")
    const changed = await client.update({ ...created, status: "amended" })
    assert.equal(changed.meta.versionId, "2")
    const patched = await client.patch("Observation/" + created.id, [{ op: "replace", path: "/status", value: "final" }])
    assert.equal(patched.meta.versionId, "3")
    await client.delete("Observation/" + created.id)
    assert.equal((await caught(client.request("Observation/" + created.id))).statusCode, 410)
  })
  await feature("all pages", async () => {
    const all = await client.request("Patient?_count=1", { pageLimit: 0, flat: true })
    const { total } = await client.request("Patient?_summary=count")
    assert.deepEqual([new Set(all.map(short)).size, all.length], [total, total])
  })
  await feature("each page", async () => {
    let pages = 0
    await client.request("Patient?_count=2", { pageLimit: 0, onPage: () => { pages++ } })
    assert.ok(pages > 1)
  })
  await feature("include and references", async () => {
    const url = "Observation?patient=demo-ada&code=http://loinc.org|8867-4&_count=2&_include=Observation:subject"
    const bundle = await client.request(url)
    assert.ok(bundle.entry.some((e) => e.search.mode === "include" && short(e.resource) === "Patient/demo-ada"))
    const resolved = await client.request(url, { resolveReferences: ["subject"], graph: true })
    assert.equal(short(resolved.entry[0].resource.subject), "Patient/demo-ada")
  })
  await feature("headers of the answer", async () => {
    const { response, body } = await client.request({ url: "Patient/demo-ada", includeResponse: true })
    assert.equal(response.headers.get("etag"), `W/"${body.meta.versionId}"`)
    assert.ok(response.headers.get("last-modified"))
  })
  await feature("transaction", async () => {
    const answers = await client.request({ url: "", method: "POST", headers: { "content-type": "application/fhir+json" }, body: JSON.stringify({
      resourceType: "Bundle", type: "transaction", entry: [
        { resource: measured("fhirclient-once", 171), request: { method: "POST", url: "Observation", ifNoneExist: "identifier=" + own("fhirclient-once") } },
        { request: { method: "GET", url: "Patient/demo-ada" } },
      ],
    }) })
    assert.deepEqual(answers.entry.map((e) => e.response.status.slice(0, 3)), ["201", "200"])
  })
  await feature("errors", async () => {
    const missing = await caught(client.request("Patient/nobody"))
    assert.equal(missing.statusCode, 404)
    const invalid = await caught(client.create({ resourceType: "Observation", status: "nonsense" }))
    assert.ok(invalid.statusCode === 400 || invalid.statusCode === 422)
    assert.match(invalid.message, /status/)
  })
  await feature("$everything and history", async () => {
    assert.equal(short((await client.request("Patient/demo-ada/$everything")).entry[0].resource), "Patient/demo-ada")
    assert.equal((await client.request(`Observation/${created.id}/_history`)).entry.length, 4)
  })
  done()
}
run()
