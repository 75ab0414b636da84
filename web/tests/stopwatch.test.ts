import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Stopwatch } from "../src/state/stopwatch";

let now = 0;
beforeEach(() => {
  now = 0;
  vi.spyOn(performance, "now").mockImplementation(() => now);
});
afterEach(() => vi.restoreAllMocks());

function measured(...arrivals: [at: number, tokens: number][]): Stopwatch {
  const watch = new Stopwatch();
  for (const [at, tokens] of arrivals) {
    now = at;
    watch.count(tokens);
  }
  return watch;
}

test("the rate is that of the tokens after the first", () => {
  const watch = measured([500, 1], [1000, 50], [1500, 50]);
  expect(watch.firstToken).toBe(0.5);
  expect(watch.rate).toBe(100);
});

test("a reply that came all at once is measured from the beginning", () => {
  expect(measured([25, 1], [25.5, 5]).rate).toBeCloseTo(6 / 0.0255);
});

test("one token has no rate", () => {
  expect(measured().rate).toBeNull();
  expect(measured([10, 1]).rate).toBeNull();
});
