// A link from elsewhere comes without the session's cookie; asked from here, it goes with it.
const form = document.querySelector("form");
form.action = `/login${location.hash}`;  // a run that a link names is still named after the form
if (!document.querySelector("[role=alert]")) {
  const answer = await fetch(location.href, { redirect: "manual" }).catch(() => null);
  if (answer?.type === "opaqueredirect") location.replace(form.elements.to.value + location.hash);
}
