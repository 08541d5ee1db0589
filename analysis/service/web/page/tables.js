// Tables of runs, limits and points: rows stay where they are, and only changed cells are set.

import { byId, count, digits, duration, element, keyed, limit, percent, runLink, setText } from "./dom.js";
import { now } from "./feed.js";

const FIRST_ROWS = 100;

/* columns: [head, fill(cell, item)]; the first is the row's head. */
export class RowTable {
  constructor(name, columns, keyOf) {
    this.table = byId(`${name}-table`);
    this.button = byId(`all-${name}`);
    [this.columns, this.keyOf, this.whole, this.items] = [columns, keyOf, false, []];
    const heads = columns.map(([head]) => element("th", { scope: "col" }, head));
    this.table.tHead.append(element("tr", {}, ...heads));
    this.button.addEventListener("click", () => { this.whole = true; this.show(this.items); });
  }

  show(items) {
    this.items = items;
    const shown = this.whole ? items : items.slice(0, FIRST_ROWS);
    keyed(this.table.tBodies[0], shown, this.keyOf, () => this.row(), (row, item) => this.fill(row, item));
    this.button.hidden = shown.length === items.length;
    setText(this.button, `Show all ${items.length}`);
  }

  row() {
    const cells = this.columns.map(([head], i) => element(i ? "td" : "th", i ? { "data-head": head } : { scope: "row" }));
    return element("tr", {}, ...cells);
  }

  fill(row, item) {
    this.columns.forEach(([, fill], i) => fill(row.cells[i], item));
  }
}

const text = (say) => (cell, item) => setText(cell, say(item));

function runName(cell, item) {
  if (cell.textContent !== item.run) cell.replaceChildren(runLink(item.run));
}

function state(cell, run) {
  if (!cell.firstChild) cell.append(element("span", { className: "state" }));
  cell.firstChild.dataset.state = run.state;
  setText(cell.firstChild, run.state);
}

function progress(cell, run) {
  if (!cell.firstChild) cell.append(element("span"), element("progress", { max: 1 }));
  setText(cell.firstChild, `${count(run.tokens)} of ${count(run.tokens_planned)}`);
  cell.lastChild.value = run.tokens / run.tokens_planned;
  cell.lastChild.setAttribute("aria-label", `Tokens of ${run.run}`);
}

const left = (run) => (run.done_at === null ? "–" : duration(run.done_at - now()));
const age = (run) => (run.newest_at === null ? "–" : `${duration(now() - run.newest_at)} ago`);

export const runTable = () => new RowTable("runs", [
  ["run", runName], ["state", state], ["tokens", progress], ["loss", text((run) => digits(run.loss))],
  ["activation ratio", text((run) => percent(run.activation_ratio))], ["limit, 95 %", text(limit)], ["law", text((run) => run.verdict ?? "–")],
  ["time left", text(left)], ["restarts", text((run) => String(run.restarts))], ["newest row", text(age)],
], (run) => run.run);

export const limitTable = () => new RowTable("limits", [
  ["run", runName], ["law", text((fit) => `${fit.law} (${fit.stage})`)], ["limit, 95 %", text(limit)],
  ["verdict", text((fit) => fit.verdict ?? "–")], ["points fitted", text((fit) => `${fit.points}, up to ${count(fit.tokens)}`)],
  ["notes", text((fit) => fit.notes.join("; ") || "–")],
], (fit) => `${fit.run} ${fit.law}`);

/* A plain table of numbers behind a chart, made anew. */
export function numbers(place, heads, rows) {
  const head = element("thead", {}, element("tr", {}, ...heads.map((each) => element("th", { scope: "col" }, each))));
  const cells = (row) => row.map((each, i) => element(i ? "td" : "th", i ? { "data-head": heads[i] } : { scope: "row" }, each));
  const body = element("tbody", {}, ...rows.map((row) => element("tr", {}, ...cells(row))));
  place.replaceChildren(element("table", {}, head, body));
}
