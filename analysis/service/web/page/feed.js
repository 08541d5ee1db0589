// Asks a JSON document again and again: only what has changed comes, and nothing while hidden.

import { byId, duration, setText } from "./dom.js";

const SECONDS = 2, HIDDEN_SECONDS = 30, PATIENCE_SECONDS = 60;
const version = document.querySelector("meta[name=version]").content;
let skew = 0;  // the service's clock less this one's, in seconds
let answered = null;
const lost = new Map();  // what is wrong, by feed

export const now = () => Date.now() / 1000 + skew;

/* Calls `show` with the document at `address()` whenever it is another; returns `ask` for at once. */
export function feed(address, show, { seconds = SECONDS, failed = null } = {}) {
  let tag = null, of = null, timer = null, turn = 0;
  async function ask() {
    clearTimeout(timer);
    const mine = ++turn, asked = address();
    if (asked !== of) [tag, of] = [null, asked];
    let wait = document.hidden ? Math.max(seconds, HIDDEN_SECONDS) : seconds;
    if (asked !== null) {
      try {
        const answer = await fetch(asked, {
          cache: "no-store",
          headers: tag ? { "if-none-match": tag } : {},
          signal: AbortSignal.timeout(PATIENCE_SECONDS * 1000),
        });
        heard(answer);
        if (mine !== turn) return;
        if (answer.status === 200) {
          const content = await answer.json();
          if (mine !== turn) return;
          checkVersion(content.page_version);
          show(content);
          tag = answer.headers.get("etag");
        } else if (answer.status !== 304) {
          const said = await answer.json().catch(() => ({}));
          throw new Error(said.error || `the service answers ${answer.status}`);
        }
        lost.delete(ask);
      } catch (error) {
        const far = error instanceof TypeError || error.name === "TimeoutError";
        if (failed && !far) failed(error.message);
        else lost.set(ask, far ? "not reachable" : error.message);
        wait = Math.min(30, 2 * wait + 1);
      }
    }
    if (mine === turn) timer = setTimeout(ask, wait * 1000);
  }
  addEventListener("visibilitychange", () => document.hidden || ask());
  ask();
  return ask;
}

function heard(answer) {
  if (answer.status === 401) location.assign(`/login?to=${encodeURIComponent(location.pathname)}${location.hash}`);
  const date = Date.parse(answer.headers.get("date"));
  if (date) skew = Math.abs(date - Date.now()) > 2000 ? (date - Date.now()) / 1000 : 0;
  answered = Date.now();
}

/* A page that stays open loads itself again, once, when the service has come with a newer one. */
function checkVersion(theirs) {
  if (theirs === undefined || theirs === version || sessionStorage.getItem("reloaded") === theirs) return;
  sessionStorage.setItem("reloaded", theirs);
  location.reload();
}

function showConnection() {
  const place = byId("connection");
  const since = answered === null ? null : (Date.now() - answered) / 1000;
  const [wrong] = lost.values();
  place.toggleAttribute("data-lost", wrong !== undefined);
  if (wrong === undefined) setText(place, since === null ? "" : "live");
  else setText(place, since === null || since < 60 ? wrong : `${wrong}; last answer ${duration(since)} ago`);
}
setInterval(showConnection, 1000);
