// The numbers of the page: unpacked once, then asked for by name and probe position.

const TOO_OLD =
  "This browser is too old for this page: it cannot unpack the maps (DecompressionStream is missing). " +
  "Chrome or Edge from version 80, Firefox from 113 and Safari from 16.4 can.";

async function unpack(text) {
  if (typeof DecompressionStream === "undefined") throw new Error(TOO_OLD);
  const stream = new DecompressionStream("deflate");
  const bytes = new Response(stream.readable).arrayBuffer();
  const writer = stream.writable.getWriter();
  const write = async () => {
    // Line by line, so that the decoded text never stands in memory as a whole.
    for (const line of text.split("\n")) {
      const letters = atob(line);
      const chunk = new Uint8Array(letters.length);
      for (let i = 0; i < chunk.length; i++) chunk[i] = letters.charCodeAt(i);
      await writer.write(chunk);
    }
    await writer.close();
  };
  return (await Promise.all([bytes, write()]))[0];
}

// Two-byte numbers are stored as all their low bytes, then all their high bytes (see gpuediff/scans/page/data.py).
function codesOf(buffer, start, { type, offset, count }) {
  const place = start + offset;
  if (type === "uint8") return new Uint8Array(buffer, place, count);
  if (type === "uint32") return new Uint32Array(buffer.slice(place, place + 4 * count));
  const low = new Uint8Array(buffer, place, count);
  const high = new Uint8Array(buffer, place + count, count);
  const codes = type === "int16" ? new Int16Array(count) : new Uint16Array(count);
  for (let i = 0; i < count; i++) codes[i] = low[i] | (high[i] << 8);
  return codes;
}

// What a binary holds: its header, and its arrays by name.
function read(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  for (const [name, told] of Object.entries(header.arrays)) {
    arrays[name] = { ...told, codes: codesOf(buffer, 4 + length, told) };
  }
  return { header, arrays };
}

class ScanData {
  constructor(maps, patterns) {
    const [{ header, arrays }, packed] = [read(maps), read(patterns)];
    this.header = header;
    this.arrays = { ...arrays, ...packed.arrays };
    this.packing = packed.header;
    [this.ny, this.nx] = header.shape;
    this.count = this.ny * this.nx;
    this.symbols = new Map(header.space_groups.map((group) => [group.number, group]));
    if (this.has("peak_counts")) {
      const counts = this.arrays.peak_counts.codes;
      this.starts = new Uint32Array(this.count + 1);
      for (let i = 0; i < this.count; i++) this.starts[i + 1] = this.starts[i] + counts[i];
    }
  }

  has(name) {
    return name in this.arrays;
  }

  // NaN where there is no value, and of maps that this page does not have.
  value(name, i) {
    const array = this.arrays[name];
    if (array === undefined) return NaN;
    const code = array.codes[i];
    return code === array.missing ? NaN : array.low + array.step * code;
  }

  // Index of the crystal system, -1 where there is none.
  system(name, i) {
    const code = this.arrays[name].codes[i];
    return code === this.arrays[name].missing ? -1 : code;
  }

  votes(i) {
    return this.header.systems.map((_, system) => this.value("votes", system * this.count + i));
  }

  // Peaks of one pattern: the direct beam first, if there is one, then from the brightest to the faintest.
  peaks(i) {
    const { log_low, log_step } = this.packing;
    const peaks = [];
    for (let k = this.starts[i]; k < this.starts[i + 1]; k++) {
      const qx = this.value("peak_qx", k);
      const qy = this.value("peak_qy", k);
      const code = this.arrays.peak_intensity.codes[k];
      const intensity = code ? Math.exp(log_low + log_step * (code - 1)) : 0;
      const q = Math.hypot(qx, qy);
      const direct = k === this.starts[i] && q <= this.header.direct_beam_radius;
      peaks.push({ qx, qy, q, intensity, level: code / 255, direct });
    }
    return peaks;
  }

  groupName(number) {
    const group = this.symbols.get(number);
    return group ? `${group.symbol} (${number})` : "none";
  }
}
