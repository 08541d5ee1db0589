// What to do next: the document of `sparsing advise`, shortest first.

import { element, hours, runLink } from "./dom.js";

const MEANINGS = [["stop", "Can stop"], ["extend", "Must go on"], ["cannot say", "Cannot say yet"], ["done", "Known and done"]];
const FIRST = 3, MOST_NEW = 2;

export function showAdvice(place, advice) {
  const parts = MEANINGS.flatMap(([verdict, meaning]) => {
    const runs = advice.runs.filter((run) => run.verdict === verdict);
    return runs.length ? group(`${meaning}: ${amount(runs)}${saved(runs, advice)}`, runs.map(run)) : [];
  });
  const families = advice.new_runs.filter((family) => family.runs.length);
  if (families.length) parts.push(...group("To run next", families.flatMap((family) => family.runs.slice(0, MOST_NEW).map((each) => next(each, family, advice)))));
  const planned = advice.planned.filter((each) => each.verdict !== "cannot say");
  if (planned.length) parts.push(...group("Expected of runs that have not started", planned.map(expected)));
  if (!parts.length) parts.push(element("p", { className: "missing" }, "No run has started yet: start the study, then advice comes with the first measurements."));
  place.replaceChildren(...parts);
}

const amount = (runs) => `${runs.length} ${runs.length === 1 ? "run" : "runs"}`;

function saved(runs, advice) {
  const sum = runs.reduce((total, each) => total + (each.saved_gpu_hours ?? 0), 0);
  return sum ? `, which saves ${hours(sum)} of ${advice.accelerator} time` : "";
}

function group(title, items) {
  const list = (some) => element("ul", {}, ...some);
  const parts = [element("h3", {}, title), list(items.slice(0, FIRST))];
  if (items.length > FIRST) parts.push(element("details", {}, element("summary", {}, `${items.length - FIRST} more`), list(items.slice(FIRST))));
  return parts;
}

const run = (each) => element("li", {}, runLink(each.run), `: ${each.reason}`, each.notes.length ? ` (${each.notes.join("; ")})` : "");
const expected = (each) => element("li", {}, `${each.run}: ${each.value === null ? "–" : Number(each.value.toPrecision(4))}, ${each.reason}`);
const next = (each, family, advice) => element("li", {}, `${each.run} (${each.kind}, ${hours(each.gpu_hours)} of ${advice.accelerator} time) narrows the law ${family.family}: ${family.reason}`);
