// An image classifier in the browser: images in, classes out.
//
//   const classifier = await load("./");
//   const { label, top } = await classifier.classify(await readImage(blob));

import { compare, readGolden } from "./golden.js";
import { openSession, readRuntime } from "./runtime.js";

const SCHEMA = 1;
const TOP = 5;

/**
 * Return the classifier in the folder `url`, an artifact of Mobilette's target "web".
 *
 * `engine` is "webgpu", "wasm" or "auto": WebGPU where there is one that answers the golden images
 * like the trained network. `threads` are WASM's, of pages that are cross-origin isolated; 0 means
 * half of the cores, at most 4.
 */
export async function load(url = "./", { engine = "auto", threads = 0 } = {}) {
  const base = new URL(url, globalThis.location?.href ?? import.meta.url);
  const contract = await (await get(new URL("contract.json", base))).json();
  if (contract.schema !== SCHEMA || contract.target !== "web") {
    throw new Error(`${base}: not a "web" artifact of schema ${SCHEMA}`);
  }
  const model = await getChecked(base, contract.model, contract);
  const golden = await readGolden(await getChecked(base, "golden.npz", contract));
  const runtime = await readRuntime(base);
  // Int8 has fast kernels on the CPU only.
  if (engine === "webgpu" || (engine === "auto" && contract.precision !== "int8")) {
    try {
      if (!(await globalThis.navigator?.gpu?.requestAdapter())) throw new Error("there is none");
      const found = await Classifier.open(runtime, "webgpu", model, contract, golden, threads);
      if (engine === "webgpu" || found.verdict.agrees) return found;
      await found.session.release();
    } catch (error) {
      if (engine === "webgpu") throw new Error(`WebGPU: ${error.message}`, { cause: error });
      console.info(`WebGPU is not used: ${error.message}`);
    }
  }
  return Classifier.open(runtime, "wasm", model, contract, golden, threads);
}

export class Classifier {
  /** Return a classifier that has answered the golden images: `verdict` is how. */
  static async open(runtime, kind, model, contract, golden, threads) {
    const opened = await openSession(runtime, kind, model, threads);
    const classifier = new Classifier(opened, contract);
    classifier.verdict = await compare(golden, contract, (pixels) => classifier.logits(pixels));
    return classifier;
  }

  /** `engine` says what executes the model, `addresses` where it came from. */
  constructor({ ort, session, engine, addresses }, contract) {
    Object.assign(this, { ort, session, engine, addresses, contract, classes: contract.classes });
    this.turn = Promise.resolve();
  }

  /**
   * Return the five best classes for an ImageData, each {id, label, probability}, the label of the
   * answer, and how many milliseconds preparing the image and executing the network took.
   *
   * The label is "unknown" where `answered` is false; `reason` says why.
   */
  async classify(imageData) {
    const started = performance.now();
    const pixels = prepare(imageData, this.contract);
    const prepared = performance.now();
    const logits = await this.logits(pixels);
    const executed = performance.now();
    const { outputs, temperature = 1 } = this.contract;
    const probabilities = (outputs === "sigmoid" ? sigmoid : softmax)(logits, temperature);
    const order = Array.from(probabilities.keys());
    order.sort((one, other) => probabilities[other] - probabilities[one]);
    const top = order.slice(0, TOP).map((index) => ({
      id: this.classes[index].id,
      label: this.classes[index].name,
      probability: probabilities[index],
    }));
    const reason = whyUnknown(logits, top[0].probability, this.contract);
    return {
      top,
      label: reason ? "unknown" : top[0].label,
      answered: !reason,
      reason,
      milliseconds: { prepare: prepared - started, network: executed - prepared },
    };
  }

  /** Return the features of an ImageData, a Float32Array; of artifacts exported with `--features`. */
  async embed(imageData) {
    const name = this.contract.features;
    if (!name) throw new Error("This model gives no features; export it with --features.");
    return (await this.run(prepare(imageData, this.contract)))[name].data;
  }

  /** Return the logits, a Float32Array, for the result of `prepare`. */
  async logits(pixels) {
    return (await this.run(pixels))[this.contract.output].data;
  }

  /** Return the outputs by name; a session makes one call at a time. */
  run(pixels) {
    const { name, shape } = this.contract.input;
    const input = new this.ort.Tensor("uint8", pixels, [1, ...shape]);
    const result = this.turn.then(() => this.session.run({ [name]: input }));
    this.turn = result.catch(() => {});
    return result;
  }
}

/** Return a file or blob as ImageData: upright, without colour conversion. */
export async function readImage(blob) {
  const bitmap = await createImageBitmap(blob, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none",
    premultiplyAlpha: "none",
  });
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/**
 * Return the network's input, a Uint8Array of planes: red, green, blue, or grey alone.
 *
 * `imageData` is {data, width, height}, four bytes per pixel. The integer arithmetic is Pillow's, so
 * the result is the same, to the last bit, as Mobilette's in Python with Pillow 13.
 */
export function prepare(imageData, { preprocess, arch }) {
  const [height, width] = size(arch);
  const grey = preprocess.colour === "grey";
  let image = opaque(imageData, grey);
  if (preprocess.resize === "squash") {
    image = resize(image, width, height, preprocess.interpolation);
  } else if (preprocess.resize === "pad") {
    image = pad(image, height, width, preprocess, grey);
  } else {
    image = crop(image, height, width, preprocess);
  }
  return concatenate(image.planes);
}

/** Return the input's height and width in pixels. */
export function size({ resolution }) {
  return Array.isArray(resolution) ? resolution : [resolution, resolution];
}

function crop(image, height, width, { crop_fraction: fraction, interpolation }) {
  const [tall, wide] = [height, width].map((side) => roundHalfEven(side / fraction));
  const longest = Math.min(64, Math.floor(2 ** 27 / (tall * wide)));
  const most = (side, of, by) => Math.max(1, Math.floor((longest * side * of) / by));
  const { width: x, height: y } = image;
  image = centre(image, Math.min(x, most(y, wide, tall)), Math.min(y, most(x, tall, wide)));
  image =
    wide * image.height >= tall * image.width
      ? resize(image, wide, Math.trunc((wide * image.height) / image.width), interpolation)
      : resize(image, Math.trunc((tall * image.width) / image.height), tall, interpolation);
  return centre(image, width, height);
}

function pad(image, outerHeight, outerWidth, preprocess, grey) {
  const scale = Math.min(outerWidth / image.width, outerHeight / image.height);
  const width = Math.max(1, roundHalfEven(image.width * scale));
  const height = Math.max(1, roundHalfEven(image.height * scale));
  image = resize(image, width, height, preprocess.interpolation);
  const mean = preprocess.mean.map((value) => Math.min(Math.max(roundHalfEven(value), 0), 255));
  const fill = preprocess.colour === "bgr" ? mean.reverse() : mean;
  const left = Math.floor((outerWidth - width) / 2);
  const top = Math.floor((outerHeight - height) / 2);
  return place(image, outerWidth, outerHeight, left, top, grey ? fill.slice(0, 1) : fill);
}

/** Crop an image's centre; outside the image it is black. */
function centre(image, width, height) {
  if (image.width === width && image.height === height) return image;
  const left = roundHalfEven((image.width - width) / 2);
  const top = roundHalfEven((image.height - height) / 2);
  return place(image, width, height, -left, -top, [0, 0, 0]);
}

/** Place an image, its corner at (left, top), on a background of width x height and one colour. */
function place(image, width, height, left, top, fill) {
  const from = Math.max(0, -left);
  const to = Math.min(image.width, width - left);
  const planes = image.planes.map((plane, channel) => {
    const placed = new Uint8Array(width * height).fill(fill[channel]);
    for (let y = Math.max(0, top); y < Math.min(height, top + image.height); y++) {
      const row = (y - top) * image.width;
      placed.set(plane.subarray(row + from, row + to), y * width + left + from);
    }
    return placed;
  });
  return { width, height, planes };
}

/** Return the planes of RGBA over white: red, green and blue, or grey. */
function opaque({ data, width, height }, grey) {
  const colours = [0, 1, 2].map((channel) => {
    const plane = new Uint8Array(width * height);
    for (let index = 0, at = channel; index < plane.length; index++, at += 4) {
      const alpha = data[at - channel + 3];
      plane[index] = alpha === 255 ? data[at] : overWhite(data[at], alpha);
    }
    return plane;
  });
  return { width, height, planes: grey ? [luma(...colours)] : colours };
}

/** Return ITU-R 601-2 grey, in 16-bit fixed point. */
function luma(red, green, blue) {
  return red.map((r, index) => (r * 19595 + green[index] * 38470 + blue[index] * 7471 + 32768) >> 16);
}

function overWhite(value, alpha) {
  const sum = value * alpha + 255 * (255 - alpha) + 128;
  return ((sum >> 8) + sum) >> 8;
}

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  // Keys' cubic convolution with a = -0.5
  bicubic: {
    support: 2,
    weight: (x) => {
      const a = -0.5;
      x = Math.abs(x);
      if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
      if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
      return 0;
    },
  },
};
const BITS = 22;

/** Resize an image, antialiased, rounded to bytes after each direction. */
function resize(image, width, height, interpolation) {
  const filter = FILTERS[interpolation];
  const before = image;
  const across = (of) => (of.width === width ? of : resizeRows(of, width, filter));
  const down = (of) => (of.height === height ? of : resizeColumns(of, height, filter));
  // The direction that Pillow 13 resizes first, found by experiment; older versions go across first.
  const tall = before.height > height && before.height - height > 2 * (before.width - width);
  return tall ? across(down(before)) : down(across(before));
}

function resizeRows({ width: old, height, planes }, width, filter) {
  const taps = weights(old, width, filter);
  const [source, target] = [{ line: old, step: 1 }, { line: width, step: 1 }];
  return { width, height, planes: planes.map((plane) => resample(plane, taps, height, source, target)) };
}

function resizeColumns({ width, height: old, planes }, height, filter) {
  const taps = weights(old, height, filter);
  const way = { line: 1, step: width };
  return { width, height, planes: planes.map((plane) => resample(plane, taps, width, way, way)) };
}

/** Return for each of `after` outputs where its inputs begin, and their weights times 2^22. */
function weights(before, after, { support, weight }) {
  const scale = before / after;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: after }, (_, index) => {
    const middle = (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support * stretch + 0.5));
    const end = Math.min(before, Math.trunc(middle + support * stretch + 0.5));
    const values = new Float64Array(end - first);
    let total = 0;
    for (let x = 0; x < values.length; x++) {
      values[x] = weight((x + first - middle + 0.5) * (1 / stretch));
      total += values[x];
    }
    const whole = Int32Array.from(values, (value) => {
      const part = total === 0 ? value : value / total;
      return Math.trunc(part * 2 ** BITS + (part < 0 ? -0.5 : 0.5));
    });
    return { first, whole };
  });
}

/** Return `lines` rows or columns resized; `line` leads to the next one, `step` along it. */
function resample(plane, taps, lines, source, target) {
  const result = new Uint8Array(taps.length * lines);
  for (let index = 0; index < taps.length; index++) {
    const { first, whole } = taps[index];
    for (let line = 0; line < lines; line++) {
      let sum = 1 << (BITS - 1);
      let at = line * source.line + first * source.step;
      for (let tap = 0; tap < whole.length; tap++, at += source.step) {
        sum += plane[at] * whole[tap];
      }
      const value = sum >> BITS;
      result[line * target.line + index * target.step] = value < 0 ? 0 : value > 255 ? 255 : value;
    }
  }
  return result;
}

function concatenate(planes) {
  const all = new Uint8Array(planes.length * planes[0].length);
  planes.forEach((plane, channel) => all.set(plane, channel * plane.length));
  return all;
}

/** Round like Python: halves to even. */
function roundHalfEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

function softmax(logits, temperature) {
  const largest = logits.reduce((one, other) => Math.max(one, other));
  const powers = Float64Array.from(logits, (logit) => Math.exp((logit - largest) / temperature));
  const total = powers.reduce((one, other) => one + other);
  return powers.map((power) => power / total);
}

/** Return why the best class is no answer, or nothing. */
function whyUnknown(logits, probability, { promise, known }) {
  if (known && energy(logits) < known.threshold) return "unlike the known images";
  return promise && probability < promise.threshold ? "not sure enough" : "";
}

function energy(logits) {
  const largest = logits.reduce((one, other) => Math.max(one, other));
  return largest + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0));
}

function sigmoid(logits, temperature) {
  return Float64Array.from(logits, (logit) => 1 / (1 + Math.exp(-logit / temperature)));
}

async function get(url) {
  const response = await fetch(url, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return response;
}

async function getChecked(base, name, contract) {
  const content = await (await get(new URL(name, base))).arrayBuffer();
  await checkHash(content, contract.files[name], name);
  return content;
}

/** Throw unless `content` has the SHA-256 `expected`; insecure pages cannot check it. */
async function checkHash(content, expected, name) {
  if (!globalThis.crypto?.subtle) return;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hex !== expected) throw new Error(`${name}: changed since the export`);
}
