// Executes an ONNX model with onnxruntime-web, for a parent process (node_messages.mjs).
//
// The first message is the model; every other one is a batch of pixels, answered with logits.
// Arguments: the package's file to import, threads, JSON of {input, output, shape}.

import { serve } from "./node_messages.mjs";

const [, , runtime, threads, names] = process.argv;
const { input, output, shape } = JSON.parse(names);
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

async function logits(pixels) {
  const batch = new ort.Tensor("uint8", pixels, [pixels.length / size, ...shape]);
  const answer = (await session.run({ [input]: batch }, [output]))[output];
  if (answer.type !== "float32") throw new Error(`${output} is ${answer.type}`);
  return answer.data;
}

await serve((message) => (session ? logits : open)(new Uint8Array(message)));
