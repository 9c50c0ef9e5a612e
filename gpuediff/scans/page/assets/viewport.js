// A plane that is seen through a canvas: wheel, drag, pinch and keys move it, a press without a drag chooses a place.

const CLICK_DISTANCE = 5; // CSS pixels that a press may move and still be a click

class Viewport {
  // `extent` is the part of the plane to be fitted into the canvas: left, top, right, bottom.
  // `shrinks`: the canvas becomes as low as the fitted plane, instead of leaving room below it.
  constructor(canvas, { extent, margins, snap = (scale) => scale, closest, shrinks, onDraw, onHover, onChoose }) {
    Object.assign(this, { canvas, extent, margins, snap, closest, shrinks, onDraw, onHover, onChoose });
    this.pointers = new Map();
    this.scale = this.left = this.top = 0;
    this.moved = true;
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    window.addEventListener("resize", () => this.resize());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.up(event));
    canvas.addEventListener("pointercancel", (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse" && !this.pointers.size) this.onHover(null);
    });
  }

  get room() {
    const { left, top, right, bottom } = this.margins;
    return { width: this.width - left - right, height: this.height - top - bottom };
  }

  resize() {
    this.canvas.style.height = "";
    let box = this.canvas.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.density = window.devicePixelRatio || 1;
    if (this.shrinks) {
      const { left, top, right, bottom } = this.margins;
      const scale = this.scaleToFit(box.width - left - right, box.height - top - bottom);
      this.canvas.style.height = `${Math.ceil(top + bottom + scale * (this.extent[3] - this.extent[1]))}px`;
      box = this.canvas.getBoundingClientRect();
    }
    this.width = box.width;
    this.height = box.height;
    const [width, height] = [box.width, box.height].map((length) => Math.round(length * this.density));
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== height) this.canvas.height = height;
    if (this.zoomed) this.settle();
    else this.fit();
    // At once: a canvas of a new size is empty, and would be seen so until the next frame.
    this.onDraw();
  }

  scaleToFit(width, height) {
    const [left, top, right, bottom] = this.extent;
    return this.snap(Math.min(width / (right - left), height / (bottom - top)), this.density);
  }

  fit() {
    this.fitted = this.scale = this.scaleToFit(this.room.width, this.room.height);
    this.zoomed = false;
    this.settle();
  }

  // Keeps the place (x, y), in CSS pixels of the canvas, where it is.
  zoom(factor, x = this.margins.left + this.room.width / 2, y = this.margins.top + this.room.height / 2) {
    let scale = this.snap(this.scale * factor, this.density);
    if (scale === this.scale && factor > 1) scale = this.snap(this.scale + 1 / this.density, this.density);
    if (scale === this.scale && factor < 1) scale = this.snap(this.scale - 1 / this.density, this.density);
    if (scale <= this.fitted) return this.fit();
    scale = Math.min(scale, this.fitted * this.closest);
    const place = this.placeAt(x, y);
    this.scale = scale;
    this.zoomed = true;
    this.left = place.x - (x - this.margins.left) / scale;
    this.top = place.y - (y - this.margins.top) / scale;
    this.settle();
  }

  pan(dx, dy) {
    if (!this.zoomed) return;
    this.left -= dx / this.scale;
    this.top -= dy / this.scale;
    this.settle();
  }

  // Leaves no empty room beside the plane that the plane could fill, and redraws.
  settle() {
    const [left, top, right, bottom] = this.extent;
    const between = (start, low, high, seen) =>
      high - low <= seen ? (low + high - seen) / 2 : Math.min(Math.max(start, low), high - seen);
    this.left = between(this.left, left, right, this.room.width / this.scale);
    this.top = between(this.top, top, bottom, this.room.height / this.scale);
    // A finger scrolls the page over a map that is shown as a whole, and moves one that is enlarged.
    this.canvas.style.touchAction = this.zoomed ? "none" : "pan-y";
    this.redraw();
  }

  redraw() {
    if (this.waiting || !this.width) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.onDraw();
    });
  }

  placeAt(x, y) {
    return { x: this.left + (x - this.margins.left) / this.scale, y: this.top + (y - this.margins.top) / this.scale };
  }

  pixelOf(x, y) {
    return { x: this.margins.left + (x - this.left) * this.scale, y: this.margins.top + (y - this.top) * this.scale };
  }

  // Brings a place into sight with as little movement as possible.
  show(x, y) {
    const { width, height } = this.room;
    const edge = 1.5;
    const between = (start, place, seen) => Math.min(Math.max(start, place + edge - seen), place - edge);
    this.left = between(this.left, x, width / this.scale);
    this.top = between(this.top, y, height / this.scale);
    this.settle();
  }

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  wheel(event) {
    event.preventDefault();
    const { x, y } = this.at(event);
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, x, y);
  }

  down(event) {
    if (event.button !== 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.at(event));
    if (this.pointers.size === 1) {
      this.start = this.at(event);
      this.moved = false;
    } else this.moved = true;
  }

  move(event) {
    const now = this.at(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.onHover(now);
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) {
      const spread = (place) => Math.hypot(place.x - others[0].x, place.y - others[0].y) || 1;
      this.pinched = (this.pinched ?? 1) * (spread(now) / spread(before));
      // Whole magnifications only: wait until the fingers have moved enough for the next one.
      if (Math.abs(Math.log(this.pinched)) > 0.12) {
        this.zoom(this.pinched, (now.x + others[0].x) / 2, (now.y + others[0].y) / 2);
        this.pinched = 1;
      }
    } else {
      if (Math.hypot(now.x - this.start.x, now.y - this.start.y) > CLICK_DISTANCE) this.moved = true;
      if (this.moved) this.pan(now.x - before.x, now.y - before.y);
    }
    this.pointers.set(event.pointerId, now);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    if (!this.moved && !this.pointers.size) this.onChoose(this.at(event));
    if (!this.pointers.size) this.pinched = 1;
  }
}

// Colours of the page's style sheet, so that drawings follow the light and the dark scheme.
function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A drawing surface in CSS pixels, cleared.
function surface(viewport) {
  const context = viewport.canvas.getContext("2d");
  context.setTransform(viewport.density, 0, 0, viewport.density, 0, 0);
  context.clearRect(0, 0, viewport.width, viewport.height);
  context.font = "12px system-ui, sans-serif";
  return context;
}
