"use strict";
// What makes the page better where scripts may run, and changes nothing that it says: tables sort
// and filter, details unfold at once, commands are copied, light and dark turn, and what is pointed
// at in a drawing is told. It reads text and writes text: no word of a dump becomes markup.
(() => {
  const make = (tag, text, properties) =>
    Object.assign(document.createElement(tag), { textContent: text }, properties);
  const button = (text, act) => {
    const one = make("button", text, { type: "button" });
    one.addEventListener("click", act);
    return one;
  };
  const all = (selector) => [...document.querySelectorAll(selector)];

  const tools = make("p", "", { className: "tools" });
  document.querySelector("header").append(tools);

  const dark = [...document.styleSheets[0].cssRules].find(
    (rule) => rule.media && rule.media.mediaText.includes("dark"));
  const system = matchMedia("(prefers-color-scheme: dark)");
  let chosen = null; // Not kept: files of a folder share what a browser would remember, or may not.
  const isDark = () => (chosen === null ? system.matches : chosen);
  const name = () => { shade.textContent = isDark() ? "Light" : "Dark"; };
  const shade = button("", () => {
    chosen = !isDark();
    dark.media.mediaText = chosen ? "screen" : "not all";
    document.documentElement.style.colorScheme = chosen ? "dark" : "light";
    name();
  });
  system.addEventListener("change", name);
  name();
  tools.append(shade);

  const folds = all("details");
  if (folds.length) {
    const shut = () => folds.some((one) => !one.open);
    const fold = button("Unfold all", () => {
      const open = shut();
      for (const one of folds) one.open = open;
    });
    document.addEventListener(
      "toggle", () => { fold.textContent = shut() ? "Unfold all" : "Fold all"; }, true);
    tools.append(fold);
  }

  const units = new Map([["KiB", 2 ** 10], ["MiB", 2 ** 20], ["GiB", 2 ** 30], ["TiB", 2 ** 40],
    ["minutes", 60], ["hours", 3600], ["days", 86400]]);
  // A number where the cell stands for one; "" sorts last.
  const key = (cell) => {
    const data = cell.querySelector("data");
    if (data) return Number(data.value);
    const text = cell.textContent.trim();
    if (!cell.classList.contains("number")) return text.toLowerCase();
    const found = /^([<>~+]*)(-?[0-9][0-9,.]*) ?(\w*)/.exec(text);
    if (!found) return "";
    const value = Number(found[2].replace(/,/g, "")) * (units.get(found[3]) || 1);
    return found[1] === "<" ? value / 2 : value;
  };
  const order = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    return typeof a === typeof b && typeof a === "number"
      ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
  };

  const sortable = (table, rows) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim()) return;
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const second = first === "ascending" ? "descending" : "ascending";
      const one = button(head.textContent, () => {
        const now = head.getAttribute("aria-sort");
        const next = now === first ? second : now === second ? null : first;
        for (const other of heads) other.removeAttribute("aria-sort");
        if (next) head.setAttribute("aria-sort", next);
        const keys = new Map(rows.map((row) => [row, key(row.cells[column])]));
        const sign = next === "descending" ? -1 : 1;
        const sorted = [...rows];
        if (next) {
          sorted.sort((a, b) => {
            const by = order(keys.get(a), keys.get(b));
            return keys.get(a) === "" || keys.get(b) === "" ? by : sign * by;
          });
        }
        table.tBodies[0].append(...sorted);
      });
      head.textContent = "";
      head.append(one);
    });
  };

  const filterable = (table, rows) => {
    const field = make("input", "", { type: "search", placeholder: "Filter" });
    field.setAttribute("aria-label", `Filter: ${table.caption.textContent}`);
    const told = make("span", "", { className: "told" });
    told.setAttribute("role", "status");
    const texts = rows.map((row) => row.textContent.toLowerCase());
    field.addEventListener("input", () => {
      const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      rows.forEach((row, i) => { row.hidden = !words.every((word) => texts[i].includes(word)); });
      const left = rows.filter((row) => !row.hidden).length;
      told.textContent = words.length ? `${left} of ${rows.length} rows, by a filter` : "";
    });
    const line = make("p", "", { className: "filter" });
    line.append(field, told);
    table.parentElement.before(line);
  };

  for (const table of all("main table")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length >= 3) sortable(table, rows);
    if (rows.length >= 10) filterable(table, rows);
  }

  all(".commands code").forEach((code, i) => {
    code.id = `command${i}`;
    const copy = button("Copy", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        copy.textContent = "Selected: press Ctrl-C";
      }
      setTimeout(() => { copy.textContent = "Copy"; }, 3000);
    });
    copy.className = "copy";
    copy.setAttribute("aria-describedby", code.id);
    code.after(copy);
  });

  for (const drawing of all(".draw.points-out")) {
    const told = make("p", "\u00a0", { className: "pointed" });
    told.setAttribute("aria-hidden", "true"); // the table has it
    drawing.after(told);
    drawing.addEventListener("pointerover", (event) => {
      const at = event.target.closest("g, circle");
      const title = at && at.querySelector("title");
      told.textContent = title ? title.textContent : "\u00a0";
    });
  }
})();
