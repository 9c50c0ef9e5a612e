// The pattern of one probe position: discs in reciprocal space, drawn as the detector's rows and columns lie.

const RINGS = [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2];
const NEAR = 14; // CSS pixels within which the pointer finds a peak

class PatternView {
  constructor(data, canvas, { onPeak }) {
    this.data = data;
    this.peaks = [];
    this.found = null;
    this.onPeak = onPeak;
    const reach = this.reach();
    const find = (pixel) => this.find(pixel);
    this.viewport = new Viewport(canvas, {
      extent: [-reach, -reach, reach, reach],
      margins: { left: 0, top: 0, right: 0, bottom: 0 },
      closest: 30,
      onDraw: () => this.draw(),
      onHover: find,
      onChoose: find,
    });
  }

  // Å⁻¹, within which all but one in two thousand peaks of the scan lie: the same for every pattern.
  reach() {
    const { codes: qx, step } = this.data.arrays.peak_qx;
    const qy = this.data.arrays.peak_qy.codes;
    const bins = new Uint32Array(1024);
    const wide = (50_000 * step) / bins.length;
    for (let k = 0; k < qx.length; k++) bins[Math.floor((Math.hypot(qx[k], qy[k]) * step) / wide)]++;
    let [bin, seen] = [0, bins[0]];
    while (bin < bins.length - 1 && seen < 0.9995 * qx.length) seen += bins[++bin];
    return Math.max(0.1, 1.06 * (bin + 1) * wide);
  }

  show(i) {
    this.peaks = i === null ? [] : this.data.peaks(i);
    this.found = null;
    this.viewport.redraw();
    this.onPeak(null);
  }

  find(pixel) {
    let nearest = NEAR;
    this.found = null;
    for (const peak of pixel ? this.peaks : []) {
      const place = this.viewport.pixelOf(peak.qy, peak.qx);
      const distance = Math.hypot(place.x - pixel.x, place.y - pixel.y);
      if (distance < nearest) [nearest, this.found] = [distance, peak];
    }
    this.onPeak(this.found);
    this.viewport.redraw();
  }

  draw() {
    const { viewport } = this;
    const context = surface(viewport);
    this.drawRings(context);
    // The area follows the logarithm of the intensity, from the faintest to the brightest peak of the whole scan.
    const largest = Math.min(11, 4 + viewport.room.height / 60);
    const radius = (peak) => Math.max(1.8, largest * Math.sqrt(peak.level));
    const disc = (peak, gap) => {
      const { x, y } = viewport.pixelOf(peak.qy, peak.qx);
      context.beginPath();
      context.arc(x, y, radius(peak) + gap, 0, 2 * Math.PI);
    };
    for (const peak of this.peaks) {
      disc(peak, 0);
      context.fillStyle = peak.direct ? ink("paper") : ink("ink");
      context.fill();
      context.lineWidth = peak.direct ? 2 : 1;
      context.strokeStyle = peak.direct ? ink("accent") : ink("paper");
      context.stroke();
    }
    const direct = this.peaks.find((peak) => peak.direct);
    if (direct) {
      this.drawDirectBeam(context, viewport.pixelOf(direct.qy, direct.qx));
      // Named in the corner, where the words hide no peak.
      const corner = { x: 14, y: viewport.height - 15 };
      context.beginPath();
      context.arc(corner.x, corner.y, 7, 0, 2 * Math.PI);
      context.stroke();
      this.drawDirectBeam(context, corner);
      context.fillStyle = ink("accent");
      context.textAlign = "left";
      context.textBaseline = "middle";
      context.fillText("direct beam", corner.x + 13, corner.y);
    }
    if (this.found) {
      disc(this.found, 4);
      context.strokeStyle = ink("accent");
      context.lineWidth = 2;
      context.stroke();
    }
    Object.assign(viewport.canvas.dataset, { ...viewport.pixelOf(0, 0), scale: viewport.scale });
    context.fillStyle = ink("soft");
    context.textBaseline = "top";
    context.textAlign = "left";
    context.fillText("qy →", 24, 8);
    context.fillText("qx", 8, 24);
    context.fillText("↓", 11, 38);
  }

  drawDirectBeam(context, { x, y }) {
    context.beginPath();
    context.moveTo(x - 4, y);
    context.lineTo(x + 4, y);
    context.moveTo(x, y - 4);
    context.lineTo(x, y + 4);
    context.strokeStyle = ink("accent");
    context.lineWidth = 1.2;
    context.stroke();
  }

  drawRings(context) {
    const { viewport } = this;
    const { width, height } = viewport.room;
    const step = RINGS.find((size) => size * viewport.scale >= 55) ?? RINGS.at(-1);
    const middle = viewport.placeAt(width / 2, height / 2);
    const away = Math.hypot(middle.x, middle.y);
    // Labels stand where the middle of the view lies, seen from the origin; above and right of it at the beginning.
    const towards = away > 0.2 * step ? { x: middle.x / away, y: middle.y / away } : { x: 0.5, y: -0.866 };
    const corners = [[0, 0], [width, 0], [0, height], [width, height]].map(([x, y]) => viewport.placeAt(x, y));
    const farthest = Math.max(...corners.map((corner) => Math.hypot(corner.x, corner.y)));
    const origin = viewport.pixelOf(0, 0);
    context.lineWidth = 1;
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (let ring = 1; ring * step < farthest; ring++) {
      const q = ring * step;
      context.strokeStyle = ink("ring");
      context.beginPath();
      context.arc(origin.x, origin.y, q * viewport.scale, 0, 2 * Math.PI);
      context.stroke();
      const { x, y } = viewport.pixelOf(q * towards.x, q * towards.y);
      const text = `${Number(q.toFixed(2))} Å⁻¹`;
      const wide = context.measureText(text).width + 8;
      context.fillStyle = ink("paper");
      context.fillRect(x - wide / 2, y - 8, wide, 16);
      context.fillStyle = ink("soft");
      context.fillText(text, x, y);
    }
  }
}
