// Everything together: what is shown, what is left out, and which probe position is looked at.

const $ = (id) => document.getElementById(id);

// Which probe positions are shown, and how many of each system.
class Filters {
  constructor(data) {
    this.data = data;
    this.basis = "filtered_system";
    this.reset();
  }

  reset() {
    const { header } = this.data;
    this.ticked = new Set([...header.systems.keys(), -1]);
    this.criterion ??= header.thresholds[0]?.key;
    this.least = 0;
    this.flags = new Map(header.flags.map((flag) => [flag.key, { hidden: false, limit: flag.limit }]));
  }

  passes(i) {
    const { data } = this;
    if (!this.ticked.has(data.system(this.basis, i))) return false;
    // A probe position without the value is left out as soon as a value is asked for.
    if (this.least > 0 && !(data.value(this.criterion, i) >= this.least)) return false;
    for (const [key, { hidden, limit }] of this.flags) if (hidden && data.value(key, i) > limit) return false;
    return true;
  }

  // Fills `shown`, and counts by system: all, and those shown; the last count is of those without an answer.
  apply(shown) {
    const kinds = this.data.header.systems.length;
    const [all, left] = [new Uint32Array(kinds + 1), new Uint32Array(kinds + 1)];
    for (let i = 0; i < this.data.count; i++) {
      const system = this.data.system(this.basis, i);
      const kind = system < 0 ? kinds : system;
      shown[i] = this.passes(i) ? 1 : 0;
      all[kind]++;
      left[kind] += shown[i];
    }
    return { all, left };
  }
}

class Page {
  constructor(data) {
    this.data = data;
    this.filters = new Filters(data);
    this.hovered = this.pinned = null;
    this.panel = new PixelPanel(data, $("pixel"));
    this.map = new MapView(data, $("map"), {
      onHover: (i) => this.hover(i),
      onChoose: (i) => this.pin(i === this.pinned ? null : i),
    });
    if (data.has("peak_counts")) {
      this.pattern = new PatternView(data, $("pattern"), { onPeak: (peak) => this.tellPeak(peak) });
    } else $("pattern-box").hidden = true;
    this.setUpMap();
    this.setUpFilters();
    this.choose(0);
    this.filter();
    this.look();
  }

  setUpMap() {
    const { header } = this.data;
    const groups = new Map();
    header.views.forEach((view, index) => {
      const option = element("option", { value: index }, view.unit ? `${view.name} (${view.unit})` : view.name);
      if (!groups.has(view.group)) groups.set(view.group, element("optgroup", { label: view.group }));
      groups.get(view.group).append(option);
    });
    $("view").append(...groups.values());
    $("view").addEventListener("change", () => this.choose(Number($("view").value)));
    $("outlines-label").hidden = !header.particles?.size.length;
    $("outlines").addEventListener("change", () => {
      this.map.outlined = $("outlines").checked;
      this.map.viewport.redraw();
    });
    $("closer").addEventListener("click", () => this.map.viewport.zoom(1.5));
    $("farther").addEventListener("click", () => this.map.viewport.zoom(1 / 1.5));
    $("fit").addEventListener("click", () => this.map.viewport.fit());
    for (const end of ["low", "high"]) {
      $(end).addEventListener("change", () => this.setRange({ [end]: $(end).valueAsNumber }));
    }
    $("range").addEventListener("click", () => this.choose(Number($("view").value)));
    $("map").addEventListener("keydown", (event) => this.key(event));
    $("pattern").addEventListener("dblclick", () => this.pattern.viewport.fit());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.pin(null);
    });
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      this.map.paint();
      this.pattern?.viewport.redraw();
    });
  }

  setUpFilters() {
    const { header } = this.data;
    const kinds = [...header.systems, { name: "no answer", colour: header.colours.none }];
    this.rows = kinds.map(({ name, colour }, kind) => {
      const tick = element("input", { type: "checkbox", checked: true });
      const swatch = element("i", { className: "swatch" });
      swatch.style.background = colour;
      const many = element("span", { className: "many" });
      const bar = element("span", { className: "bar" }, element("i"));
      bar.firstChild.style.background = colour;
      const share = element("span", { className: "many" });
      const answered = kind < header.systems.length;
      tick.addEventListener("change", () => {
        this.filters.ticked[tick.checked ? "add" : "delete"](answered ? kind : -1);
        this.filter();
      });
      const line = answered ? [element("span", { className: "share" }, bar, share)] : [];
      const row = element("label", {}, tick, element("span", { className: "name" }, swatch, name), many, ...line);
      $("systems").append(row);
      return { tick, many, share, bar: bar.firstChild, row };
    });
    $("least-box").hidden = !header.thresholds.length;
    $("flags").hidden = !header.flags.length;
    for (const { key, name } of header.thresholds) {
      $("criterion").append(element("option", { value: key }, name.toLowerCase()));
    }
    $("criterion").addEventListener("change", () => {
      this.filters.criterion = $("criterion").value;
      this.setLeast(0);
    });
    $("least").addEventListener("input", () => this.setLeast($("least").valueAsNumber));
    for (const { key, name, limit } of header.flags) {
      const tick = element("input", { type: "checkbox" });
      const number = element("input", { type: "number", min: 0, max: 1, step: 0.05, value: limit });
      number.ariaLabel = `limit for “${name}”`;
      tick.addEventListener("change", () => this.setFlag(key, { hidden: tick.checked }));
      number.addEventListener("change", () => this.setFlag(key, { limit: number.valueAsNumber }));
      $("flags").append(element("label", {}, tick, `${name} >`, number));
    }
    $("reset").addEventListener("click", () => {
      this.filters.reset();
      for (const { tick } of this.rows) tick.checked = true;
      for (const tick of $("flags").querySelectorAll("[type=checkbox]")) tick.checked = false;
      const numbers = $("flags").querySelectorAll("[type=number]");
      header.flags.forEach(({ limit }, place) => (numbers[place].value = limit));
      this.setLeast(0);
    });
    if (header.thresholds.length) this.scaleLeast();
  }

  // The slider ends where the values end: differences rarely come near 1.
  scaleLeast() {
    const { criterion } = this.filters;
    let largest = 0;
    for (let i = 0; i < this.data.count; i++) largest = Math.max(largest, this.data.value(criterion, i) || 0);
    $("least").max = Math.ceil(100 * largest) / 100;
    $("least").value = this.filters.least;
    $("least-value").textContent = plain(this.filters.least);
  }

  setLeast(least) {
    this.filters.least = least;
    this.scaleLeast();
    this.filter();
  }

  setFlag(key, change) {
    Object.assign(this.filters.flags.get(key), change);
    this.filter();
  }

  filter() {
    const { count } = this.data;
    const { all, left } = this.filters.apply(this.map.shown);
    const shown = left.reduce((sum, one) => sum + one, 0);
    const answers = shown - left.at(-1);
    this.rows.forEach(({ many, share: written, bar, row }, kind) => {
      row.hidden = !all[kind];
      const share = answers ? left[kind] / answers : 0;
      const counted = left[kind] === all[kind] ? grouped(all[kind]) : `${grouped(left[kind])} of ${grouped(all[kind])}`;
      many.textContent = counted;
      written.textContent = percent(share);
      bar.style.width = `${100 * share}%`;
    });
    $("count").replaceChildren(
      element("b", {}, grouped(shown)),
      ` of ${grouped(count)} probe positions shown, ${grouped(answers)} of them with a crystal system`,
    );
    const when = this.filters.basis === "raw_system" ? "before" : "after";
    $("basis").textContent = `Systems ${when} filtering; shares of those shown.`;
    this.map.paint();
  }

  choose(index) {
    this.view = { ...this.data.header.views[index] };
    this.filters.basis = this.view.key === "raw_system" ? "raw_system" : "filtered_system";
    this.map.view = this.view;
    $("bar").hidden = this.view.kind !== "number";
    $("legend").hidden = this.view.kind === "number";
    if (this.view.kind === "number") this.drawBar();
    else $("legend").replaceChildren(...this.legend());
    this.filter();
    this.point();
  }

  setRange(change) {
    const { low, high } = { ...this.view, ...change };
    if (!(high > low)) return this.drawBar();
    Object.assign(this.view, { low, high });
    this.drawBar();
    this.map.paint();
  }

  drawBar() {
    const { low, high, unit, colours } = this.view;
    $("low").value = Number(low.toPrecision(4));
    $("high").value = Number(high.toPrecision(4));
    $("unit").textContent = unit.length < 4 ? unit : "";
    $("ramp").style.background = `linear-gradient(to right, ${this.data.header.colours[colours].join(", ")})`;
    this.point();
  }

  legend() {
    const { header } = this.data;
    const key = (colour, text) => {
      const strip = element("i", { className: "strip" });
      strip.style.background = colour;
      return element("span", { className: "key" }, strip, text);
    };
    const { view } = this;
    if (view.kind === "status") {
      const found = header.statuses.filter((status) => status.count);
      return found.map(({ colour, name, count }) => key(colour, `${name.replaceAll("_", " ")}: ${grouped(count)}`));
    }
    const dark = (colour) => `rgb(${rgb(colour).map((part) => Math.round(part * header.colours.dimmest))})`;
    const graded = (colour, text) => key(`linear-gradient(to right, ${dark(colour)}, ${colour})`, text);
    const strength = header.views.find((one) => one.key === view.strength)?.name.toLowerCase() ?? "confidence";
    const ends = [
      key(header.colours.none, "no answer"),
      element("span", { className: "quiet" }, `dark to bright: ${strength} 0 to ${short(view.high)}`),
    ];
    if (view.kind === "group") {
      const found = header.space_groups.filter((group) => group.count);
      const others = found.filter((group) => group.colour === header.colours.other);
      const keys = found
        .filter((group) => !others.includes(group))
        .map(({ number, colour, count }) => graded(colour, `${this.data.groupName(number)}: ${grouped(count)}`));
      const rest = others.reduce((sum, group) => sum + group.count, 0);
      if (others.length) keys.push(graded(header.colours.other, `${others.length} other groups: ${grouped(rest)}`));
      return [...keys, ...ends];
    }
    const { codes } = this.data.arrays[view.key];
    const there = header.systems.filter((_, system) => codes.includes(system));
    return [...there.map(({ name, colour }) => graded(colour, name)), ...ends];
  }

  hover(i) {
    if (i === this.hovered) return;
    this.hovered = this.map.hovered = i;
    this.look();
  }

  pin(i) {
    if (i === null && this.pinned === null) return;
    this.pinned = this.map.pinned = i;
    this.look();
  }

  // The pinned probe position stays in the panel; the line below the map follows the pointer.
  look() {
    const i = this.pinned ?? this.hovered;
    if (i !== this.looked || this.pinned !== this.lookedPinned) {
      this.panel.show(i, this.pinned !== null);
      if (i !== this.looked) this.pattern?.show(i);
      [this.looked, this.lookedPinned] = [i, this.pinned];
    }
    this.point();
    this.map.viewport.redraw();
  }

  point() {
    const i = this.hovered ?? this.pinned;
    const { view } = this;
    $("needle").hidden = true;
    $("pointed").textContent = "";
    if (i === null) return;
    const { nx, header } = this.data;
    const place = `row ${Math.floor(i / nx) * header.stride}, column ${(i % nx) * header.stride}`;
    $("pointed").textContent = `${place}: ${this.valueText(i)}`;
    const value = view.kind === "number" ? this.data.value(view.key, i) : NaN;
    if (Number.isNaN(value)) return;
    const part = Math.min(Math.max((value - view.low) / (view.high - view.low || 1), 0), 1);
    $("needle").hidden = false;
    $("needle").style.left = `${100 * part}%`;
  }

  valueText(i) {
    const { data, view } = this;
    if (view.kind === "system") {
      const system = data.system(view.key, i);
      return system < 0 ? `no answer, ${this.panel.status(i)}` : data.header.systems[system].name;
    }
    const value = data.value(view.key, i);
    if (view.kind === "group") return value > 0 ? data.groupName(value) : "no answer";
    if (view.kind === "status") return this.panel.status(i);
    if (Number.isNaN(value)) return "no value";
    const number = value >= 1000 ? plain(value) : Number(value.toPrecision(4));
    return `${view.name.toLowerCase()} ${number} ${view.unit}`.trim();
  }

  tellPeak(peak) {
    const { header } = this.data;
    if (peak) {
      const spacing = peak.direct ? "the direct beam" : `d = ${(1 / peak.q).toFixed(3)} Å`;
      const intensity = `intensity ${plain(peak.intensity)} (${header.intensity_unit})`;
      $("peak").textContent = `|q| = ${peak.q.toFixed(3)} Å⁻¹, ${spacing}, ${intensity}`;
      return;
    }
    const i = this.pinned ?? this.hovered;
    if (i === null) {
      $("peak").textContent = "";
      return;
    }
    const [all, drawn] = [this.data.value("n_peaks", i), this.pattern.peaks.length];
    const part = drawn < all ? `${drawn} of ${all} peaks drawn` : `${all} ${all === 1 ? "peak" : "peaks"}`;
    const help = "Point at a peak for its spacing; wheel and drag enlarge, a double click shows all.";
    $("peak").textContent = `${part}. ${help}`;
  }

  key(event) {
    const { nx, ny } = this.data;
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) {
      const from = this.pinned ?? this.hovered ?? Math.floor(ny / 2) * nx + Math.floor(nx / 2);
      const many = event.shiftKey ? 10 : 1;
      const within = (place, count) => Math.min(Math.max(place, 0), count - 1);
      const row = within(Math.floor(from / nx) + many * steps[event.key][0], ny);
      const column = within((from % nx) + many * steps[event.key][1], nx);
      this.hovered = this.map.hovered = null;
      this.pin(row * nx + column);
      this.map.reveal(row, column);
    } else if (event.key in zooms) this.map.viewport.zoom(zooms[event.key]);
    else if (event.key === "0") this.map.viewport.fit();
    else if (event.key === "Enter" || event.key === " ") this.pin(this.pinned === null ? this.hovered : null);
    else return;
    event.preventDefault();
  }
}

async function start() {
  try {
    const buffers = [];
    for (const store of [$("packed-maps"), $("packed-patterns")]) {
      buffers.push(await unpack(store.textContent));
      store.remove();
    }
    $("problem").hidden = true;
    $("viewer").hidden = false;
    new Page(new ScanData(...buffers));
  } catch (error) {
    $("viewer").hidden = true;
    $("problem").hidden = false;
    const old = error.message === TOO_OLD;
    $("problem").textContent = old ? TOO_OLD : `This page cannot be shown, the file may be damaged: ${error.message}`;
    if (!old) throw error;
  }
}

start();
