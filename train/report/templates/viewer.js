/* The slice viewer: three planes of a case, linked by a crosshair. Payloads are made by volumes.py.
   Arrays are LPS: z towards the head, y towards the back, x towards the patient's left. */

// Which axis of (z, y, x) runs across, to the right and down; head up, the patient's right on the left.
const PLANES = [
  { name: "Axial", axis: 0, right: 2, down: 1, flipped: false, marks: { top: "A", bottom: "P", left: "R", right: "L" } },
  { name: "Coronal", axis: 1, right: 2, down: 0, flipped: true, marks: { top: "S", bottom: "I", left: "R", right: "L" } },
  { name: "Sagittal", axis: 2, right: 1, down: 0, flipped: true, marks: { top: "S", bottom: "I", left: "A", right: "P" } },
];
// Told apart by lightness alone: both middle, too much light, too little dark.
const DIFFERENCES = [
  { title: "both", colour: "#2f9fd0" },
  { title: "predicted only", colour: "#ffe14d" },
  { title: "reference only", colour: "#b0004f" },
  { title: "another label", colour: "#ffffff" },
];
const HEAT = ["#3b0f70", "#b63679", "#fb8861", "#fcfdbf"];
const START = { modality: 0, region: "", opacity: 0.5, level: 0.5, width: 5, outline: true, filled: true, cross: true };
const VIEWER_HELP =
  "Click or drag: move the crosshair · wheel, Page Up/Down: slices · arrows: step · right button or Shift and drag: window and level · " +
  "1–8: modality · O: overlay · L: reference outline · X: crosshair · R: reset";

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
const clamped = (value, low, high) => Math.min(high, Math.max(low, value));
// A pixel of a canvas, whose bytes are red, green, blue, opacity from the lowest.
const pixelOf = (red, green, blue, opacity) => ((Math.round(255 * opacity) << 24) | (blue << 16) | (green << 8) | red) >>> 0;
const rgbOf = (colour) => [1, 3, 5].map((start) => parseInt(colour.slice(start, start + 2), 16));

const inflated = async (base64) => {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// The slices of a mosaic as one volume.
const unpacked = async ({ webp, columns }, [depth, height, width]) => {
  const blob = new Blob([bytesOf(webp)], { type: "image/webp" });
  const picture = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  const context = new OffscreenCanvas(picture.width, picture.height).getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const pixels = new Uint32Array(context.getImageData(0, 0, picture.width, picture.height).data.buffer);
  const volume = new Uint8Array(depth * height * width);
  for (let z = 0, to = 0; z < depth; z++) {
    const corner = Math.floor(z / columns) * height * picture.width + (z % columns) * width;
    for (let y = 0; y < height; y++) {
      const from = corner + y * picture.width;
      for (let x = 0; x < width; x++) volume[to++] = pixels[from + x] & 255;
    }
  }
  picture.close();
  return volume;
};

const decoded = async (payload) => {
  const half = (step) => payload.shape.map((side) => Math.ceil(side / step));
  const [images, reference, predictions, heads] = await Promise.all([
    Promise.all(payload.modalities.map((each) => unpacked(each, payload.shape))),
    payload.reference && inflated(payload.reference),
    Promise.all(payload.predictions.map((each) => inflated(each.mask))),
    Promise.all(payload.probabilities.map(({ regions, step }) =>
      Promise.all(regions.map((each) => unpacked(each, half(step)))))),
  ]);
  return { images, reference, predictions, heads };
};

// A volume of every `step`th voxel in the grid that it was taken from.
const enlarged = (volume, step, [depth, height, width]) => {
  const [rows, columns] = [Math.ceil(height / step), Math.ceil(width / step)];
  const whole = new Uint8Array(depth * height * width);
  for (let z = 0, to = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      const from = (Math.floor(z / step) * rows + Math.floor(y / step)) * columns;
      for (let x = 0; x < width; x++) whole[to++] = volume[from + Math.floor(x / step)];
    }
  }
  return whole;
};

// Codes 1 to 4 as in DIFFERENCES; labels that are not in `within` count as background.
const differences = (reference, prediction, within) => {
  const codes = new Uint8Array(reference.length);
  for (let i = 0; i < codes.length; i++) {
    const [wanted, found] = [within[reference[i]], within[prediction[i]]];
    if (wanted || found) codes[i] = wanted === found ? 1 : !wanted ? 2 : !found ? 3 : 4;
  }
  return codes;
};

class SliceViewer {
  #case = null; // the payload and its decoded volumes
  #at = [0, 0, 0]; // the crosshair's voxel
  #active = 0; // the plane that keys move
  #panes = [];
  #settings = { ...START };
  #fill = null; // what is painted: codes of voxels, colours of codes, and a legend
  #queued = false;
  #inputs = {};

  constructor(element) {
    this.element = element;
    element.replaceChildren();
    element.classList.add("viewer");
    element.tabIndex = 0;
    element.setAttribute("role", "group");
    element.setAttribute("aria-label", "Slice viewer");
    this.message = make("p", "viewer-message");
    this.message.setAttribute("role", "status");
    this.body = make("div", "viewer-body");
    this.body.hidden = true;
    this.planes = make("div", "viewer-planes");
    this.#panes = PLANES.map((plane) => this.#pane(plane));
    this.planes.append(...this.#panes.map((pane) => pane.figure));
    this.legend = make("p", "viewer-legend");
    this.readout = make("p", "viewer-readout");
    this.body.append(this.#controls(), this.#tabs(), this.planes, this.readout, this.legend, make("p", "viewer-help", VIEWER_HELP));
    element.append(this.message, this.body);
    element.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(() => this.#queue()).observe(this.planes);
    this.#activate(0);
  }

  // Show a case; settings stay, so that cases are compared under the same ones.
  async show(caseId, payload) {
    this.#case = null;
    this.caseId = caseId;
    this.message.textContent = "Reading the volumes…";
    this.body.hidden = true;
    const began = performance.now();
    try {
      const volumes = await decoded(payload);
      if (this.caseId !== caseId) return; // another case was asked for meanwhile
      this.#case = { ...payload, volumes };
    } catch (error) {
      if (this.caseId === caseId) this.message.textContent = `The volumes of ${caseId} cannot be read: ${error.message}`;
      return;
    }
    this.decodeMs = performance.now() - began;
    this.#at = [...payload.at];
    this.message.textContent = "";
    this.body.hidden = false;
    this.#fitChoices();
    this.#fitPlanes();
    this.#refill();
  }

  /* ---- the parts ---- */

  #pane(plane) {
    const figure = make("figure", "viewer-plane");
    const caption = make("figcaption");
    const stage = make("div", "viewer-stage");
    const canvas = make("canvas");
    const slider = this.#slider(0, 1, 1, (value) => this.#move(plane.axis, value - this.#at[plane.axis]));
    slider.setAttribute("aria-label", `${plane.name} slice`);
    stage.append(canvas, ...Object.entries(plane.marks).map(([side, mark]) => make("span", `mark ${side}`, mark)));
    figure.append(caption, stage, slider);
    const pane = { plane, figure, caption, canvas, slider, layers: [new OffscreenCanvas(1, 1), new OffscreenCanvas(1, 1)] };
    this.#listen(pane);
    return pane;
  }

  #listen(pane) {
    const { canvas, plane } = pane;
    let last = null; // where a drag of window and level was
    const drag = (event) => {
      if (!last) {
        this.#point(pane, event);
        return;
      }
      const { width, level } = this.#settings;
      this.#set("width", clamped(width + (event.clientX - last[0]) / 50, 0.2, 9));
      this.#set("level", clamped(level - (event.clientY - last[1]) / 50, -3, 6));
      last = [event.clientX, event.clientY];
    };
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.element.focus({ preventScroll: true });
      canvas.setPointerCapture(event.pointerId);
      this.#activate(PLANES.indexOf(plane));
      last = event.button === 2 || event.shiftKey ? [event.clientX, event.clientY] : null;
      drag(event);
    });
    canvas.addEventListener("pointermove", (event) => event.buttons && drag(event));
    let turned = 0; // pixels of the wheel that are not yet a slice
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#activate(PLANES.indexOf(plane));
      turned += event.deltaMode ? 40 * Math.sign(event.deltaY) : clamped(event.deltaY, -40, 40);
      const slices = Math.trunc(turned / 40);
      turned -= 40 * slices;
      this.#move(plane.axis, -slices);
    }, { passive: false });
  }

  #controls() {
    const bar = make("div", "viewer-controls");
    const choice = (key, name, change) => {
      const label = make("label", "", `${name} `);
      const select = make("select");
      select.addEventListener("change", () => change(select.value));
      label.append(select);
      this.#inputs[key] = select;
      return label;
    };
    const range = (key, name, low, high, step) => {
      const label = make("label", "", `${name} `);
      this.#inputs[key] = this.#slider(low, high, step, (value) => this.#set(key, value));
      label.append(this.#inputs[key]);
      return label;
    };
    const check = (key, name) => {
      const label = make("label", "viewer-check");
      const box = make("input");
      box.type = "checkbox";
      box.addEventListener("change", () => this.#set(key, box.checked));
      this.#inputs[key] = box;
      label.append(box, ` ${name}`);
      return label;
    };
    bar.append(
      choice("modality", "Image", (value) => this.#set("modality", Number(value))),
      choice("overlay", "Overlay", (value) => this.#set("overlay", value)),
      choice("region", "Region", (value) => this.#set("region", value)),
      range("opacity", "Opacity", 0.05, 1, 0.05),
      check("filled", "overlay"),
      check("outline", "reference outline"),
      range("level", "Level", -3, 6, 0.05),
      range("width", "Window", 0.2, 9, 0.05),
    );
    return bar;
  }

  #slider(low, high, step, change) {
    const slider = make("input");
    Object.assign(slider, { type: "range", min: low, max: high, step });
    slider.addEventListener("input", () => change(Number(slider.value)));
    return slider;
  }

  // On narrow screens one plane at a time is shown.
  #tabs() {
    const tabs = make("div", "viewer-tabs");
    for (const [index, pane] of this.#panes.entries()) {
      pane.tab = make("button", "", pane.plane.name);
      pane.tab.type = "button";
      pane.tab.addEventListener("click", () => this.#activate(index));
      tabs.append(pane.tab);
    }
    return tabs;
  }

  #fitChoices() {
    const { modalities, regions, reference, predictions, probabilities } = this.#case;
    const fill = (key, options) => {
      this.#inputs[key].replaceChildren(...options.map(([value, text]) => new Option(text, value)));
      const known = options.some(([value]) => String(value) === String(this.#settings[key]));
      if (!known) this.#settings[key] = options[0][0];
    };
    fill("modality", modalities.map((each, index) => [index, each.title]));
    fill("region", [["", "all"], ...regions.map((each) => [each.name, each.title])]);
    fill("overlay", [
      ...predictions.map((each, index) => [`prediction ${index}`, `prediction ${each.title}`]),
      ...(reference ? predictions.map((each, index) => [`difference ${index}`, `difference ${each.title}`]) : []),
      ...(reference ? [["reference 0", "reference"]] : []),
      ...probabilities.map((each, index) => [`probability ${index}`, `probability ${each.title}`]),
      ["none 0", "none"],
    ]);
    this.#inputs.outline.disabled = !reference;
  }

  #fitPlanes() {
    const { shape, spacing_mm, start } = this.#case;
    const lengths = shape.map((side, axis) => side * spacing_mm[axis]);
    const widths = PLANES.map(({ right }) => lengths[right]);
    const tallest = Math.max(...PLANES.map(({ down }) => lengths[down]));
    // One scale in all planes, and none higher than the window.
    this.planes.style.setProperty("--columns", widths.map((width) => `minmax(0,${width}fr)`).join(" "));
    this.planes.style.setProperty("--ratio", widths.reduce((sum, width) => sum + width) / tallest);
    for (const { plane, canvas, slider, layers, figure } of this.#panes) {
      canvas.style.aspectRatio = `${lengths[plane.right]} / ${lengths[plane.down]}`;
      figure.style.setProperty("--own-ratio", lengths[plane.right] / lengths[plane.down]);
      slider.max = shape[plane.axis] - 1;
      for (const layer of layers) Object.assign(layer, { width: shape[plane.right], height: shape[plane.down] });
    }
    this.first = start.map((index) => index + 1);
  }

  /* ---- settings ---- */

  #set(key, value) {
    this.#settings[key] = value;
    if (key === "overlay") this.#settings.filled = true;
    if (["overlay", "region", "opacity"].includes(key)) this.#refill();
    else this.#queue();
  }

  #move(axis, steps) {
    this.#at[axis] = clamped(this.#at[axis] + steps, 0, this.#case.shape[axis] - 1);
    this.#queue();
  }

  #activate(index) {
    this.#active = index;
    this.#panes.forEach((pane, each) => {
      pane.figure.classList.toggle("active", each === index);
      pane.tab.setAttribute("aria-pressed", each === index);
    });
    this.#queue();
  }

  #point({ plane, canvas }, event) {
    const { shape } = this.#case;
    const place = canvas.getBoundingClientRect();
    const at = (share, axis) => clamped(Math.floor(share * shape[axis]), 0, shape[axis] - 1);
    const down = (event.clientY - place.top) / place.height;
    this.#at[plane.right] = at((event.clientX - place.left) / place.width, plane.right);
    this.#at[plane.down] = at(plane.flipped ? 1 - down : down, plane.down);
    this.#queue();
  }

  #key(event) {
    const { target, key } = event;
    const moves = key.startsWith("Arrow") || key.startsWith("Page");
    if (!this.#case || event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.tagName === "SELECT" || (target.type === "range" && moves)) {
      event.stopPropagation(); // what the page does with these keys is not meant
      return;
    }
    const { axis, right, down, flipped } = this.#panes[this.#active].plane;
    const up = flipped ? 1 : -1;
    const settings = this.#settings;
    const actions = {
      ArrowLeft: () => this.#move(right, -1),
      ArrowRight: () => this.#move(right, 1),
      ArrowUp: () => this.#move(down, up),
      ArrowDown: () => this.#move(down, -up),
      PageUp: () => this.#move(axis, 1),
      PageDown: () => this.#move(axis, -1),
      o: () => this.#set("filled", !settings.filled),
      l: () => this.#set("outline", !settings.outline),
      x: () => this.#set("cross", !settings.cross),
      r: () => this.#reset(),
    };
    const modality = Number(key) - 1;
    const action = this.#case.modalities[modality] ? () => this.#set("modality", modality) : actions[key.length === 1 ? key.toLowerCase() : key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }

  #reset() {
    this.#settings = { ...START };
    this.#at = [...this.#case.at];
    this.#fitChoices();
    this.#refill();
  }

  /* ---- overlays ---- */

  #refill() {
    const [kind, index] = this.#settings.overlay.split(" ");
    const { volumes, labels, regions, probabilities, shape } = this.#case;
    const place = regions.findIndex((each) => each.name === this.#settings.region);
    const region = regions[place];
    const inRegion = (value) => !region || region.values.includes(value);
    // A label counts as itself among all regions, and as its region where one is chosen.
    this.within = new Uint8Array(256);
    for (const { value } of labels) if (inRegion(value)) this.within[value] = region ? 1 : value;
    const painted = (codes) => ({
      codes,
      entries: region
        ? region.values.map((value, nth) => [value, region.colour, nth ? "" : region.title])
        : labels.map((each) => [each.value, each.colour, each.title]),
    });
    const fills = {
      none: () => ({ codes: null, entries: [] }),
      reference: () => painted(volumes.reference),
      prediction: () => painted(volumes.predictions[index]),
      difference: () => ({
        codes: differences(volumes.reference, volumes.predictions[index], this.within),
        entries: DIFFERENCES.slice(0, region ? 3 : 4).map((each, code) => [code + 1, each.colour, each.title]),
      }),
      probability: () => ({
        codes: enlarged(volumes.heads[index][Math.max(0, place)], probabilities[index].step, shape),
        heat: (region ?? regions[0]).title,
        entries: [],
      }),
    };
    this.#fill = fills[kind]();
    this.#fill.colours = this.#coloursOf(this.#fill);
    this.#drawLegend();
    this.#queue();
  }

  #coloursOf({ entries, heat }) {
    const { opacity } = this.#settings;
    const colours = new Uint32Array(256);
    for (const [code, colour] of entries) colours[code] = pixelOf(...rgbOf(colour), opacity);
    if (heat) {
      const stops = HEAT.map(rgbOf);
      for (let code = 5; code < 256; code++) {
        const stop = Math.min(stops.length - 2, Math.floor((code / 255) * (stops.length - 1)));
        const share = (code / 255) * (stops.length - 1) - stop;
        const mixed = stops[stop].map((low, part) => Math.round(low + share * (stops[stop + 1][part] - low)));
        colours[code] = pixelOf(...mixed, opacity * (0.4 + (0.6 * code) / 255));
      }
    }
    return colours;
  }

  #drawLegend() {
    const item = (text, colour) => {
      const made = make("span", "viewer-item");
      const swatch = make("i", "viewer-swatch");
      swatch.style.background = colour;
      made.append(swatch, text);
      return made;
    };
    const { entries, heat } = this.#fill;
    this.legend.replaceChildren(...entries.filter(([, , text]) => text).map(([, colour, text]) => item(text, colour)));
    if (heat) this.legend.append(item(`Probability of ${heat}, 0 to 1`, `linear-gradient(90deg, ${HEAT.join(", ")})`));
  }

  /* ---- drawing ---- */

  #queue() {
    if (this.#queued || !this.#case || !this.#fill) return;
    this.#queued = true;
    requestAnimationFrame(() => {
      this.#queued = false;
      if (this.#case) this.#draw();
    });
  }

  #draw() {
    const began = performance.now();
    const greys = this.#greys();
    for (const pane of this.#panes) if (pane.canvas.clientWidth) this.#drawPane(pane, greys);
    this.#describe();
    this.drawMs = performance.now() - began;
  }

  // The pixel of each byte of an image under window and level.
  #greys() {
    const { window: [low, high], first_code } = this.#case;
    const { level, width } = this.#settings;
    return Uint32Array.from({ length: 256 }, (_, code) => {
      if (code < first_code / 2) return pixelOf(0, 0, 0, 1);
      const value = low + ((code - first_code) / (255 - first_code)) * (high - low);
      const grey = Math.round(255 * clamped((value - level) / width + 0.5, 0, 1));
      return pixelOf(grey, grey, grey, 1);
    });
  }

  #drawPane({ plane, canvas, slider, caption, layers }, greys) {
    const { shape, grid } = this.#case;
    const ratio = Math.min(2, devicePixelRatio);
    const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const slice = this.#at[plane.axis];
    caption.textContent = `${plane.name} ${slice + this.first[plane.axis]} of ${grid[plane.axis]}`;
    slider.value = slice;
    const contexts = layers.map((layer) => layer.getContext("2d"));
    const pictures = layers.map(({ width: columns, height: rows }) => new ImageData(columns, rows));
    const [image, overlay] = pictures.map((picture) => new Uint32Array(picture.data.buffer));
    this.#fillSlice(plane, greys, image, overlay);
    pictures.forEach((picture, index) => contexts[index].putImageData(picture, 0, 0));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = true;
    context.drawImage(layers[0], 0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(layers[1], 0, 0, width, height);
    if (!this.#settings.cross) return;
    const row = plane.flipped ? shape[plane.down] - 1 - this.#at[plane.down] : this.#at[plane.down];
    const x = ((this.#at[plane.right] + 0.5) / shape[plane.right]) * width;
    const y = ((row + 0.5) / shape[plane.down]) * height;
    this.#drawCross(context, x, y, 10 * ratio, ratio);
  }

  #fillSlice(plane, greys, image, overlay) {
    const { shape, volumes } = this.#case;
    const { modality, filled, outline } = this.#settings;
    const steps = [shape[1] * shape[2], shape[2], 1];
    const [columns, rows] = [shape[plane.right], shape[plane.down]];
    const [across, along] = [steps[plane.right], steps[plane.down]];
    const voxels = volumes.images[modality];
    const codes = filled ? this.#fill.codes : null;
    const { colours } = this.#fill;
    const reference = outline ? volumes.reference : null;
    const { within } = this;
    const white = pixelOf(255, 255, 255, 1);
    for (let row = 0, pixel = 0; row < rows; row++) {
      const line = plane.flipped ? rows - 1 - row : row;
      let voxel = this.#at[plane.axis] * steps[plane.axis] + line * along;
      for (let column = 0; column < columns; column++, pixel++, voxel += across) {
        image[pixel] = greys[voxels[voxel]];
        if (codes) overlay[pixel] = colours[codes[voxel]];
        if (!reference) continue;
        const inside = within[reference[voxel]];
        if (
          inside &&
          ((column && within[reference[voxel - across]] !== inside) ||
            (column < columns - 1 && within[reference[voxel + across]] !== inside) ||
            (line && within[reference[voxel - along]] !== inside) ||
            (line < rows - 1 && within[reference[voxel + along]] !== inside))
        ) overlay[pixel] = white;
      }
    }
  }

  #drawCross(context, x, y, gap, thickness) {
    const { width, height } = context.canvas;
    context.strokeStyle = "rgba(143, 190, 255, 0.85)";
    context.lineWidth = thickness;
    context.beginPath();
    for (const [x0, y0, x1, y1] of [[0, y, x - gap, y], [x + gap, y, width, y], [x, 0, x, y - gap], [x, y + gap, x, height]]) {
      context.moveTo(x0, y0);
      context.lineTo(x1, y1);
    }
    context.stroke();
  }

  // What lies under the crosshair, in words, and the controls as the settings are.
  #describe() {
    const { shape, volumes, modalities, predictions, labels, window: [low, high], first_code } = this.#case;
    const voxel = (this.#at[0] * shape[1] + this.#at[1]) * shape[2] + this.#at[2];
    const code = volumes.images[this.#settings.modality][voxel];
    const value = low + ((code - first_code) / (255 - first_code)) * (high - low);
    const cut = code >= 255 ? "≥ " : code <= first_code ? "≤ " : "";
    const named = (label) => labels.find((each) => each.value === label)?.title ?? "background";
    const words = [
      `x ${this.#at[2] + this.first[2]}, y ${this.#at[1] + this.first[1]}, z ${this.#at[0] + this.first[0]}`,
      `${modalities[this.#settings.modality].title} ${code < first_code / 2 ? "background" : `${cut || "≈ "}${value.toFixed(1)} σ`}`,
      ...(volumes.reference ? [`reference: ${named(volumes.reference[voxel])}`] : []),
      ...predictions.map((each, index) => `${each.title}: ${named(volumes.predictions[index][voxel])}`),
    ];
    this.readout.textContent = words.join(" · ");
    for (const [key, input] of Object.entries(this.#inputs)) {
      if (input.type === "checkbox") input.checked = this.#settings[key];
      else input.value = this.#settings[key];
    }
  }
}
