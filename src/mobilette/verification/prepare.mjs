// Prepares images with a web artifact's module, for a parent process.
//
// A message is width and height (uint32, little-endian) and RGBA; the answer is the network's input.
// Arguments: the module's URL, JSON of {preprocess, arch}.

import { serve } from "../engines/node_messages.mjs";

const [, , module, contract] = process.argv;
const { prepare } = await import(module);

await serve((message) => {
  const [width, height] = [message.readUInt32LE(0), message.readUInt32LE(4)];
  return prepare({ data: message.subarray(8), width, height }, JSON.parse(contract));
});
