"use strict"
const $ = (id) => document.getElementById(id)
const heartRate = "http://loinc.org|8867-4"
const hour = 3600e3

function show(part) {
  for (const id of ["start", "data", "problem", "status"]) $(id).hidden = id !== part
}

function fail(e) {
  $("problem").textContent = "Something went wrong: " + e.message + ". "
  const again = document.createElement("a")
  again.href = "/"
  again.textContent = "Start again"
  $("problem").append(again)
  show("problem")
}

// local returns the instant in UTC that has the reading of the wearer's clock, so that
// a measurement at 23:00 is shown at 23:00 in every time zone.
function local(s) {
  const m = /(Z|[+-]\d\d:\d\d)$/.exec(s)
  const [h, min] = !m || m[1] === "Z" ? [0, 0] : m[1].split(":").map(Number)
  return Date.parse(s) + (h * 60 + (m && m[1][0] === "-" ? -min : min)) * 60e3
}
const text = (t, o) => new Date(t).toLocaleString("en-GB", { timeZone: "UTC", ...o })
const clock = (t) => text(t, { hour: "2-digit", minute: "2-digit" })
const short = (t) => text(t, { day: "numeric", month: "short" })
const day = (t) => text(t, { day: "numeric", month: "long" })

// readings returns the points of the Observations in order of time.
const readings = (found) => found.filter((o) => o.valueQuantity && (o.effectiveDateTime || o.effectiveInstant))
  .map((o) => ({ t: local(o.effectiveDateTime || o.effectiveInstant), v: o.valueQuantity.value })).sort((a, b) => a.t - b.t)

const svg = (name, attributes, ...inside) => {
  const e = document.createElementNS("http://www.w3.org/2000/svg", name)
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v)
  e.append(...inside)
  return e
}

// groups divides the points into intervals of one width, each with its minimum, mean
// and maximum.
function groups(points, width) {
  const out = new Map()
  for (const p of points) {
    const at = Math.floor(p.t / width) * width, g = out.get(at) || { t: at, n: 0, sum: 0, low: Infinity, high: -Infinity }
    g.n++
    g.sum += p.v
    g.low = Math.min(g.low, p.v)
    g.high = Math.max(g.high, p.v)
    out.set(at, g)
  }
  return [...out.values()].map((g) => ({ ...g, mean: g.sum / g.n }))
}

// draw draws the chart: the mean as a line that breaks where there are no
// measurements, and a band from the minimum to the maximum behind it.
function draw(view) {
  const { points, from, to, hours, stats } = view
  const W = Math.max(280, $("chart").clientWidth), H = 230, left = 34, right = 8, top = 10, bottom = 26
  const step = hours > 48 ? 2 * hour : hour / 4, gs = groups(points, step)
  const low = Math.floor((Math.min(...points.map((p) => p.v)) - 2) / 20) * 20, high = Math.ceil((Math.max(...points.map((p) => p.v)) + 2) / 20) * 20
  const x = (t) => left + (t - from) / (to - from) * (W - left - right), y = (v) => top + (high - v) / (high - low) * (H - top - bottom)
  const label = `Heart rate from ${day(from)}, ${clock(from)} to ${day(to)}, ${clock(to)}: ${stats.minimum} to ${stats.maximum}, ${stats.average} on average, in beats per minute. The table below has the figures.`
  const out = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label })
  for (let v = low; v <= high; v += high - low > 120 ? 40 : 20) {
    out.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: y(v), y2: y(v) }), svg("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, String(v)))
  }
  const every = hours > 48 ? 24 * hour * (W < 480 ? 2 : 1) : hour * (W < 480 ? 6 : 3)
  for (let t = Math.ceil(from / every) * every; t <= to; t += every) {
    if (x(t) > left + 12 && x(t) < W - 20) out.append(svg("text", { x: x(t), y: H - 6, "text-anchor": "middle" }, hours > 48 ? short(t) : clock(t)))
  }
  let run = []
  const flush = () => {
    if (!run.length) return
    const mid = (g) => x(Math.min(to, Math.max(from, g.t + step / 2)))
    out.append(svg("polygon", { class: "band", points: [...run.map((g) => `${mid(g)},${y(g.high)}`), ...run.toReversed().map((g) => `${mid(g)},${y(g.low)}`)].join(" ") }))
    out.append(svg("polyline", { class: "course", points: (run.length > 1 ? run : [run[0], run[0]]).map((g) => `${mid(g)},${y(g.mean)}`).join(" ") }))
    run = []
  }
  for (const g of gs) {
    if (run.length && g.t - run.at(-1).t > 3 * step) flush()
    run.push(g)
  }
  flush()
  for (const line of [...out.querySelectorAll("polyline")]) out.append(line) // above every band
  $("chart").replaceChildren(out)
}

function row(head, ...cells) {
  const tr = document.createElement("tr")
  for (const [i, c] of cells.entries()) {
    const e = document.createElement(head || i === 0 ? "th" : "td")
    if (head || i === 0) e.scope = head ? "col" : "row"
    e.textContent = c
    tr.append(e)
  }
  return tr
}

function table(view) {
  const days = view.hours > 48
  $("head").replaceChildren(row(true, days ? "Day" : "Hour", "Low", "Mean", "High", "Count"))
  $("rows").replaceChildren(...groups(view.points, days ? 24 * hour : hour).map((g) =>
    row(false, days ? short(g.t) : `${short(g.t)}, ${clock(g.t)}`, g.low, Math.round(g.mean), g.high, g.n)))
}

// statistics requests the summary from the server.
async function statistics(client, from, to) {
  const q = new URLSearchParams({ subject: "Patient/" + client.patient, coding: heartRate, period: `${from}/${to}`, statistic: "minimum,average,maximum,count" })
  const answer = await client.get("Observation/$stats?" + q), out = {}
  for (const p of answer.parameter || []) {
    for (const c of (p.resource && p.resource.component) || []) if (c.valueQuantity) out[c.code.coding[0].code] = Math.round(c.valueQuantity.value)
  }
  return out
}

async function load(client, latest, hours) {
  const to = new Date(Date.parse(latest) + 1000).toISOString(), from = new Date(Date.parse(latest) - hours * hour).toISOString()
  const q = new URLSearchParams({ patient: client.patient, code: heartRate, _sort: "date", _count: "500" })
  q.append("date", "ge" + from)
  q.append("date", "le" + to)
  const [found, stats] = await Promise.all([client.search("Observation?" + q, 20), statistics(client, from, to)])
  const end = local(latest)
  return { points: readings(found), stats, hours, from: end - hours * hour, to: end }
}

let view = null
function render(v) {
  view = v
  $("tiles").replaceChildren(...[["Lowest", v.stats.minimum], ["Average", v.stats.average], ["Highest", v.stats.maximum], ["Measurements", v.stats.count.toLocaleString("en-GB")]].map(([name, value]) => {
    const div = document.createElement("div"), dt = document.createElement("dt"), dd = document.createElement("dd")
    dt.textContent = name
    dd.textContent = value
    div.append(dt, dd)
    return div
  }))
  for (const b of document.querySelectorAll(".ranges button")) b.setAttribute("aria-pressed", String(Number(b.dataset.hours) === v.hours))
  table(v)
  draw(v)
}

function banner(patient) {
  const n = (patient.name && patient.name[0]) || {}
  const name = n.text || [...(n.given || []), n.family].filter(Boolean).join(" ") || "Patient " + patient.id
  $("name").textContent = name
  $("born").textContent = patient.birthDate ? "born " + text(Date.parse(patient.birthDate), { day: "numeric", month: "long", year: "numeric" }) : ""
  document.title = "Heart rate of " + name
}

async function run(client) {
  const patient = await client.get("Patient/" + client.patient)
  banner(patient)
  $("name").parentElement.hidden = !client.banner // the EHR already shows the patient
  const [last] = await client.search(`Observation?${new URLSearchParams({ patient: client.patient, code: heartRate, _sort: "-date", _count: "1" })}`, 1)
  if (!last) throw new Error("there is no heart rate that you may see")
  const when = last.effectiveDateTime || last.effectiveInstant, t = local(when)
  $("latest").textContent = last.valueQuantity.value
  $("when").textContent = `${text(t, { weekday: "long", day: "numeric", month: "long", year: "numeric" })}, ${clock(t)}`
  $("clock").textContent = "The line is the mean, the band from the lowest to the highest. Times are those of the wearer’s clock."
  const first = await load(client, when, 24)
  show("data")
  render(first)
  const buttons = [...document.querySelectorAll(".ranges button")]
  for (const b of buttons) {
    b.addEventListener("click", async () => {
      buttons.forEach((o) => { o.disabled = true })
      try { render(await load(client, when, Number(b.dataset.hours))) } catch (e) { fail(e) } finally { buttons.forEach((o) => { o.disabled = false }) }
      b.focus()
    })
  }
  new ResizeObserver(() => view && draw(view)).observe($("chart"))
  $("leave").addEventListener("click", () => location.replace("/"))
}

async function main() {
  const q = new URLSearchParams(location.search)
  const settings = await (await fetch("settings.json")).json()
  if (q.has("state")) {
    history.replaceState(null, "", "/") // remove the code from the URL
    return run(await smart.redeem(settings, q))
  }
  if (q.has("launch")) {
    // The app talks only to the server that it is registered with.
    if (q.get("iss") !== settings.iss) throw new Error("this app is not registered with that server")
    return smart.authorize(settings, q.get("launch"))
  }
  show("start")
  $("connect").addEventListener("click", () => { $("connect").disabled = true; smart.authorize(settings).catch(fail) })
}
main().catch(fail)
