// The map of the scan: one picture element per probe position, enlarged by whole numbers.

const DIMMED = 0.16; // how much of its colour a probe position keeps that the filters leave out
const ANGSTROM_TO = [[1e4, "µm"], [10, "nm"], [1, "Å"]];

function rgb(hex) {
  return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
}

// 256 colours, (r, g, b) one after the other, through evenly spaced ones.
function ramp(colours) {
  const table = new Float32Array(3 * 256);
  const stops = colours.map(rgb);
  for (let i = 0; i < 256; i++) {
    const place = (i / 255) * (stops.length - 1);
    const lower = Math.min(Math.floor(place), stops.length - 2);
    for (let k = 0; k < 3; k++) {
      table[3 * i + k] = stops[lower][k] + (place - lower) * (stops[lower + 1][k] - stops[lower][k]);
    }
  }
  return table;
}

// 1, 2 or 5 times a power of ten, at most `largest`.
function roundLength(largest) {
  const power = 10 ** Math.floor(Math.log10(largest));
  return Math.max(...[1, 2, 5].map((step) => step * power).filter((value) => value <= largest * (1 + 1e-9)));
}

class MapView {
  constructor(data, canvas, { onHover, onChoose }) {
    this.data = data;
    this.shown = new Uint8Array(data.count).fill(1);
    this.outlined = false;
    this.hovered = this.pinned = null;
    // A line scan is drawn as a strip: its one row or column is broad enough to be seen and pointed at.
    this.wide = data.nx === 1 ? Math.ceil(data.ny / 12) : 1;
    this.high = data.ny === 1 ? Math.ceil(data.nx / 12) : 1;
    this.picture = document.createElement("canvas");
    this.picture.width = data.nx;
    this.picture.height = data.ny;
    const index = (pixel) => {
      if (!pixel) return null;
      const { x, y } = this.viewport.placeAt(pixel.x, pixel.y);
      const [column, row] = [Math.floor(x / this.wide), Math.floor(y / this.high)];
      return column >= 0 && column < data.nx && row >= 0 && row < data.ny ? row * data.nx + column : null;
    };
    const axes = data.header.step_size === null;
    this.viewport = new Viewport(canvas, {
      extent: [0, 0, data.nx * this.wide, data.ny * this.high],
      margins: { left: axes ? 52 : 2, top: 2, right: 2, bottom: axes ? 40 : 30 },
      // Whole device pixels a probe position, wherever one is at least one device pixel large.
      snap: (scale, density) => (scale * density >= 1 ? Math.floor(scale * density + 1e-6) / density : scale),
      closest: 40,
      shrinks: true,
      onDraw: () => this.draw(),
      onHover: (pixel) => onHover(index(pixel)),
      onChoose: (pixel) => onChoose(index(pixel)),
    });
  }

  // CSS pixels of one probe position.
  get size() {
    const { scale } = this.viewport;
    return { width: scale * this.wide, height: scale * this.high };
  }

  // Brings a probe position into sight.
  reveal(row, column) {
    this.viewport.show((column + 0.5) * this.wide, (row + 0.5) * this.high);
  }

  // The function that gives a probe position its colour, (r, g, b) between 0 and 255, or null if it has no value.
  colouring() {
    const { data, view } = this;
    const { dimmest, none } = data.header.colours;
    const black = rgb(none);
    if (view.kind === "system" || view.kind === "group") {
      const colours = new Map(
        view.kind === "system"
          ? data.header.systems.map((system, index) => [index, rgb(system.colour)])
          : data.header.space_groups.map((group) => [group.number, rgb(group.colour)]),
      );
      return (i) => {
        const own = colours.get(data.value(view.key, i));
        if (own === undefined) return black;
        const strength = Math.min(Math.max((data.value(view.strength, i) || 0) / view.high, 0), 1);
        return own.map((part) => part * (dimmest + (1 - dimmest) * strength));
      };
    }
    if (view.kind === "status") {
      const colours = data.header.statuses.map((status) => rgb(status.colour));
      return (i) => colours[data.value(view.key, i)];
    }
    const table = ramp(data.header.colours[view.colours]);
    const span = view.high - view.low || 1;
    return (i) => {
      const value = data.value(view.key, i);
      if (Number.isNaN(value)) return null;
      const place = 3 * Math.round(255 * Math.min(Math.max((value - view.low) / span, 0), 1));
      return table.subarray(place, place + 3);
    };
  }

  paint() {
    const image = new ImageData(this.data.nx, this.data.ny);
    const colour = this.colouring();
    const pale = rgb(ink("pale"));
    const empty = rgb(this.data.header.colours.empty);
    for (let i = 0; i < this.data.count; i++) {
      const own = colour(i) ?? empty;
      const share = this.shown[i] ? 1 : DIMMED;
      for (let k = 0; k < 3; k++) image.data[4 * i + k] = share * own[k] + (1 - share) * pale[k];
      image.data[4 * i + 3] = 255;
    }
    this.picture.getContext("2d").putImageData(image, 0, 0);
    this.viewport.redraw();
  }

  draw() {
    const { viewport, data } = this;
    const context = surface(viewport);
    const { left, top } = viewport.margins;
    const { width, height } = viewport.room;
    context.save();
    context.beginPath();
    context.rect(left, top, width, height);
    context.clip();
    const corner = viewport.pixelOf(0, 0);
    // On whole device pixels, so that every probe position is equally large.
    const whole = (value) => Math.round(value * viewport.density) / viewport.density;
    const [x, y] = [whole(corner.x), whole(corner.y)];
    context.imageSmoothingEnabled = false;
    context.drawImage(this.picture, x, y, data.nx * this.size.width, data.ny * this.size.height);
    if (this.outlined) this.drawOutlines(context, x, y);
    this.mark(context, this.hovered, x, y, false);
    this.mark(context, this.pinned, x, y, true);
    context.restore();
    if (data.header.step_size === null) this.drawAxes(context);
    else this.drawScaleBar(context);
    // Where the map lies on the canvas, for programs that point at it.
    Object.assign(viewport.canvas.dataset, { left: x, top: y, ...this.size });
  }

  mark(context, i, x, y, pinned) {
    if (i === null) return;
    const [row, column] = [Math.floor(i / this.data.nx), i % this.data.nx];
    const [width, height] = [Math.max(this.size.width, 7), Math.max(this.size.height, 7)];
    const left = x + (column + 0.5) * this.size.width - width / 2;
    const top = y + (row + 0.5) * this.size.height - height / 2;
    const frame = (gap, colour, line) => {
      context.strokeStyle = colour;
      context.lineWidth = line;
      context.strokeRect(left - gap, top - gap, width + 2 * gap, height + 2 * gap);
    };
    frame(pinned ? 2.5 : 1, "#000", pinned ? 4 : 3);
    frame(pinned ? 2.5 : 1, "#fff", pinned ? 2 : 1.2);
  }

  // Edges between probe positions of different particles, as lines over the plane.
  outlines() {
    if (this.edges) return this.edges;
    const { wide, high } = this;
    const { nx, ny } = this.data;
    const label = (row, column) =>
      row < 0 || column < 0 || row >= ny || column >= nx ? 0 : this.data.value("particle", row * nx + column);
    this.edges = new Path2D();
    for (let row = 0; row <= ny; row++) {
      for (let column = 0; column <= nx; column++) {
        const here = label(row, column);
        if (here !== label(row, column - 1)) {
          this.edges.moveTo(column * wide, row * high);
          this.edges.lineTo(column * wide, (row + 1) * high);
        }
        if (here !== label(row - 1, column)) {
          this.edges.moveTo(column * wide, row * high);
          this.edges.lineTo((column + 1) * wide, row * high);
        }
      }
    }
    return this.edges;
  }

  drawOutlines(context, x, y) {
    const { scale } = this.viewport;
    context.save();
    context.translate(x, y);
    context.scale(scale, scale);
    context.lineCap = "square";
    for (const [colour, wide] of [["#000", 2.6], ["#fff", 1.2]]) {
      context.strokeStyle = colour;
      context.lineWidth = wide / scale;
      context.stroke(this.outlines());
    }
    context.restore();
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.lineWidth = 3;
    context.lineJoin = "round";
    this.data.header.particles.places.forEach(([row, column], number) => {
      const place = [x + (column + 0.5) * this.size.width, y + (row + 0.5) * this.size.height];
      context.strokeStyle = "#fff";
      context.strokeText(number + 1, ...place);
      context.fillStyle = "#000";
      context.fillText(number + 1, ...place);
    });
  }

  drawScaleBar(context) {
    const { viewport, data } = this;
    const step = data.header.step_size;
    const scale = data.nx === 1 ? this.size.height : this.size.width;
    const across = data.nx === 1 ? data.ny : data.nx;
    const widest = (Math.min(viewport.room.width, across * scale) / scale) * step;
    const [factor, unit] = ANGSTROM_TO.find(([size]) => widest / 3 >= size) ?? ANGSTROM_TO[2];
    const length = roundLength(widest / 3 / factor);
    const long = ((length * factor) / step) * scale;
    const left = Math.max(viewport.pixelOf(0, 0).x, viewport.margins.left);
    const bottom = Math.min(viewport.pixelOf(0, data.ny * this.high).y, viewport.height - viewport.margins.bottom);
    context.fillStyle = ink("ink");
    context.fillRect(left, bottom + 12, long, 4);
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.fillText(`${length} ${unit}`, left + long + 8, bottom + 14);
  }

  drawAxes(context) {
    const { viewport, data } = this;
    const { width, height } = viewport.room;
    const { left, top } = viewport.margins;
    const corner = viewport.pixelOf(0, 0);
    const [x0, y0] = [Math.max(corner.x, left), Math.max(corner.y, top)];
    const x1 = Math.min(corner.x + data.nx * this.size.width, left + width);
    const y1 = Math.min(corner.y + data.ny * this.size.height, top + height);
    const everyFor = (size) => Math.max(1, roundLength(Math.max(1, 70 / size)));
    const stride = data.header.stride;
    context.fillStyle = context.strokeStyle = ink("soft");
    context.lineWidth = 1;
    context.textBaseline = "top";
    context.textAlign = "center";
    for (let column = 0; column < data.nx; column += everyFor(this.size.width)) {
      const x = viewport.pixelOf((column + 0.5) * this.wide, 0).x;
      if (x < x0 || x > x1) continue;
      context.fillRect(x, y1, 1, 4);
      context.fillText(column * stride, x, y1 + 7);
    }
    context.fillText("column", (x0 + x1) / 2, y1 + 23);
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let row = 0; row < data.ny; row += everyFor(this.size.height)) {
      const y = viewport.pixelOf(0, (row + 0.5) * this.high).y;
      if (y < y0 || y > y1) continue;
      context.fillRect(x0 - 4, y, 4, 1);
      context.fillText(row * stride, x0 - 7, y);
    }
    context.save();
    context.translate(x0 - 40, (y0 + y1) / 2);
    context.rotate(-Math.PI / 2);
    context.textAlign = "center";
    context.fillText("row", 0, 0);
    context.restore();
  }
}
