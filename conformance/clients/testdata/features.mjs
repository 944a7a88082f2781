// Runs the features that a program uses of a client, one after the other, and prints the
// error of each, or null, as a JSON object in the order of their names.
import assert from "node:assert/strict"

const results = {}

export async function feature(name, use) {
  try {
    await use()
    results[name] = null
  } catch (e) {
    results[name] = String(e.stack ?? e)
  }
}

// caught returns the error of a promise that must fail.
export async function caught(promise) {
  return promise.then((v) => assert.fail("not refused: " + JSON.stringify(v)?.slice(0, 300)), (e) => e)
}

export const short = (r) => `${r.resourceType}/${r.id}`

// own returns a search for an identifier of this run, in the form system|value.
export const own = (name) => `urn:example:${process.env.RUN}|${name}`

// measured returns an Observation of a patient with an identifier of this run.
export const measured = (name, value, more = {}) => ({
  resourceType: "Observation", status: "final", identifier: [{ system: `urn:example:${process.env.RUN}`, value: name }],
  code: { coding: [{ system: "http://loinc.org", code: "8302-2", display: "Body height" }] },
  subject: { reference: "Patient/demo-ada" }, effectiveDateTime: "2026-10-20T09:00:00Z",
  valueQuantity: { value, unit: "cm", system: "http://unitsofmeasure.org", code: "cm" }, ...more,
})

export const done = () => console.log(JSON.stringify(results))
