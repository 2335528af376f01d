// Executes an ONNX model with onnxruntime-web, for a parent process (node_messages.mjs).
//
// The first message is the model; every other one is a batch of pixels, answered with the values of
// the outputs, one output after the other.
// Arguments: the package's file to import, threads, JSON of {input, outputs, shape}.

import { serve } from "./node_messages.mjs";

const [, , runtime, threads, names] = process.argv;
const { input, outputs, shape } = JSON.parse(names);
const size = shape.reduce((one, other) => one * other);
let ort;
let session;

async function open(model) {
  const module = await import(runtime);
  ort = module.InferenceSession ? module : module.default;
  ort.env.logLevel = "error";
  if (threads !== "0") ort.env.wasm.numThreads = Number(threads);
  session = await ort.InferenceSession.create(model);
  return new Uint8Array();
}

async function values(pixels) {
  const batch = new ort.Tensor("uint8", pixels, [pixels.length / size, ...shape]);
  const answers = await session.run({ [input]: batch }, outputs);
  for (const name of outputs) {
    const { type } = answers[name];
    if (type !== "float32") throw new Error(`${name} is ${type}`);
  }
  const parts = outputs.map((name) => answers[name].data);
  if (parts.length === 1) return parts[0];
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  parts.reduce((at, part) => (all.set(part, at), at + part.length), 0);
  return all;
}

await serve((message) => (session ? values : open)(new Uint8Array(message)));
