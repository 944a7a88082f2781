// A program that uses fhir-kit-client with a bearer token.
const { Client } = await import(process.env.KIT)
const base = process.env.FHIR_BASE
const out = {}
const open = new Client({ baseUrl: base })
const smart = await open.smartAuthMetadata()
out.authorize = smart.authorizeUrl?.href
out.token = smart.tokenUrl?.href
out.registration = smart.registerUrl?.href
out.version = (await open.capabilityStatement()).fhirVersion
out.without = await open.read({ resourceType: "Patient", id: "demo-ada" }).then(() => 200, (e) => e.response.status)

const client = new Client({ baseUrl: base })
client.bearerToken = process.env.TOKEN
const short = (r) => `${r.resourceType}/${r.id}`
out.read = short(await client.read({ resourceType: "Patient", id: "demo-ada" }))
out.vread = (await client.vread({ resourceType: "Patient", id: "demo-ada", version: "1" })).meta.versionId
out.history = (await client.resourceHistory({ resourceType: "Patient", id: "demo-ada" })).entry.length
const searchParams = { patient: "demo-ada", code: "http://loinc.org|8867-4", _sort: "-date", _count: 4 }
const first = await client.resourceSearch({ resourceType: "Observation", searchParams })
const second = await client.nextPage({ bundle: first })
const back = await client.prevPage({ bundle: second })
out.pages = [first, second].map((b) => b.entry.map((e) => short(e.resource)))
out.back = back ? back.entry.map((e) => short(e.resource)) : null
out.posted = (await client.resourceSearch({ resourceType: "Observation", searchParams, options: { postSearch: true } })).entry.map((e) => short(e.resource))
const reading = first.entry[0].resource
out.resolved = short(await client.resolve({ reference: reading.subject.reference }))
out.inBundle = short(await client.resolve({ reference: first.entry[0].fullUrl, context: first }))
out.stats = (await client.operation({ resourceType: "Observation", name: "stats", method: "GET", input: { subject: "Patient/demo-ada", code: "8867-4", system: "http://loinc.org", statistic: "average", duration: "999999" } })).resourceType
out.lastn = (await client.operation({ resourceType: "Observation", name: "lastn", method: "GET", input: { patient: "demo-ada", code: "http://loinc.org|8867-4", max: "2" } })).entry.length
out.batch = (await client.batch({ body: { resourceType: "Bundle", type: "batch", entry: [{ request: { method: "GET", url: "Patient/demo-ben" } }] } })).entry[0].response.status
const bad = await client.read({ resourceType: "Patient", id: "nobody" }).then(() => null, (e) => e.response)
out.absent = [bad.status, bad.data.resourceType]
out.refused = await client.create({ resourceType: "Patient", body: { resourceType: "Patient" } }).then(() => 201, (e) => e.response.status)
console.log(JSON.stringify(out))
