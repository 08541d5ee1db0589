// The studies at a glance.

import { byId, count, element, keyed, LEVELS, setText, soon } from "./dom.js";
import { feed, now } from "./feed.js";

function make(study) {
  const link = element("a", { href: `/studies/${encodeURIComponent(study.study)}` }, study.study);
  const card = element("article", { className: "card" }, element("h2", {}, link),
    element("p", { className: "health-line" }, element("strong", { className: "level" }), element("span")),
    element("p", { className: "said" }),
    element("progress", { max: 1, "aria-label": "Share of the tokens trained" }),
    element("p", { className: "quiet times" }));
  return card;
}

function update(card, study) {
  const [line, said] = [card.querySelector(".health-line"), card.querySelector(".said")];
  if (study.error !== undefined) {
    card.dataset.level = "failed";
    setText(line.firstChild, "Cannot be read");
    setText(said, study.error);
    return;
  }
  card.dataset.level = study.health.level;
  setText(line.firstChild, LEVELS[study.health.level]);
  setText(line.lastChild, ` ${study.health.summary}`);
  setText(said, study.finding);
  const share = study.tokens / study.tokens_planned;
  card.querySelector("progress").value = share;
  const done = study.done_at === null ? "" : `; done in about ${soon(study.done_at - now())}`;
  setText(card.querySelector(".times"),
    `${count(study.tokens)} of ${count(study.tokens_planned)} tokens (${(100 * share).toFixed(1)} %)${done}`);
}

function sentence(studies) {
  const bad = studies.filter((each) => each.error || ["failed", "attention"].includes(each.health.level));
  const well = `${studies.length} ${studies.length === 1 ? "study is" : "studies are"} well.`;
  return bad.length ? `${bad.length} of ${studies.length} ${studies.length === 1 ? "study" : "studies"} should be looked at.` : well;
}

feed(() => "/api/studies", ({ studies }) => {
  setText(byId("said"), sentence(studies));
  keyed(byId("studies"), studies, (each) => each.study, make, update);
});
