"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const element = (name, properties = {}, children = []) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // Theme: that of the system, until the reader chooses one.
  const theme = document.getElementById("theme");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const nameTheme = () => {
    theme.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  try {
    const stored = localStorage.getItem("foldperf-theme");
    if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  } catch { /* Storage is disabled: the choice lasts as long as the page. */ }
  theme.hidden = false;
  nameTheme();
  dark.addEventListener("change", nameTheme);
  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try {
      localStorage.setItem("foldperf-theme", root.dataset.theme);
    } catch { /* As above. */ }
    nameTheme();
  });

  // Age of the records, at the time of reading.
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  for (const time of all("time[datetime]")) {
    const days = Math.round((new Date(time.dateTime) - Date.now()) / 86_400_000);
    const months = Math.round(days / 30.44);
    const age = Math.abs(days) < 60 ? relative.format(days, "day") : relative.format(months, "month");
    time.textContent += ` (${age})`;
  }

  // Records and tables, decompressed once.
  let unpacked = null;
  const data = () => {
    unpacked ??= (async () => {
      const text = document.getElementById("data").textContent.trim();
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      return JSON.parse(await new Response(stream).text());
    })();
    return unpacked;
  };

  // Rows that the filters show.
  const rows = all("#records tbody tr");
  const visible = new Set(rows.map((row) => row.dataset.run));
  const filters = document.getElementById("filters");
  const applyFilters = () => {
    const chosen = all("select", filters).filter((select) => select.value);
    visible.clear();
    for (const row of rows) {
      const fits = chosen.every((select) => row.dataset[select.name] === select.value);
      row.hidden = !fits;
      if (fits) visible.add(row.dataset.run);
    }
    for (const part of all("[data-runs]")) {
      part.hidden = !part.dataset.runs.split(" ").some((run) => visible.has(rows[run].dataset.run));
    }
    for (const line of all("tr[data-of]")) line.hidden = !visible.has(line.dataset.of);
    filters.querySelector("output").textContent = `${visible.size} of ${rows.length} records`;
  };
  filters.hidden = false;
  filters.addEventListener("change", applyFilters);
  filters.addEventListener("reset", () => setTimeout(applyFilters));

  // Tables of numbers, built when they are opened.
  const columnsOfWords = new Set(["run_id", "ranks", "tokens", "replicate", "step", "rank"]);
  const numberCell = (value, record, metric, method) => {
    const link = element("a", {
      className: `number ${method}`,
      textContent: value.toLocaleString("en", { maximumSignificantDigits: 6 }),
    });
    link.href = `#record-${record}`;
    link.dataset.records = record;
    link.dataset.metric = metric;
    return element("td", { className: "n" }, [
      link, element("span", { className: `badge ${method}`, textContent: method }),
    ]);
  };
  const fillTable = async (details) => {
    const { tables } = await data();
    const { columns, lines, methods } = tables[details.dataset.table];
    const run = columns.indexOf("run_id");
    const metric = columns.indexOf("metric");
    const head = columns.filter((name) => name !== "run_id").map((name) => element("th", { textContent: name }));
    const body = lines.map((line, number) => {
      const cells = line.map((value, k) => {
        if (k === run) return null;
        if (typeof value === "number" && run >= 0 && !columnsOfWords.has(columns[k])) {
          return numberCell(value, line[run], metric < 0 ? "" : line[metric], methods[number]);
        }
        return element("td", { textContent: value ?? "–" });
      });
      const row = element("tr", {}, cells.filter(Boolean));
      if (run >= 0) row.dataset.of = line[run];
      row.hidden = run >= 0 && !visible.has(line[run]);
      return row;
    });
    details.querySelector(".scroll").append(
      element("table", {}, [
        element("thead", {}, [element("tr", {}, head)]), element("tbody", {}, body),
      ]),
    );
  };
  for (const details of all("details.numbers")) {
    details.hidden = false;
    details.addEventListener("toggle", () => {
      if (details.open && !details.querySelector("table")) fillTable(details);
    });
  }

  // Record of a number, in a dialog; Escape closes it and returns to the number.
  const dialog = document.getElementById("record");
  const body = dialog.querySelector(".body");
  const describe = (record, metric) => {
    const workload = record.workload;
    const facts = [];
    const value = record.metrics[metric];
    if (value) {
      facts.push(["number", `${metric}: ${value.value === null ? "–" : value.value.toLocaleString("en")} ${value.unit === "1" ? "" : value.unit}`]);
      facts.push(["method", value.method], ["quality", value.quality]);
      if (value.ci) facts.push(["interval", value.ci.join(" to ")]);
      if (value.flags.length) facts.push(["flags", value.flags.join("; ")]);
      if (value.reason) facts.push(["reason", value.reason]);
    }
    facts.push(["case", `${workload.labels.series ?? workload.name}, ${workload.labels.variant ?? ""}`]);
    facts.push(["tokens", (workload.labels.tokens ?? 0).toLocaleString("en")], ["ranks", workload.ranks]);
    facts.push(["machine", record.devices.map((device) => device.name).join(", ")]);
    facts.push(["commit", (record.git.sha ?? "unknown") + (record.git.dirty ? ", with uncommitted changes" : "")]);
    facts.push(["started", record.started_at], ["software", `torch ${record.software.torch}`]);
    const list = facts.flatMap(([name, text]) => [
      element("dt", { textContent: name }), element("dd", { textContent: text }),
    ]);
    const json = element("pre", { textContent: JSON.stringify(record, null, 1), tabIndex: 0 });
    json.setAttribute("aria-label", "record as JSON");
    return [element("dl", {}, list), json];
  };
  const show = async (runs, metric, method) => {
    const { records } = await data();
    dialog.querySelector("h2 .badge").className = `badge ${method}`;
    dialog.querySelector("h2 .badge").textContent = method;
    const content = element("div");
    const choose = (run) => {
      content.replaceChildren(...describe(records[run], metric));
      for (const button of all(".several button", body)) button.setAttribute("aria-pressed", button.value === run);
    };
    const several = runs.length < 2 ? [] : [element("div", { className: "several" }, runs.map((run) => {
      const { labels, name } = records[run].workload;
      const button = element("button", { type: "button", value: run, textContent: `${labels.series ?? name}, ${labels.tokens ?? ""} tokens` });
      button.addEventListener("click", () => choose(run));
      return button;
    }))];
    body.replaceChildren(...several, content);
    choose(runs[0]);
    dialog.showModal();
    dialog.scrollTop = 0;
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-records]");
    if (!link) return;
    event.preventDefault();
    const method = ["measured", "traced", "predicted"].find((name) => link.classList.contains(name)) ?? "";
    show(link.dataset.records.split(" "), link.dataset.metric, method);
  });
  dialog.querySelector("button.close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
})();
