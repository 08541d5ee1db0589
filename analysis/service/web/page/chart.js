// Curves against training tokens: axes by uPlot, and on them points, laws and bands.

import { count, element, setText } from "./dom.js";

const NEAR = 24, BAND = 0.14, THIN = 0.45, MOST_MARKS = 1500;
const ROOM = 1.08, FLATTENED = 0.2;
const charts = new Set();

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
const probe = element("span", { hidden: true });
document.body.append(probe);
function colour(name) {  // resolved for the canvas, by the theme
  probe.style.color = `var(${name})`;
  return getComputedStyle(probe).color;
}
export function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
}

/* A curve: {run, tokens, ratios, warmup_tokens, stage, colour: [light, dark], lines}. */
export class Chart {
  constructor(host, { form, choose = null }) {
    this.host = host;
    this.form = form;
    this.choose = choose;
    this.curves = [];
    this.zoom = null;
    this.log = false;
    this.tip = element("div", { className: "tip", hidden: true });
    this.plot = null;
    charts.add(this);
    new ResizeObserver(() => this.resize()).observe(host);
  }

  show(curves, { log, about }) {
    this.curves = curves.filter((curve) => curve.tokens.length);
    this.host.setAttribute("role", "img");
    this.host.setAttribute("aria-label", about);
    if (!this.curves.length) return;
    const full = this.extent();
    if (!this.plot || log !== this.log) {
      this.log = log;
      this.build(full);
    } else if (!this.zoom) {
      this.plot.batch(() => this.setScales(full));
      this.plot.redraw(false, true);
    } else this.plot.redraw(false, true);
  }

  extent() {
    const reduce = (values, pick, start) => values.reduce((a, b) => pick(a, b), start);
    const tokens = this.curves.flatMap((curve) => [curve.tokens[0], curve.tokens.at(-1),
      ...curve.lines.flatMap((line) => [line.tokens.at(-1)])]);
    const low = reduce(this.curves, (a, c) => Math.min(a, reduce(c.ratios, Math.min, a)), Infinity);
    const high = reduce(this.curves, (a, c) => Math.max(a, reduce(c.ratios, Math.max, a)), -Infinity);
    const room = 0.2 * (high - low) || 0.1 * high || 0.01;
    const flat = high - low < FLATTENED * high;
    const y = flat ? [Math.max(0, low - room), high + room] : [0, ROOM * high];
    let [first, last] = [reduce(tokens, Math.min, Infinity), reduce(tokens, Math.max, 0)];
    if (this.log) {
      const span = Math.log(last / first) * 0.03 || 0.1;
      [first, last] = [first * Math.exp(-span), last * Math.exp(span)];
    } else {
      first = 0;
      last *= 1.02;
    }
    return { x: [first, last], y };
  }

  setScales({ x, y }) {
    this.plot.setScale("x", { min: x[0], max: x[1] });
    this.plot.setScale("y", { min: y[0], max: y[1] });
  }

  build() {
    this.plot?.destroy();
    this.zoom = null;
    const full = this.extent();
    const axis = { stroke: () => colour("--quiet"), font: `12px ${css("--font")}`,
      grid: { stroke: () => colour("--line"), width: 1 }, ticks: { stroke: () => colour("--line"), width: 1 } };
    const range = (key) => () => this.zoom?.[key] ?? this.extent()[key];
    this.plot = new uPlot({
      width: this.host.clientWidth, height: this.host.clientHeight,
      legend: { show: false },
      padding: [8, 10, 0, 0],
      cursor: { points: { show: false }, y: false, drag: { x: true, y: false, setScale: false } },
      scales: { x: { time: false, distr: this.log ? 3 : 1, range: range("x") }, y: { range: range("y") } },
      axes: [
        { ...axis, size: 30, space: 64, values: (_, values) => values.map((v) => (v === null ? "" : count(v))),
          ...(this.log ? { splits: (u) => logSplits(u.scales.x), filter: (_, splits) => splits } : {}) },
        { ...axis, size: 62, space: 36, values: (_, values) => values.map((v) => this.form(v)) },
      ],
      series: [{}, { show: true, paths: () => null, points: { show: false } }],
      hooks: {
        draw: [(u) => this.draw(u)],
        setCursor: [(u) => this.point(u)],
        setSelect: [(u) => this.zoomTo(u)],
      },
    }, [full.x, full.y], this.host);
    const over = this.plot.over;
    over.append(this.tip);
    over.addEventListener("dblclick", () => this.zoomOut());
    over.addEventListener("click", () => this.choose && this.near && !this.dragged && this.choose(this.near.run));
    over.addEventListener("mousedown", () => { this.dragged = false; });
  }

  zoomTo(u) {
    if (u.select.width < 5) return;
    this.dragged = true;
    const ends = [u.select.left, u.select.left + u.select.width].map((place) => u.posToVal(place, "x"));
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoom = { x: ends };
    u.setScale("x", { min: ends[0], max: ends[1] });
  }

  zoomOut() {
    this.zoom = null;
    this.plot.batch(() => this.setScales(this.extent()));
  }

  draw(u) {
    const { ctx, bbox } = u, ratio = devicePixelRatio, dark = isDark() ? 1 : 0;
    const x = (value) => u.valToPos(value, "x", true), y = (value) => u.valToPos(value, "y", true);
    const total = this.curves.reduce((sum, curve) => sum + curve.tokens.length, 0);
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.lineJoin = "round";
    const path = (xs, ys) => {
      ctx.beginPath();
      xs.forEach((value, i) => (i ? ctx.lineTo(x(value), y(ys[i])) : ctx.moveTo(x(value), y(ys[i]))));
    };
    for (const curve of this.curves) {
      ctx.strokeStyle = ctx.fillStyle = curve.colour[dark];
      for (const line of curve.lines) {
        if (line.low) {
          path([...line.tokens, ...line.tokens.toReversed()], [...line.low, ...line.high.toReversed()]);
          ctx.globalAlpha = BAND;
          ctx.fill();
        }
      }
      ctx.globalAlpha = curve.lines.length ? THIN : 0.85;
      ctx.lineWidth = (curve.lines.length ? 0.9 : 1.3) * ratio;
      path(curve.tokens, curve.ratios);
      ctx.stroke();
      ctx.globalAlpha = 1;
      ctx.lineWidth = 1.8 * ratio;
      for (const line of curve.lines) {
        const end = line.tokens.indexOf(line.last_tokens) + 1;
        path(line.tokens.slice(0, end), line.value.slice(0, end));
        ctx.stroke();
        ctx.setLineDash([5 * ratio, 4 * ratio]);
        path(line.tokens.slice(end - 1), line.value.slice(end - 1));
        ctx.stroke();
        ctx.setLineDash([]);
      }
      if (total <= MOST_MARKS && curve.marks !== false) this.marks(ctx, curve, x, y, ratio);
    }
    ctx.restore();
  }

  marks(ctx, curve, x, y, ratio) {
    ctx.lineWidth = 1.2 * ratio;
    const [plain, size] = [ctx.fillStyle, 2.8 * ratio];
    curve.tokens.forEach((tokens, i) => {
      const [left, top] = [x(tokens), y(curve.ratios[i])];
      ctx.beginPath();
      if (curve.stage === "live") {
        ctx.moveTo(left, top - 1.3 * size);
        for (const [dx, dy] of [[1.3, 0], [0, 1.3], [-1.3, 0]]) ctx.lineTo(left + dx * size, top + dy * size);
        ctx.closePath();
      } else ctx.arc(left, top, size, 0, 7);
      ctx.fillStyle = tokens <= curve.warmup_tokens ? colour("--paper") : plain;
      ctx.fill();
      ctx.stroke();
    });
    ctx.fillStyle = plain;
  }

  point(u) {
    const { left, top } = u.cursor;
    let best = NEAR ** 2;
    this.near = null;
    if (left >= 0) {
      for (const curve of this.curves) {
        curve.tokens.forEach((tokens, i) => {
          const [dx, dy] = [u.valToPos(tokens, "x") - left, u.valToPos(curve.ratios[i], "y") - top];
          if (dx * dx + dy * dy < best) {
            best = dx * dx + dy * dy;
            this.near = { run: curve.run, tokens, value: curve.ratios[i] };
          }
        });
      }
    }
    this.tip.hidden = this.near === null;
    u.over.style.cursor = this.near && this.choose ? "pointer" : "";
    if (this.near === null) return;
    setText(this.tip, `${this.near.run}: ${this.form(this.near.value)} at ${count(this.near.tokens)}`);
    const width = this.tip.offsetWidth;
    this.tip.style.left = `${Math.max(0, Math.min(u.over.clientWidth - width, left - width / 2))}px`;
    this.tip.style.top = `${top < 40 ? top + 14 : top - 36}px`;
  }

  resize() {
    if (this.plot && this.host.clientWidth) this.plot.setSize({ width: this.host.clientWidth, height: this.host.clientHeight });
  }

  remove() {
    this.plot?.destroy();
    charts.delete(this);
  }
}

/* 1, 2 and 5 of each decade where there is room for them, else 1. */
function logSplits({ min, max }) {
  const steps = max / min < 300 ? [1, 2, 5] : [1], found = [];
  for (let ten = 10 ** Math.floor(Math.log10(min)); ten <= max; ten *= 10) {
    for (const step of steps) if (step * ten >= min && step * ten <= max) found.push(step * ten);
  }
  return found.length > 1 ? found : [min, max];
}

addEventListener("theme", () => charts.forEach((chart) => chart.plot?.redraw(false, true)));
