// What the page gains with a script: tables that sort, a filter by observer, tips on charts, and links that open
// what they lead to. Nothing is loaded, and text of the report is only ever set as text.
"use strict";
(() => {
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const words = new Intl.Collator("en", { numeric: true });

  // Sorting, within each group of rows.
  const key = (row, column) => {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = (cell.querySelector("b") ?? cell).textContent.trim();
    const figure = /^(?:ε = )?(-?\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])/.exec(text);
    return figure ? Number(figure[1]) : text;
  };
  const compare = (a, b) => {
    if (typeof a === typeof b) return typeof a === "number" ? a - b : words.compare(a, b);
    return typeof a === "number" ? -1 : 1;
  };
  const sort = (table, column, order) => {
    const width = table.tHead.rows[0].cells.length;
    for (const body of table.tBodies) {
      const rows = [...body.rows];
      rows.forEach((row, place) => (row.dataset.place ??= place));
      const whole = rows.filter((row) => row.cells.length === width);
      const rest = rows.filter((row) => row.cells.length !== width && row !== rows[0]);
      const head = whole.includes(rows[0]) ? [] : [rows[0]];
      const placed = (a, b) => a.dataset.place - b.dataset.place;
      if (order === "none") {
        body.append(...rows.sort(placed));
        continue;
      }
      const sign = order === "ascending" ? 1 : -1;
      const keyed = whole.map((row) => [key(row, column), row]);
      keyed.sort(([a, first], [b, second]) => {
        const mixed = typeof a !== typeof b; // what isn't a figure stays below those that are
        return (mixed ? 1 : sign) * compare(a, b) || placed(first, second);
      });
      body.append(...head, ...keyed.map(([, row]) => row), ...rest);
    }
  };
  const orders = { none: "ascending", ascending: "descending", descending: "none" };
  for (const table of all("table")) {
    if (!table.tHead || ![...table.tBodies].some((body) => body.rows.length > 2)) continue;
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "sort";
      button.append(...head.childNodes);
      head.append(button);
      head.ariaSort = "none";
      button.addEventListener("click", () => {
        const order = orders[head.ariaSort];
        heads.forEach((other) => (other.ariaSort = "none"));
        head.ariaSort = order;
        sort(table, column, order);
      });
    });
  }

  // One observer at a time.
  const tools = document.getElementById("tools");
  const choice = document.getElementById("observer");
  const said = document.getElementById("shown");
  const rows = all("tr[data-observer]");
  const filter = () => {
    const who = choice.value;
    let shown = 0;
    for (const part of all("[data-observer]")) {
      part.toggleAttribute("data-off", who !== "" && part.dataset.observer !== who);
    }
    for (const row of rows) shown += !row.hasAttribute("data-off");
    said.textContent = who === "" ? "" : `${shown} of ${rows.length} rows`;
  };
  if (tools) {
    tools.hidden = false;
    choice.addEventListener("change", filter);
    filter(); // a browser may have kept the choice
  }

  // Tips: where something points, and by arrow keys within a chart.
  const bubble = document.createElement("div");
  bubble.className = "bubble";
  bubble.setAttribute("role", "status");
  document.body.append(bubble);
  let pointed = null;
  const hide = () => {
    pointed?.classList.remove("on");
    pointed = null;
    bubble.classList.remove("on");
  };
  const show = (tip) => {
    hide();
    pointed = tip;
    tip.classList.add("on");
    bubble.textContent = tip.dataset.tip;
    bubble.classList.add("on");
    const at = tip.getBoundingClientRect();
    const left = at.left + at.width / 2 - bubble.offsetWidth / 2;
    const above = at.top - bubble.offsetHeight - 8;
    bubble.style.left = `${Math.max(8, Math.min(left, document.documentElement.clientWidth - bubble.offsetWidth - 8))}px`;
    bubble.style.top = `${above < 8 ? at.bottom + 8 : above}px`;
  };
  for (const chart of all("svg.chart")) {
    const tips = all(".tip", chart);
    for (const tip of tips) {
      const title = tip.querySelector("title");
      tip.dataset.tip = title.textContent;
      title.remove();
    }
    if (!tips.length) continue;
    chart.tabIndex = 0;
    chart.addEventListener("pointerover", (event) => {
      const tip = event.target.closest(".tip");
      tip ? show(tip) : hide();
    });
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("blur", hide);
    chart.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const seen = tips.filter((tip) => !tip.closest("[data-off]"));
      if (!seen.length) return;
      const now = seen.indexOf(pointed);
      show(seen[now < 0 ? (step > 0 ? 0 : seen.length - 1) : (now + step + seen.length) % seen.length]);
    });
  }
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  window.addEventListener("scroll", hide, { passive: true });

  // Deep links.
  const arrive = () => {
    let id = "";
    try {
      id = decodeURIComponent(location.hash.slice(1));
    } catch {
      return; // not one of ours
    }
    const target = id && document.getElementById(id);
    if (!target) return;
    if (tools && target.closest("[data-off]")) {
      choice.value = "";
      filter();
    }
    for (let box = target.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    target.scrollIntoView({ block: "center" });
  };
  window.addEventListener("hashchange", arrive);
  arrive();
})();
