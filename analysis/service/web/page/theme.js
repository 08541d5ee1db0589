// The theme: the system's, or the one chosen here. Not a module: it runs before anything is drawn.
"use strict";
(() => {
  const themes = ["auto", "light", "dark"];
  const root = document.documentElement;
  const read = () => {
    try { return localStorage.getItem("theme"); } catch { return null; }
  };
  const use = (theme) => {
    root.dataset.theme = theme;
    const button = document.getElementById("theme");
    if (button) button.textContent = `Theme: ${theme}`;
    dispatchEvent(new Event("theme"));
  };
  use(themes.includes(read()) ? read() : "auto");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => use(root.dataset.theme));
  addEventListener("DOMContentLoaded", () => {
    use(root.dataset.theme);
    document.getElementById("theme").addEventListener("click", () => {
      const next = themes[(themes.indexOf(root.dataset.theme) + 1) % themes.length];
      try { localStorage.setItem("theme", next); } catch { /* the choice then ends with the page */ }
      use(next);
    });
  });
})();
