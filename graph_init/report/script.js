// Behaviour of a report: sorting, filtering, saving, charts, and (of many models) pages.
"use strict";
(() => {
  const find = (root, selector) => [...root.querySelectorAll(selector)];
  const make = (tag, properties = {}, ...children) => {
    const element = Object.assign(document.createElement(tag), properties);
    element.append(...children);
    return element;
  };
  const collator = new Intl.Collator("en", { numeric: true });
  const value = (cell) => cell.dataset.v ?? cell.textContent;
  const saveName = (text) => text.replace(/[^\w.-]+/g, "_").slice(0, 80) || "report";

  function save(name, type, content) {
    const url = URL.createObjectURL(new Blob([content], { type }));
    make("a", { href: url, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  // What the page carries compressed: base64 of gzip.
  async function unpacked(script) {
    if (script.type === "application/json") return script.textContent;
    const bytes = Uint8Array.from(atob(script.textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  // A text that begins like a formula would be one in a spreadsheet: names are not ours.
  function csvCell(cell) {
    const numeric = cell.dataset.v !== undefined;
    let text = value(cell);
    if (!numeric && /^[=+\-@\t]/.test(text)) text = "'" + text;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  }

  function csv(table) {
    const head = find(table, "thead th").map((th) => th.dataset.key);
    const rows = [...table.tBodies[0].rows].filter((row) => !row.hidden);
    return [head.join(","), ...rows.map((row) => [...row.cells].map(csvCell).join(","))].join("\r\n") + "\r\n";
  }

  function sortBy(table, column, head) {
    const descending = head.getAttribute("aria-sort") === "ascending";
    const numeric = head.classList.contains("n");
    const keyed = [...table.tBodies[0].rows].map((row) => [value(row.cells[column]), row]);
    const order = (a, b) => {
      if (numeric) {
        if (a === "" || b === "") return (a === "") - (b === "");
        return descending ? b - a : a - b;
      }
      return descending ? collator.compare(b, a) : collator.compare(a, b);
    };
    keyed.sort((a, b) => order(a[0], b[0]));
    for (const th of find(table, "th[aria-sort]")) th.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sorted = document.createDocumentFragment();
    for (const [, row] of keyed) sorted.append(row);
    table.tBodies[0].append(sorted);
  }

  function enhance(table) {
    const heads = find(table, "thead th");
    heads.forEach((head, column) => {
      const button = make("button", { type: "button" }, ...head.childNodes);
      button.addEventListener("click", () => sortBy(table, column, head));
      head.append(button);
    });
    const tools = table.closest("section, details").querySelector(`.tools[data-for="${table.id}"]`);
    const rows = [...table.tBodies[0].rows];
    const name = table.caption.textContent;
    const tests = [];
    const count = make("output");
    const refresh = () => {
      let shown = 0;
      for (const row of rows) {
        row.hidden = !tests.every((test) => test(row));
        shown += !row.hidden;
      }
      count.textContent = `${shown.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
    };
    const control = (title, element, event, test) => {
      element.setAttribute("aria-label", `${title}: ${name}`);
      element.addEventListener(event, refresh);
      tests.push(test);
      tools.append(make("label", {}, title, element));
    };
    if (rows.length > 8) {
      const box = make("input", { type: "search", autocomplete: "off" });
      const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase()]));
      control("Filter", box, "input", (row) => texts.get(row).includes(box.value.trim().toLowerCase()));
      heads.forEach((head, column) => {
        if (!("choices" in head.dataset)) return;
        const of = (row) => row.cells[column].textContent;
        const values = [...new Set(rows.map(of))].sort(collator.compare);
        if (values.length < 2) return;
        const list = make("select", { name: head.dataset.key }, make("option", { value: "", textContent: "all" }));
        values.forEach((v, k) => list.append(make("option", { value: k + 1, textContent: v })));
        control(head.textContent, list, "change", (row) => !list.value || of(row) === values[list.value - 1]);
      });
      refresh();
      tools.append(count);
      count.setAttribute("aria-live", "polite");
    }
    const button = make("button", { type: "button", textContent: "Save as CSV" });
    button.setAttribute("aria-label", `Save as CSV: ${name}`);
    button.addEventListener("click", () => save(`${saveName(document.title)}-${table.id}.csv`, "text/csv", csv(table)));
    tools.append(button);
  }

  // Charts read the numbers of their tables.
  function records(table) {
    const heads = find(table, "thead th").map((th) => [th.dataset.key, th.classList.contains("n")]);
    return [...table.tBodies[0].rows].map((row) =>
      Object.fromEntries(heads.map(([key, numeric], k) => {
        const found = value(row.cells[k]);
        return [key, numeric ? (found === "" ? null : Number(found)) : found];
      })));
  }

  const axis = {
    labelColor: "var(--soft)", titleColor: "var(--soft)", gridColor: "var(--line)",
    domainColor: "var(--line)", tickColor: "var(--line)", titleFontWeight: "normal",
    labelFontSize: 12, titleFontSize: 12,
  };
  const legend = { labelColor: "var(--ink)", titleColor: "var(--soft)", labelFontSize: 12,
    titleFontSize: 12, titleFontWeight: "normal", orient: "top", symbolStrokeColor: "var(--ink)" };
  const config = {
    background: "transparent", font: "system-ui, sans-serif", axis, legend, aria: false,
    view: { stroke: "transparent" },
  };

  async function draw(figure) {
    const target = figure.querySelector(".drawn");
    const spec = JSON.parse(figure.querySelector("script").textContent);
    const table = document.getElementById(figure.dataset.table);
    spec.data = { values: records(table) };
    try {
      await vegaEmbed(target, spec, {
        renderer: "svg", actions: false, ast: true, config, tooltip: { theme: "page", disableDefaultStyle: true },
      });
      const svg = target.querySelector("svg");
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", target.dataset.label);
      svg.removeAttribute("aria-roledescription");
    } catch (error) {
      console.error(error);
      target.append(make("p", { className: "error", textContent: "This chart cannot be drawn here; its numbers are in the table." }));
    }
  }

  async function show(root) {
    find(root, "table.data").forEach(enhance);
    for (const figure of find(root, "figure.chart")) {
      if (!figure.isConnected) return;
      await draw(figure);
    }
  }

  function offerJson(name, script) {
    const button = make("button", { type: "button", textContent: "Save as JSON" });
    button.addEventListener("click", async () => save(name, "application/json", await unpacked(script)));
    document.getElementById("saves").replaceChildren(button);
  }

  const whole = document.querySelector('script[data-name="content"]');
  const overview = document.getElementById("overview");
  const route = document.getElementById("route");
  const pages = new Map(find(document, "script[data-page]").map((s) => [s.dataset.page, s]));
  const title = document.title;
  let place = { current: null, scroll: 0 };

  function atOverview() {
    const last = place.current;
    overview.hidden = false;
    route.hidden = true;
    route.replaceChildren();
    document.title = title;
    offerJson(`${saveName(title)}.json`, whole);
    place.current = null;
    if (last === null) return;
    scrollTo(0, place.scroll);
    find(overview, "tbody th a").find((a) => a.hash === last)?.focus({ preventScroll: true });
  }

  function neighbours(hash) {
    const links = find(overview, "#models tbody tr:not([hidden]) th a");
    const at = links.findIndex((a) => a.hash === hash);
    const link = (a, words) => (a ? make("a", { href: a.hash, textContent: words, title: a.textContent }) : make("span"));
    return make("nav", { className: "contents", ariaLabel: "Models" },
      make("a", { href: "#", textContent: "← all models" }),
      link(at > 0 ? links[at - 1] : null, "previous"),
      link(at >= 0 ? links[at + 1] : null, "next"));
  }

  async function go() {
    const hash = location.hash;
    if (!hash.startsWith("#/")) {
      if (hash === "" || place.current === null) atOverview();
      return;
    }
    const [name, section] = hash.slice(2).split("?");
    const own = `#/${name}`;
    if (place.current !== own) {
      if (place.current === null) place.scroll = scrollY;
      place.current = own;
      overview.hidden = true;
      route.hidden = false;
      const script = pages.get(name);
      if (script === undefined) {
        route.replaceChildren(neighbours(own), make("h1", { tabIndex: -1, textContent: "There is no such page" }));
      } else {
        const html = await unpacked(script);
        if (place.current !== own) return;
        route.innerHTML = html;
        route.prepend(neighbours(own));
        const content = route.querySelector('script[data-name="content"]');
        if (content) offerJson(`${saveName(route.querySelector("h1").textContent)}.json`, content);
      }
      const heading = route.querySelector("h1");
      document.title = `${heading.textContent} – graph-init`;
      scrollTo(0, 0);
      heading.focus({ preventScroll: true });
      show(route);
    }
    if (section) document.getElementById(section)?.scrollIntoView();
  }

  async function start() {
    if (overview === null) {
      if (whole) offerJson(`${saveName(title)}.json`, whole);
      await show(document);
    } else {
      const drawn = show(overview);
      addEventListener("hashchange", go);
      await go();
      await drawn;
    }
    document.documentElement.dataset.ready = "yes";
  }
  start();
})();
