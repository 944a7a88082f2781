// A program that writes with fhir-kit-client, and reads what it wrote.
import assert from "node:assert/strict"
import { caught, done, feature, measured, own, short } from "./features.mjs"

const { Client } = await import(process.env.LIBRARY)
const kit = new Client({ baseUrl: process.env.BASE + "/fhir", bearerToken: process.env.TOKEN })
const resourceType = "Observation"
const withHeaders = (headers) => ({ headers })

let created
await feature("create", async () => {
  created = await kit.create({ resourceType, body: measured("kit", 170) })
  assert.equal(created.meta.versionId, "1")
  const { response } = Client.httpFor(created)
  assert.equal(response.status, 201)
  assert.equal(response.headers.get("etag"), 'W/"1"')
  assert.ok(response.headers.get("location").endsWith(`/Observation/${created.id}/_history/1`))
})
await feature("update with If-Match", async () => {
  const body = { ...created, status: "amended" }
  const changed = await kit.update({ resourceType, id: created.id, body, options: withHeaders({ "If-Match": 'W/"1"' }) })
  assert.equal(changed.meta.versionId, "2")
  const error = await caught(kit.update({ resourceType, id: created.id, body, options: withHeaders({ "If-Match": 'W/"1"' }) }))
  assert.deepEqual([error.response.status, error.response.data.resourceType], [412, "OperationOutcome"])
})
await feature("JSON Patch", async () => {
  const jsonPatch = [{ op: "replace", path: "/valueQuantity/value", value: 171 }]
  const patched = await kit.patch({ resourceType, id: created.id, jsonPatch })
  assert.deepEqual([patched.valueQuantity.value, patched.meta.versionId], [171, "3"])
})
await feature("history of an instance, a type and the system", async () => {
  const instance = await kit.resourceHistory({ resourceType, id: created.id })
  assert.deepEqual(instance.entry.map((e) => e.resource.meta.versionId), ["3", "2", "1"])
  assert.equal(short((await kit.typeHistory({ resourceType })).entry[0].resource), short(created))
  assert.equal((await kit.systemHistory()).type, "history")
})
await feature("conditional create", async () => {
  const options = withHeaders({ "If-None-Exist": "identifier=" + own("kit-once") })
  const first = await kit.create({ resourceType, body: measured("kit-once", 172), options })
  const second = await kit.create({ resourceType, body: measured("kit-once", 173), options })
  assert.equal(Client.httpFor(second).response.status, 200)
  assert.equal(second.id, first.id)
})
await feature("conditional update", async () => {
  const searchParams = { identifier: own("kit-upsert") }
  const first = await kit.update({ resourceType, searchParams, body: measured("kit-upsert", 172) })
  const second = await kit.update({ resourceType, searchParams, body: measured("kit-upsert", 173) })
  assert.deepEqual([second.id, second.meta.versionId], [first.id, "2"])
})
await feature("conditional read", async () => {
  const { response } = Client.httpFor(await kit.read({ resourceType: "Patient", id: "demo-ada" }))
  const again = await kit.read({ resourceType: "Patient", id: "demo-ada", options: withHeaders({ "If-None-Match": response.headers.get("etag") }) }).then((r) => Client.httpFor(r).response.status, (e) => e.response.status)
  assert.equal(again, 304)
})
await feature("transaction", async () => {
  const patient = "urn:uuid:6a0b7a56-2c53-4b0e-8d1c-0a9a3f7cbb02"
  const body = { resourceType: "Bundle", type: "transaction", entry: [
    { fullUrl: patient, resource: { resourceType: "Patient", identifier: [{ system: own("").slice(0, -1), value: "kit" }] }, request: { method: "POST", url: "Patient" } },
    { resource: measured("kit-transaction", 174, { subject: { reference: patient } }), request: { method: "POST", url: "Observation" } },
  ] }
  const answers = await kit.transaction({ body })
  assert.deepEqual(answers.entry.map((e) => e.response.status.slice(0, 3)), ["201", "201"])
  body.entry[1].resource.status = "nonsense"
  const error = await caught(kit.transaction({ body }))
  assert.equal(error.response.data.resourceType, "OperationOutcome")
  const bundle = await kit.search({ resourceType: "Patient", searchParams: { identifier: own("kit") } })
  assert.equal(bundle.entry.length, 1)
})
await feature("search of a compartment and of the system", async () => {
  const compartment = { resourceType: "Patient", id: "demo-ada" }
  const within = await kit.compartmentSearch({ resourceType, compartment, searchParams: { code: "http://loinc.org|8302-2" } })
  assert.ok(within.entry.map((e) => short(e.resource)).includes(short(created)))
  const system = await kit.systemSearch({ searchParams: { _type: "Patient,Device", _count: 5 } })
  assert.ok(system.entry.every((e) => ["Patient", "Device"].includes(e.resource.resourceType)))
})
await feature("all pages", async () => {
  const seen = new Set()
  let bundle = await kit.search({ resourceType, searchParams: { patient: "demo-ada", code: "http://loinc.org|8302-2", _count: 1 } })
  const total = (await kit.search({ resourceType, searchParams: { patient: "demo-ada", code: "http://loinc.org|8302-2", _summary: "count" } })).total
  while (bundle) {
    for (const e of bundle.entry ?? []) seen.add(short(e.resource))
    bundle = await kit.nextPage({ bundle })
  }
  assert.ok(total > 1)
  assert.equal(seen.size, total)
})
await feature("operations", async () => {
  const everything = await kit.operation({ name: "everything", resourceType: "Patient", id: "demo-ada", method: "GET" })
  assert.equal(short(everything.entry[0].resource), "Patient/demo-ada")
  const outcome = await kit.operation({ name: "validate", resourceType, method: "POST", input: measured("valid", 170) })
  assert.equal(outcome.resourceType, "OperationOutcome")
})
await feature("delete", async () => {
  await kit.delete({ resourceType, id: created.id })
  assert.equal((await caught(kit.read({ resourceType, id: created.id }))).response.status, 410)
})
done()
