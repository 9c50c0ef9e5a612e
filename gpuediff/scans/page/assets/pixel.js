// What is known of one probe position, in words.

// Text never becomes markup: names of files and options are somebody else's.
function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

// Two digits: more would claim what a vote of a hundred trees cannot tell.
function short(value) {
  return Number.isNaN(value) ? "–" : String(Number(value.toPrecision(2)));
}

function percent(share) {
  return Number.isNaN(share) ? "–" : `${Math.round(100 * share)} %`;
}

function grouped(count) {
  return count.toLocaleString("en");
}

function plain(value) {
  if (Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e8 || size < 1e-3)) return value.toExponential(2).replace("e+", "e");
  if (Number.isInteger(value) || size >= 1000) return grouped(Math.round(value));
  return String(Number(value.toPrecision(3)));
}

const SIGNS = { alpha: "α", beta: "β", gamma: "γ" };
const digitsOf = (name) => (name in SIGNS ? 1 : 2);
const unitOf = (name) => (name in SIGNS ? "°" : " Å");

// Lengths that the crystal system makes equal share one line: a = b = c.
function lettersOf(name, free) {
  if (name !== "a") return SIGNS[name] ?? name;
  const equal = ["b", "c"].filter((other) => !free.includes(other));
  return ["a", ...equal].join(" = ");
}

// Free lattice parameters of a system: name and text, with the interval where it has a width.
function latticeLines(free, value, low, high) {
  return free.map((name) => {
    const digits = digitsOf(name);
    const [estimate, lower, upper] = [value(name), low(name), high(name)].map((number) => number?.toFixed(digits));
    const interval = Number.isFinite(low(name)) && lower !== upper ? ` (${lower} – ${upper})` : "";
    return [lettersOf(name, free), `${estimate}${interval}${unitOf(name)}`];
  });
}

class PixelPanel {
  constructor(data, root) {
    this.data = data;
    this.parts = Object.fromEntries(
      ["place", "answer", "votes", "facts", "hint"].map((name) => [name, root.querySelector(`[data-part=${name}]`)]),
    );
  }

  show(i, pinned) {
    const { place, answer, votes, facts, hint } = this.parts;
    hint.hidden = i !== null;
    for (const part of [answer, votes, facts]) part.hidden = i === null;
    place.replaceChildren();
    if (i === null) return;
    const badge = element("span", { className: "badge" }, pinned ? "pinned" : "under the pointer");
    badge.classList.toggle("pinned", pinned);
    place.append(...this.placeOf(i), badge);
    answer.replaceChildren(...this.answer(i));
    votes.replaceChildren(...this.votes(i));
    const line = ([name, text]) => [element("dt", {}, name), element("dd", {}, ...[text].flat())];
    facts.replaceChildren(...this.facts(i).flatMap(line));
  }

  placeOf(i) {
    const { nx, header } = this.data;
    const [row, column] = [Math.floor(i / nx), i % nx];
    const name = `Row ${row * header.stride}, column ${column * header.stride}`;
    if (header.step_size === null) return [name];
    const nanometres = (index) => ((index * header.step_size) / 10).toFixed(1);
    return [name, element("small", {}, `x ${nanometres(column)}, y ${nanometres(row)} nm`)];
  }

  // The status as a sentence, with the numbers that it depends on.
  status(i) {
    const { data } = this;
    const code = data.value("status", i);
    const { name, words } = data.header.statuses.find((status) => status.code === code);
    const { options } = data.header;
    if (name === "too_few_peaks") {
      return `${words} (${data.value("n_peaks", i)}; at least ${options.peaks_min} are needed)`;
    }
    if (name === "below_confidence") {
      const found = `filtered difference confidence ${short(data.value("filtered_difference_confidence", i))}`;
      return `${words} (${found}; at least ${options.difference_confidence_min} is needed)`;
    }
    if (name === "undecided") return `${words} (probability ${percent(data.value("probability", i))})`;
    return words;
  }

  answer(i) {
    const { data } = this;
    const system = data.system("filtered_system", i);
    const raw = data.system("raw_system", i);
    if (system < 0) {
      const said = [element("strong", { className: "none" }, "no answer"), element("span", {}, this.status(i))];
      if (raw >= 0) said.push(element("span", {}, `Most trees say ${data.header.systems[raw].name}.`));
      return said;
    }
    const { name, colour } = data.header.systems[system];
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = colour;
    const said = [element("strong", {}, swatch, name)];
    const group = data.value("space_group_number", i);
    if (group > 0) said.push(element("span", { className: "group" }, data.groupName(group)));
    if (raw >= 0 && raw !== system) {
      said.push(element("span", {}, `by its neighbours; this pattern alone says ${data.header.systems[raw].name}`));
    }
    return said;
  }

  votes(i) {
    const votes = this.data.votes(i);
    if (votes.some(Number.isNaN)) {
      return [element("p", { className: "quiet" }, "No votes: the pattern was not predicted.")];
    }
    const rows = this.data.header.systems.map(({ name, colour }, system) => {
      const bar = element("span", { className: "bar" }, element("i"));
      bar.firstChild.style.width = `${100 * votes[system]}%`;
      bar.firstChild.style.background = colour;
      const share = element("b", {}, percent(votes[system]));
      const row = element("div", { className: "vote" }, element("span", {}, name), share, bar);
      row.classList.toggle("most", system === this.data.system("raw_system", i));
      return row;
    });
    return [element("h3", {}, "Votes of the trees"), ...rows];
  }

  facts(i) {
    const { data } = this;
    const value = (name) => data.value(name, i);
    const known = (name) => Number.isFinite(value(name));
    const facts = [];
    const raw = data.system("raw_system", i);
    if (known("probability")) {
      const { name } = data.header.systems[raw];
      facts.push(["probability", `${percent(value("probability"))} for ${name}, by this pattern alone`]);
    }
    if (known("confidence")) {
      const filtered = value("filtered_difference_confidence");
      const after = Number.isNaN(filtered) ? "" : `, filtered ${short(filtered)}`;
      const lead = `difference confidence ${short(value("difference_confidence"))}${after}`;
      facts.push(["confidence", `${percent(value("confidence"))} of the trees; ${lead}`]);
    }
    const system = data.system("filtered_system", i);
    if (value("space_group_number") > 0) {
      const share = known("space_group_confidence") ? `, ${percent(value("space_group_confidence"))} of the trees` : "";
      facts.push(["space group", data.groupName(value("space_group_number")) + share]);
    }
    if (system >= 0) facts.push(["lattice", this.lattice(i, system)]);
    if (known("several_grains")) {
      const share = value("several_grains");
      const words = share >= 0.5 ? "more likely several grains than one" : "more likely one grain";
      facts.push(["grains", `${words} (${percent(share)} for several)`]);
    }
    if (known("novelty")) {
      const share = value("novelty");
      let words = share >= 0.8 ? "unusual for the library" : "like the library’s patterns";
      if (share >= 0.95) words = "unlike the library";
      facts.push(["novelty", `${words}: ${percent(share)} of patterns of new materials are nearer to it`]);
    }
    const particle = value("particle");
    if (particle > 0) facts.push(["particle", this.particle(particle - 1)]);
    const signal = [`${value("n_peaks")} peaks`];
    if (known("bright_field")) signal.push(`bright field ${plain(value("bright_field"))}`);
    if (known("dark_field")) signal.push(`dark field ${plain(value("dark_field"))}`);
    facts.push(["signal", signal.join(", ")]);
    return facts;
  }

  lattice(i, system) {
    const { data } = this;
    if (!Number.isFinite(data.value("a", i))) return "none was found";
    // The models of one named system may have been asked everywhere.
    const free = data.header.free[data.header.options.lattice_system ?? data.header.systems[system].name];
    const [value, low, high] = ["", "_low", "_high"].map((end) => (name) => data.value(name + end, i));
    const lines = latticeLines(free, value, low, high).map(([name, text]) => element("div", {}, `${name} = ${text}`));
    return [...lines, element("div", { className: "quiet" }, `volume ${plain(data.value("volume", i))} Å³`)];
  }

  particle(index) {
    const { particles, step_size, stride } = this.data.header;
    const size = particles.size[index];
    const area = step_size === null ? "" : `, ${plain((size * (step_size / stride) ** 2) / 100)} nm²`;
    const lines = [`no. ${index + 1}, ${grouped(size)} probe positions${area}`];
    const brightest = particles.brightest[index];
    // Space group and lattice are by the models of the system that a particle has on the map, or of its own answer.
    for (const [title, answers, system] of [
      ["votes of all its patterns", particles.by_aggregation, particles.system[index]],
      ["its brightest patterns, described together", particles.by_pooling, particles.by_pooling?.system[index]],
      [`the brightest (row ${brightest[0]}, column ${brightest[1]})`, particles.by_brightest, particles.system[index]],
    ]) {
      if (answers === null) continue;
      const lattice = answers.lattice[index];
      const names = ["a", "b", "c", "alpha", "beta", "gamma"];
      const value = (name) => lattice[names.indexOf(name)];
      const cell = latticeLines(this.data.header.free[system], value, () => NaN, () => NaN);
      const told = lattice[0] === null ? "no lattice" : cell.map(([name, text]) => `${name} = ${text}`).join(", ");
      const share = answers.confidence[index] === null ? "" : ` ${percent(answers.confidence[index])}`;
      const group = this.data.groupName(answers.space_group[index]);
      lines.push(`${title}: ${answers.system[index]}${share}; ${group}; ${told}`);
    }
    return lines.map((line, number) => element("div", { className: number ? "quiet" : "" }, line));
  }
}
