// Elements, texts and numbers. What comes from a study is only ever set as text.

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key.includes("-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function runLink(run) {
  const link = element("a", {}, run);
  link.href = `#${encodeURIComponent(run)}`;
  return link;
}

/* Children of `parent`, one for each item, by its key: what is there already stays. */
export function keyed(parent, items, keyOf, make, update) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child === undefined) {
      child = make(item);
      child.dataset.key = key;
    }
    old.delete(key);
    update(child, item);
    if (child === place) place = place.nextElementSibling;
    else parent.insertBefore(child, place);
  }
  for (const child of old.values()) child.remove();
}

export function facts(list, pairs) {
  const make = ([name]) => element("div", {}, element("dt", {}, name), element("dd"));
  keyed(list, pairs, ([name]) => name, make, (node, [, text]) => setText(node.lastChild, text));
}

export function count(number) {
  if (number === null || number === undefined) return "–";
  const units = ["", "K", "M", "B", "T"];
  let index = 0;
  while (Number(number.toPrecision(3)) >= 1000 && index < units.length - 1) {
    number /= 1000;
    index += 1;
  }
  return `${Number(number.toPrecision(3))}${units[index]}`;
}

export const percent = (ratio) =>
  ratio === null || ratio === undefined ? "–" : `${(100 * ratio).toPrecision(3).replace(/\.$/, "")} %`;

export const digits = (number) =>
  number === null || number === undefined ? "–" : String(Number(number.toPrecision(4)));

export function limit(fit) {
  if (!fit.law) return "–";
  if (fit.limit !== null) return `${percent(fit.limit)} [${bound(fit.low)}, ${bound(fit.high)}]`;
  if (fit.low === null && fit.high === null) return "not identified";
  return fit.high === null ? `above ${percent(fit.low)}` : `below ${percent(fit.high)}`;
}

const bound = (ratio) => (ratio === null ? "open" : percent(ratio));

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  for (const [large, size, small, part] of
    [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
    if (whole >= size) return `${Math.floor(whole / size)} ${large} ${Math.floor((whole % size) / part)} ${small}`;
  }
  return `${whole} s`;
}

export const soon = (seconds) => (seconds < 60 ? "less than 1 min" : duration(seconds));

export function hours(number) {
  if (number < 1 / 60) return `${Number((number * 3600).toPrecision(2))} s`;
  if (number < 1) return `${Number((number * 60).toPrecision(2))} min`;
  return `${Math.round(number) >= 1000 ? Math.round(number).toLocaleString("en") : Number(number.toPrecision(3))} h`;
}

export const LEVELS = {
  failed: "Failures", attention: "Needs a look", healthy: "Healthy", done: "Done", planned: "Not started",
};
