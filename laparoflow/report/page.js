"use strict";
// Frames with embeddings in 8 bits: the chosen pixel is compared with every cell of every frame at each change.
const KERNELS = {
  gaussian: r => Math.exp(-r * r / 2), laplace: r => Math.exp(-r), cauchy: r => 1 / (1 + r * r), tophat: r => r <= 1 ? 1 : 0,
};
const SIMILARITY = "similarity", WEIGHTS = "pair weights";

function bytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0));
}

function load(address) {
  return new Promise(resolve => {
    const image = new Image();
    image.onload = () => resolve(image);
    image.src = address;
  });
}

// Values in 0..1 (NaN is left transparent) as a picture of one pixel a cell.
function heat(values, width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d"), data = context.createImageData(width, height);
  values.forEach((value, i) => {
    if (Number.isNaN(value)) return;
    data.data.set(VIRIDIS[Math.round(255 * Math.min(Math.max(value, 0), 1))], 4 * i);
    data.data[4 * i + 3] = 255;
  });
  context.putImageData(data, 0, 0);
  return canvas;
}

class Explorer {
  constructor(root, data, images) {
    Object.assign(this, { root, data, frames: data.frames, layer: SIMILARITY, shown: 0 });
    this.frames.forEach((frame, i) => {
      frame.images = images[i];
      frame.vectors = new Int8Array(bytes(frame.embedding).buffer);
      frame.guides = frame.guide && new Float32Array(bytes(frame.guide).buffer);
      frame.cells = frame.width * frame.height;
    });
    const first = this.frames[0];
    const [x, y] = data.pixel || [0.5, 0.5];
    this.query = { frame: 0, row: Math.floor(y * first.height), column: Math.floor(x * first.width) };
    this.main = root.querySelector("canvas.main");
    this.slider = root.querySelector("input[type=range]");
    this.slider.max = this.frames.length - 1;
    root.querySelector(".bar i").style.background =
      `linear-gradient(to right, ${VIRIDIS.filter((_, i) => i % 51 === 0).map(c => `rgb(${c})`).join()})`;
    this.build();
    this.update();
  }

  build() {
    const names = new Set(this.frames.flatMap(frame => Object.keys(frame.layers)));
    this.layers = ["image", SIMILARITY, ...this.frames.some(f => f.guides) ? [WEIGHTS] : [], ...[...names].filter(n => n !== "image")];
    this.radios = this.layers.map((name, i) => {
      const label = document.createElement("label"), radio = document.createElement("input");
      Object.assign(radio, { type: "radio", name: `${this.root.id}-layer`, value: name, checked: name === this.layer });
      radio.addEventListener("change", () => this.choose(name));
      label.append(radio, ` ${name}`);
      label.title = `key ${i + 1}`;
      this.root.querySelector(".layers").append(label);
      return radio;
    });
    this.small = this.frames.map((frame, i) => {
      const button = document.createElement("button"), canvas = document.createElement("canvas");
      button.type = "button";
      button.append(canvas, frame.name);
      button.addEventListener("click", () => this.show(i));
      this.root.querySelector(".others").append(button);
      return canvas;
    });
    this.slider.addEventListener("input", () => this.show(Number(this.slider.value)));
    this.main.addEventListener("pointerdown", event => this.point(event));
    this.main.addEventListener("pointermove", event => event.pointerType === "mouse" && event.buttons & 1 && this.point(event));
    this.main.addEventListener("keydown", event => this.key(event));
  }

  choose(name) {
    this.layer = name;
    this.radios.forEach(radio => { radio.checked = radio.value === name; });
    this.update();
  }

  show(i) {
    this.shown = Math.min(Math.max(i, 0), this.frames.length - 1);
    this.slider.value = this.shown;
    this.update();
  }

  point(event) {
    const box = this.main.getBoundingClientRect(), frame = this.frames[this.shown];
    this.ask((event.clientY - box.top) / box.height * frame.height, (event.clientX - box.left) / box.width * frame.width);
  }

  ask(row, column) {
    const frame = this.frames[this.shown], inside = (x, size) => Math.min(Math.max(Math.floor(x), 0), size - 1);
    this.query = { frame: this.shown, row: inside(row, frame.height), column: inside(column, frame.width) };
    if (![SIMILARITY, WEIGHTS].includes(this.layer)) this.choose(SIMILARITY);
    else this.update();
  }

  key(event) {
    const step = event.shiftKey ? 5 : 1, frame = this.frames[this.shown], number = Number(event.key);
    const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    if (moves[event.key]) {
      const at = this.query.frame === this.shown ? this.query : { row: frame.height >> 1, column: frame.width >> 1 };
      this.ask(at.row + moves[event.key][0], at.column + moves[event.key][1]);
    } else if (event.key === "PageUp" || event.key === "PageDown") this.show(this.shown + (event.key === "PageUp" ? -1 : 1));
    else if (number >= 1 && number <= this.layers.length) this.choose(this.layers[number - 1]);
    else return;
    event.preventDefault();
  }

  similarity(frame) {
    const source = this.frames[this.query.frame], size = frame.vectors.length / frame.cells;
    const start = (this.query.row * source.width + this.query.column) * size, values = new Float32Array(frame.cells);
    for (let i = 0; i < frame.cells; i++) {
      let sum = 0;
      for (let c = 0; c < size; c++) sum += source.vectors[start + c] * frame.vectors[i * size + c];
      values[i] = sum * source.scale * frame.scale;
    }
    return values;
  }

  weights(frame) {
    const source = this.frames[this.query.frame], values = new Float32Array(frame.cells);
    if (!source.guides || !frame.guides || source.group !== frame.group) return values.fill(NaN);
    const size = frame.guides.length / frame.cells, start = (this.query.row * source.width + this.query.column) * size;
    for (let i = 0; i < frame.cells; i++) {
      let sum = 0;
      for (let c = 0; c < size; c++) sum += (source.guides[start + c] - frame.guides[i * size + c]) ** 2;
      values[i] = KERNELS[this.data.kernel](Math.sqrt(sum) / this.data.bandwidth);
      if (Number.isNaN(sum)) values[i] = NaN;
    }
    return values;
  }

  update() {
    const begun = performance.now();
    this.maps = this.frames.map(frame => this.layer === WEIGHTS ? this.weights(frame) : this.similarity(frame));
    this.small.forEach((canvas, i) => this.draw(canvas, i, 160));
    this.draw(this.main, this.shown, 720);
    this.small.forEach((canvas, i) => canvas.parentElement.setAttribute("aria-pressed", i === this.shown));
    this.read();
    this.root.dataset.milliseconds = performance.now() - begun;
  }

  draw(canvas, i, width) {
    const frame = this.frames[i], image = frame.images[this.layer] || frame.images.image;
    canvas.width = width;
    canvas.height = Math.round(width * frame.images.image.height / frame.images.image.width);
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(image, 0, 0, canvas.width, canvas.height);
    if (this.layer === SIMILARITY || this.layer === WEIGHTS) {
      context.globalAlpha = 0.8;
      context.drawImage(heat(this.maps[i], frame.width, frame.height), 0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
    }
    if (this.query.frame === i) this.ring(canvas, frame, this.query.row, this.query.column, []);
    else if (this.layer === SIMILARITY) {
      const best = this.maps[i].reduce((most, value, at, all) => value > all[most] ? at : most, 0);
      this.ring(canvas, frame, Math.floor(best / frame.width), best % frame.width, [4, 4]);
    }
  }

  ring(canvas, frame, row, column, dash) {
    const context = canvas.getContext("2d"), radius = Math.max(6, canvas.width / 45);
    const x = (column + 0.5) * canvas.width / frame.width, y = (row + 0.5) * canvas.height / frame.height;
    for (const [colour, line] of [["#000", 5], ["#fff", 2]]) {
      Object.assign(context, { strokeStyle: colour, lineWidth: line });
      context.setLineDash(colour === "#fff" ? dash : []);
      context.beginPath();
      context.arc(x, y, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  read() {
    const frame = this.frames[this.shown], source = this.frames[this.query.frame], values = this.maps[this.shown];
    const here = `pixel at row ${this.query.row}, column ${this.query.column} of ${source.name}`;
    const known = values.filter(value => !Number.isNaN(value));
    let text = `${frame.name}. Compared with the ${here}: highest ${this.layer === WEIGHTS ? "weight" : "similarity"} `;
    text += known.length ? Math.max(...known).toFixed(2) : "none";
    if (this.layer === WEIGHTS && !known.length) text += "; the loss makes no pairs here";
    if (![SIMILARITY, WEIGHTS].includes(this.layer) && !frame.images[this.layer]) text = `${frame.name} has no ${this.layer}`;
    this.root.querySelector(".readout").textContent = `${text}.`;
  }
}

for (const root of document.querySelectorAll(".explorer")) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const all = data.frames.map(async frame => {
    const names = Object.keys(frame.layers), images = await Promise.all(names.map(name => load(frame.layers[name])));
    return Object.fromEntries(names.map((name, i) => [name, images[i]]));
  });
  Promise.all(all).then(images => { root.explorer = new Explorer(root, data, images); });
}
