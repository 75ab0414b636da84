import { describe, expect, test } from "vitest";
import { EventReader, readEvents } from "../src/api/event-reader";

const bytes = (text: string) => new TextEncoder().encode(text);

/** As the server sends them: tokens outside ASCII, a comment, several data lines, all three line ends. */
const STREAM = bytes(
  'data: {"content":"Grüße, 世界 🔨"}\n\n' +
    ": keep-alive\n\n" +
    'data: {"content":"two"}\r\n\r\n' +
    "event: message\nid: 7\ndata: first line\ndata: second line\n\n" +
    "data:no space\r\r" +
    "data\n\n" +
    "data: [DONE]\n\n" +
    "data: never finished",
);
const EVENTS = [
  '{"content":"Grüße, 世界 🔨"}',
  '{"content":"two"}',
  "first line\nsecond line",
  "no space",
  "",
  "[DONE]",
];

function read(pieces: Uint8Array[]): string[] {
  const reader = new EventReader();
  return pieces.flatMap((piece) => reader.push(piece));
}

describe("events are the same however the bytes are cut", () => {
  test("in one piece", () => expect(read([STREAM])).toEqual(EVENTS));

  test("byte by byte", () => expect(read([...STREAM].map((byte) => Uint8Array.of(byte)))).toEqual(EVENTS));

  test("in two, at every place", () => {
    for (let at = 0; at <= STREAM.length; at++) {
      expect(read([STREAM.slice(0, at), STREAM.slice(at)]), `cut at ${at}`).toEqual(EVENTS);
    }
  });

  test("in three, at every pair of places", () => {
    for (let first = 0; first <= STREAM.length; first++) {
      for (let second = first; second <= STREAM.length; second++) {
        const pieces = [STREAM.slice(0, first), STREAM.slice(first, second), STREAM.slice(second)];
        if (JSON.stringify(read(pieces)) !== JSON.stringify(EVENTS)) {
          expect.fail(`cut at ${first} and ${second}`);
        }
      }
    }
  });
});

test("events are given out as soon as they are whole", () => {
  const reader = new EventReader();
  expect(reader.push(bytes("data: a\n\nda"))).toEqual(["a"]);
  expect(reader.push(bytes("ta: b\n"))).toEqual([]);
  expect(reader.push(bytes("\n"))).toEqual(["b"]);
});

test("reading ends with the body, and leaving early ends the body", async () => {
  const body = (onCancel: () => void) =>
    new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(bytes("data: a\n\ndata: b\n\n"));
      },
      cancel: onCancel,
    });
  let isCancelled = false;
  for await (const event of readEvents(body(() => (isCancelled = true)))) {
    expect(event).toBe("a");
    break;
  }
  expect(isCancelled).toBe(true);
});
