// Answers the parent process that started this script, over stdin and stdout.
//
// A message is a length (uint32, little-endian) and that many bytes. Every answer is framed the same
// way and begins with a byte: 0, or 1 before an error message (UTF-8).

import { writeSync } from "node:fs";

/** Answer every message with the result of `reply`, until stdin ends. */
export async function serve(reply) {
  // Keep modules' own output out of the answers.
  console.log = console.info = console.debug = console.error;
  for await (const message of messages()) {
    try {
      answer(0, await reply(message));
    } catch (error) {
      answer(1, Buffer.from(String(error?.message ?? error)));
    }
  }
  // Modules' threads would keep the process alive.
  process.exit(0);
}

function answer(kind, content) {
  const head = Buffer.alloc(5);
  head.writeUInt32LE(content.byteLength + 1, 0);
  head[4] = kind;
  send(head);
  send(Buffer.from(content.buffer, content.byteOffset, content.byteLength));
}

function send(bytes) {
  for (let sent = 0; sent < bytes.length; ) {
    try {
      sent += writeSync(1, bytes, sent);
    } catch (error) {
      if (error.code !== "EAGAIN") throw error;
    }
  }
}

async function* messages() {
  let waiting = [];
  let length = 0;
  let needed = null;
  for await (const chunk of process.stdin) {
    waiting.push(chunk);
    length += chunk.length;
    while (length >= (needed === null ? 4 : needed)) {
      const all = waiting.length === 1 ? waiting[0] : Buffer.concat(waiting);
      const count = needed === null ? 4 : needed;
      const part = all.subarray(0, count);
      waiting = [all.subarray(count)];
      length -= count;
      if (needed === null) {
        needed = part.readUInt32LE(0);
      } else {
        needed = null;
        yield part;
      }
    }
  }
}
