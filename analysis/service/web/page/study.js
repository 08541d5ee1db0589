// The live page of a study.

import { showAdvice } from "./advice.js";
import { Chart } from "./chart.js";
import { byId, count, digits, duration, element, facts, keyed, LEVELS, limit, percent, runLink, setText, soon } from "./dom.js";
import { feed, now } from "./feed.js";
import { limitTable, numbers, runTable } from "./tables.js";

const study = byId("top").dataset.study;
const path = `/api/studies/${encodeURIComponent(study)}`;
const MOST_ADVISED = 100, ADVICE_SECONDS = 30, RUN_SECONDS = 3;
const tables = { runs: runTable(), limits: limitTable() };
const panels = new Map();
let live = null, wanted = null, whole = null;

// The study as a whole

function showStudy(content) {
  const first = live === null;
  live = content;
  setText(byId("finding"), content.finding);
  byId("health").dataset.level = content.health.level;
  setText(byId("level"), LEVELS[content.health.level]);
  setText(byId("summary"), content.health.summary);
  keyed(byId("troubles"), content.health.troubles, (each) => `${each.run} ${each.kind}`, trouble,
    (item, each) => setText(item.lastChild, each.run ? `: ${each.text}` : each.text));
  byId("progress").value = content.tokens / content.tokens_planned;
  showFacts();
  if (first) byId("log").checked = content.panels[0]?.log ?? false;
  showPanels();
  showRuns();
  tables.limits.show(content.fits);
  setText(byId("fared"), content.verdicts);
  document.title = `${LEVELS[content.health.level]}: ${content.name}`;
  if (first) openRun();
  adviseSoon();
}

const trouble = (each) => element("li", {}, ...(each.run ? [runLink(each.run)] : []), element("span"));

function showFacts() {
  const { states, tokens, tokens_planned: planned, tokens_per_second: speed } = live;
  const total = live.runs.length;
  facts(byId("facts"), [
    ["runs done", `${states.done} of ${total}`],
    ["tokens trained", `${count(tokens)} (${(100 * tokens / planned).toFixed(1)} %)`],
    ["done in about", live.done_at === null ? (states.done === total ? "done" : "–") : soon(live.done_at - now())],
    ["tokens per second", count(speed)],
    ["points measured", String(live.points)],
    ["restarts", String(live.runs.reduce((sum, run) => sum + run.restarts, 0))],
    ...live.panels.map((panel) => [`newest ratio, ${panel.name}`, newest(panel)]),
  ]);
}

function newest(panel) {
  const last = panel.curves.map((curve) => curve.ratios.at(-1));
  const ends = [last.reduce((a, b) => Math.min(a, b)), last.reduce((a, b) => Math.max(a, b))].map(percent);
  return ends[0] === ends[1] ? ends[0] : ends.join(" to ");
}

function showRuns() {
  const [word, state] = [byId("find").value.trim().toLowerCase(), byId("state").value];
  const fits = (run) => (!state || run.state === state)
    && (!word || `${run.run} ${run.reason ?? ""}`.toLowerCase().includes(word));
  const found = live.runs.filter(fits);
  setText(byId("shown"), `${found.length} of ${live.runs.length} runs`);
  tables.runs.show(found);
  for (const row of tables.runs.table.tBodies[0].rows) {
    if (row.dataset.key === wanted) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  keyed(byId("state"), ["", ...Object.keys(live.states)], (name) => name, (name) => element("option", { value: name }),
    (option, name) => setText(option, name ? `${name} (${live.states[name]})` : "all"));
}

// Curves

function showPanels() {
  keyed(byId("panels"), live.panels, (panel) => panel.name, makePanel, updatePanel);
  if (!live.panels.length) byId("panels").append(element("p", { className: "missing" }, "No checkpoint has been measured yet."));
  const law = live.panels.some((panel) => panel.curves.some((curve) => curve.lines.length));
  setText(byId("curves-about"), `Share of active neurons (CETT-PPL-${live.p_percent} %, mean over layers) against training tokens. `
    + (law ? "Line and band: the fitted law and its 95 % interval, dashed ahead of the points. " : "Open a run for its law and band. ")
    + "Hollow points are in the warm-up. Drag to zoom, double-click to zoom out.");
}

function makePanel(panel) {
  const host = element("div", { className: "chart" });
  const rows = element("div");
  const behind = element("details", {}, element("summary", {}, `Numbers of ${panel.name}`), rows);
  const node = element("figure", {}, element("figcaption", {}, panel.name), host, element("div", { className: "legend" }), behind);
  const chart = new Chart(host, { form: percent, choose: (run) => { location.hash = encodeURIComponent(run); } });
  panels.set(panel.name, { chart, rows, behind });
  behind.addEventListener("toggle", () => behind.open && panelNumbers(panel.name));
  return node;
}

function updatePanel(node, panel) {
  const { chart, behind } = panels.get(panel.name);
  const shade = new Map(panel.groups.map((group) => [group.name, [group.light, group.dark]]));
  const curves = panel.curves.map((curve) => ({ ...curve, colour: shade.get(curve.group) }));
  const about = `${panel.name}: activation ratio of ${curves.length} runs against tokens; newest ${newest(panel)}`;
  chart.show(curves, { log: byId("log").checked, about });
  keyed(node.querySelector(".legend"), panel.groups.filter((group) => group.name), (group) => group.name, legend, () => {});
  if (behind.open) panelNumbers(panel.name);
}

function legend(group) {
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: "100%", height: "4", y: "4" })) bar.setAttribute(name, value);
  bar.style.fill = `light-dark(${group.light}, ${group.dark})`;
  mark.append(bar);
  mark.setAttribute("aria-hidden", "true");
  return element("span", {}, mark, group.name);
}

function panelNumbers(name) {
  const panel = live.panels.find((each) => each.name === name);
  numbers(panels.get(name).rows, ["run", "first ratio", "newest ratio", "at tokens"], panel.curves.map((curve) =>
    [runLink(curve.run), percent(curve.ratios[0]), percent(curve.ratios.at(-1)), count(curve.tokens.at(-1))]));
}

// One run

const runCurve = new Chart(byId("run-curve"), { form: percent });
const runLoss = new Chart(byId("run-loss"), { form: digits });

function openRun() {
  const name = decode(location.hash.slice(1));
  const there = live !== null && live.runs.some((run) => run.run === name);
  if (!there && wanted === null) return;
  const changed = wanted !== name;
  wanted = there ? name : null;
  byId("run").hidden = !there;
  if (live) showRuns();
  if (!there || !changed) return;
  whole = null;
  setText(byId("run-name"), `Run ${name}`);
  byId("run").scrollIntoView();
  byId("run").focus({ preventScroll: true });
  askRun();
}

function decode(text) {
  try { return decodeURIComponent(text); } catch { return ""; }
}

function showRun(content) {
  whole = content;
  const [{ status, curve }, shown] = [content, live.runs.find((run) => run.run === content.status.run)];
  const fit = content.fits[0];
  facts(byId("run-facts"), [
    ["state", status.state], ["tokens", `${count(status.tokens)} of ${count(status.tokens_planned)}`],
    ["loss", digits(status.loss)], ["activation ratio", percent(status.activation_ratio)],
    ["limit, 95 %", limit(shown)], ["time left", shown.done_at === null ? "–" : duration(shown.done_at - now())],
    ["restarts", String(shown.restarts)], ["checkpoints", `${status.checkpoints} of ${status.checkpoints_planned}`],
    ["law", fit ? fit.law : "–"], ["reason", status.reason ?? "–"],
  ]);
  const [warmup, colour] = place(status.run);
  const points = curve ? [{ run: status.run, tokens: curve.tokens, ratios: curve.activation_ratio, stage: curve.stage,
    warmup_tokens: warmup, colour, lines: content.lines }] : [];
  const log = byId("log").checked;
  runCurve.show(points, { log, about: `Activation ratio of ${status.run}; newest ${percent(status.activation_ratio)}; limit ${limit(shown)}` });
  runLoss.show([{ run: status.run, tokens: content.losses.tokens, ratios: content.losses.loss, marks: false, colour, lines: [] }],
    { log, about: `Training loss of ${status.run}; newest ${digits(status.loss)}` });
  if (byId("run-numbers").open) runNumbers();
}

/* Tokens of a run's warm-up, and its colour in the panels. */
function place(run) {
  for (const panel of live.panels) {
    const curve = panel.curves.find((each) => each.run === run);
    const group = curve && panel.groups.find((each) => each.name === curve.group);
    if (group) return [curve.warmup_tokens, [group.light, group.dark]];
  }
  return [0, ["#5b636b", "#9aa3ab"]];
}

function runNumbers() {
  const { curve } = whole ?? {};
  const rows = curve ? curve.tokens.map((tokens, i) => [count(tokens), percent(curve.activation_ratio[i]),
    curve.half_width[i] === null ? "–" : `± ${percent(curve.half_width[i])}`]) : [];
  numbers(byId("run-numbers").lastElementChild, ["tokens", "activation ratio", "95 % interval"], rows);
}

// Advice

let askAdvice = null;
function adviseSoon() {
  if (askAdvice !== null || byId("advice").querySelector("button")) return;
  if (live.runs.length <= MOST_ADVISED) return startAdvice();
  const button = element("button", { type: "button" }, `Work out advice on ${live.runs.length} runs (takes minutes)`);
  button.addEventListener("click", startAdvice);
  byId("advice").replaceChildren(button);
}

function startAdvice() {
  const place = byId("advice");
  place.replaceChildren(element("p", { className: "missing" }, "Working it out…"));
  askAdvice = feed(() => `${path}/advice`, (advice) => showAdvice(place, advice), {
    seconds: ADVICE_SECONDS,
    failed: (said) => place.replaceChildren(element("p", { className: "missing" }, said)),
  });
}

// What is asked, and what people do

feed(() => `${path}/live`, showStudy);
const askRun = feed(() => (wanted === null ? null : `${path}/runs/${encodeURIComponent(wanted)}`), showRun, { seconds: RUN_SECONDS });
setInterval(() => live && !document.hidden && (showRuns(), showFacts()), 1000);
addEventListener("hashchange", openRun);
byId("close").addEventListener("click", () => { location.hash = "runs"; });
byId("run-numbers").addEventListener("toggle", runNumbers);
for (const [name, event] of [["find", "input"], ["state", "change"]]) byId(name).addEventListener(event, () => live && showRuns());
byId("log").addEventListener("change", () => { if (live) showPanels(); if (whole) showRun(whole); });
