// A program that uses MedplumClient of @medplum/core, which knows our server only by its URLs.
import assert from "node:assert/strict"
import { caught, done, feature, measured, own, short } from "./features.mjs"

const { MedplumClient, OperationOutcomeError, normalizeErrorString } = await import(process.env.LIBRARY)
const base = process.env.BASE
const connect = (more = {}) => new MedplumClient({
  baseUrl: base + "/", fhirUrlPath: "fhir", tokenUrl: base + "/oauth/token", extendedMode: false, cacheTime: 0, ...more,
})
const medplum = connect()
const rates = { patient: "demo-ada", code: "http://loinc.org|8867-4" }

medplum.setAccessToken(process.env.TOKEN)

await feature("read", async () => {
  assert.equal(short(await medplum.readResource("Patient", "demo-ada")), "Patient/demo-ada")
  assert.equal(short(await medplum.readReference({ reference: "Patient/demo-ben" })), "Patient/demo-ben")
})
await feature("search", async () => {
  const bundle = await medplum.search("Observation", { ...rates, _count: 3, _sort: "-date", _total: "accurate" })
  assert.equal(bundle.entry.length, 3)
  assert.ok(bundle.total > 3)
  const one = await medplum.searchOne("Observation", { ...rates, _sort: "-date" })
  assert.equal(one.id, bundle.entry[0].resource.id)
  const list = await medplum.searchResources("Observation", "patient=demo-ada&code=http://loinc.org|8867-4&_count=3&_sort=-date")
  assert.deepEqual(list.map(short), bundle.entry.map((e) => short(e.resource)))
})
await feature("all pages", async () => {
  const { total } = await medplum.search("Patient", { _summary: "count" })
  const seen = new Set()
  let pages = 0
  for await (const page of medplum.searchResourcePages("Patient", { _count: 1 })) {
    page.forEach((r) => seen.add(short(r)))
    pages++
  }
  assert.ok(total >= 3)
  assert.deepEqual([seen.size, pages], [total, total])
})
await feature("include", async () => {
  const bundle = await medplum.search("Observation", { ...rates, _count: 2, _include: "Observation:subject" })
  const included = bundle.entry.filter((e) => e.search.mode === "include").map((e) => short(e.resource))
  assert.deepEqual(included, ["Patient/demo-ada"])
})
let created
await feature("create, update and history", async () => {
  created = await medplum.createResource(measured("medplum", 170))
  assert.equal(created.meta.versionId, "1")
  const changed = await medplum.updateResource({ ...created, valueQuantity: { ...created.valueQuantity, value: 171 } })
  assert.equal(changed.meta.versionId, "2")
  const history = await medplum.readHistory("Observation", created.id)
  assert.deepEqual(history.entry.map((e) => e.resource.valueQuantity.value), [171, 170])
  const first = await medplum.readVersion("Observation", created.id, "1")
  assert.equal(first.valueQuantity.value, 170)
})
await feature("patch", async () => {
  const patched = await medplum.patchResource("Observation", created.id, [
    { op: "test", path: "/status", value: "final" }, { op: "replace", path: "/status", value: "amended" },
  ])
  assert.equal(patched.status, "amended")
  const error = await caught(medplum.patchResource("Observation", created.id, [{ op: "test", path: "/status", value: "final" }]))
  assert.ok(error instanceof OperationOutcomeError)
})
await feature("If-Match", async () => {
  const error = await caught(medplum.updateResource({ ...created, status: "amended" }, { headers: { "If-Match": 'W/"1"' } }))
  assert.ok(error instanceof OperationOutcomeError)
  assert.equal(error.outcome.issue[0].code, "conflict")
})
await feature("conditional create", async () => {
  const query = "identifier=" + own("once")
  const first = await medplum.createResourceIfNoneExist(measured("once", 172), query)
  const second = await medplum.createResourceIfNoneExist(measured("once", 173), query)
  assert.deepEqual([second.id, second.meta.versionId, second.valueQuantity.value], [first.id, "1", 172])
})
await feature("conditional update", async () => {
  const query = "identifier=" + own("upsert")
  const first = await medplum.upsertResource(measured("upsert", 172), query)
  const second = await medplum.upsertResource(measured("upsert", 173), query)
  assert.deepEqual([second.id, second.meta.versionId, second.valueQuantity.value], [first.id, "2", 173])
})
await feature("batch and transaction", async () => {
  const answers = await medplum.executeBatch({ resourceType: "Bundle", type: "batch", entry: [
    { request: { method: "GET", url: "Patient/demo-ada" } }, { request: { method: "GET", url: "Patient/nobody" } },
  ] })
  assert.deepEqual(answers.entry.map((e) => e.response.status.slice(0, 3)), ["200", "404"])
  const device = "urn:uuid:6a0b7a56-2c53-4b0e-8d1c-0a9a3f7cbb01"
  const both = await medplum.executeBatch({ resourceType: "Bundle", type: "transaction", entry: [
    { fullUrl: device, resource: { resourceType: "Device", patient: { reference: "Patient/demo-ada" } }, request: { method: "POST", url: "Device" } },
    { resource: measured("transaction", 174, { device: { reference: device } }), request: { method: "POST", url: "Observation" } },
  ] })
  assert.deepEqual(both.entry.map((e) => e.response.status.slice(0, 3)), ["201", "201"])
  const observation = await medplum.searchOne("Observation", { identifier: own("transaction") })
  assert.match(observation.device.reference, /^Device\/[^/]+$/)
  assert.ok(both.entry[0].response.location.includes(observation.device.reference))
})
await feature("requests combined into a batch", async () => {
  const batching = connect({ autoBatchTime: 20 })
  batching.setAccessToken(medplum.getAccessToken())
  const [ada, ben, none] = await Promise.allSettled(["demo-ada", "demo-ben", "nobody"].map((id) => batching.readResource("Patient", id)))
  assert.deepEqual([ada.value?.id, ben.value?.id, none.status], ["demo-ada", "demo-ben", "rejected"])
})
await feature("$everything", async () => {
  const bundle = await medplum.readPatientEverything("demo-ada")
  assert.equal(short(bundle.entry[0].resource), "Patient/demo-ada")
  assert.ok(bundle.entry.length > 1)
})
await feature("$validate", async () => {
  assert.equal((await medplum.validateResource(measured("valid", 170))).resourceType, "OperationOutcome")
})
await feature("$expand", async () => {
  const set = await medplum.valueSetExpand({ url: "http://hl7.org/fhir/ValueSet/observation-status", filter: "fin" })
  assert.ok(set.expansion.contains.some((c) => c.code === "final"))
})
await feature("binary", async () => {
  const bytes = new Uint8Array([0, 1, 2, 250, 255])
  const binary = await medplum.createBinary({ data: bytes, contentType: "application/octet-stream" })
  assert.equal(binary.resourceType, "Binary")
  const blob = await medplum.download(`${base}/fhir/Binary/${binary.id}`, { headers: { Accept: "application/octet-stream" } })
  assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), bytes)
})
await feature("errors", async () => {
  const error = await caught(medplum.readResource("Patient", "nobody"))
  assert.ok(error instanceof OperationOutcomeError)
  assert.equal(error.outcome.issue[0].code, "not-found")
  assert.ok(normalizeErrorString(error).length > 0)
  const invalid = await caught(medplum.createResource({ resourceType: "Observation", status: "nonsense" }))
  assert.ok(invalid.outcome.issue.some((i) => (i.expression ?? []).some((p) => p.startsWith("Observation"))))
})
await feature("delete", async () => {
  const gone = await medplum.createResource(measured("gone", 170))
  await medplum.deleteResource("Observation", gone.id)
  assert.ok((await caught(medplum.readResource("Observation", gone.id))) instanceof OperationOutcomeError)
})
await feature("bulk export", async () => {
  const manifest = await medplum.bulkExport("Patient", "Patient", undefined, { pollStatusOnAccepted: true, pollStatusPeriod: 50 })
  assert.deepEqual([...new Set(manifest.output.map((f) => f.type))], ["Patient"])
  const text = await (await medplum.download(manifest.output[0].url, { headers: { Accept: "application/fhir+ndjson" } })).text()
  assert.ok(text.trim().split("\n").map((l) => JSON.parse(l)).some((r) => r.id === "demo-ada"))
})
done()
