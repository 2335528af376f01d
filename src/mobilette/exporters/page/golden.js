// Golden images: does the model answer here as the trained network did?

// What `mobilette verify` allows: fp32 this part of the largest logit, the others this much noise.
const MOST_DIFFERENCE = 1e-3;
const LEAST_DECIBELS = 1;

/** Return {inputs, logits} of golden.npz: typed arrays. */
export async function readGolden(content) {
  const arrays = await readNpz(content);
  if (!arrays.inputs || !arrays.logits) throw new Error("golden.npz: no inputs and logits in it");
  return arrays;
}

/**
 * Return {agrees, largest, same, images}: whether the answers to the golden images are the trained
 * network's, the largest difference of a logit, and how many images of how many get the same class.
 */
export async function compare({ inputs, logits }, contract, answer) {
  const classes = contract.classes.length;
  const images = logits.length / classes;
  const size = inputs.length / images;
  let [largest, scale, same, signal, noise] = [0, 1, 0, 0, 0];
  for (let image = 0; image < images; image++) {
    const given = await answer(inputs.slice(image * size, (image + 1) * size));
    const expected = logits.subarray(image * classes, (image + 1) * classes);
    for (let index = 0; index < classes; index++) {
      const difference = Math.abs(given[index] - expected[index]);
      largest = Math.max(largest, Number.isFinite(difference) ? difference : Infinity);
      scale = Math.max(scale, Math.abs(expected[index]));
      signal += expected[index] ** 2;
      noise += difference ** 2;
    }
    same += argmax(given) === argmax(expected);
  }
  const fits =
    contract.precision === "fp32"
      ? largest <= MOST_DIFFERENCE * scale
      : 10 * Math.log10(signal / noise) >= LEAST_DECIBELS;
  return { agrees: fits && largest < Infinity, largest, same, images };
}

function argmax(values) {
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

const KINDS = { "|u1": Uint8Array, "|i1": Int8Array, "<f4": Float32Array };

/** Return the arrays that `numpy.savez` or `savez_compressed` wrote, by name. */
async function readNpz(content) {
  const view = new DataView(content);
  const end = content.byteLength - 22; // without a comment, as numpy writes it
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw new Error("golden.npz: cut short");
  const arrays = {};
  let at = view.getUint32(end + 16, true);
  for (let entries = view.getUint16(end + 10, true); entries > 0; entries--) {
    const [nameLength, extra, comment] = [28, 30, 32].map((by) => view.getUint16(at + by, true));
    const name = new TextDecoder().decode(new Uint8Array(content, at + 46, nameLength));
    const [length, local] = [20, 42].map((by) => view.getUint32(at + by, true));
    const names = view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    const packed = content.slice(local + 30 + names, local + 30 + names + length);
    const deflated = view.getUint16(at + 10, true) === 8;
    arrays[name.replace(/\.npy$/, "")] = readNpy(deflated ? await inflate(packed) : packed);
    at += 46 + nameLength + extra + comment;
  }
  return arrays;
}

async function inflate(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return new Response(stream).arrayBuffer();
}

function readNpy(content) {
  const begin = 10 + new DataView(content).getUint16(8, true);
  const header = new TextDecoder().decode(new Uint8Array(content, 10, begin - 10));
  const kind = KINDS[/'descr': '([^']*)'/.exec(header)?.[1]];
  if (!kind) throw new Error(`golden.npz: ${header}`);
  return new kind(content.slice(begin));
}
